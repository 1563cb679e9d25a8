"""The table of the survival program: one line for each action or fault, and what was wrong with it.

Made by chaos.py, faults.py and the stories beside them; printed by `make chaos`. A line is judged by
who makes it: `wrong` names each figure that is not as required, in words; an empty list is a good
line. It measures nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

HEADINGS = (
    "action", "loop", "times", "requests", "outside", "inside", "gap ms", "resets", "refused", "tunnel",
    "denied", "counters", "left",
)  # fmt: skip


@dataclass(slots=True)
class Line:
    """One action or fault, done `times` times under traffic.

    Units: gap_ms is the longest time without any answer. Shape: outside and inside are failed requests
    that were not, and that were, inside a data plane when it was killed; refused is connections that
    were refused, which are no failed requests; denied is packets of the denied source that XDP let through;
    `clients` and `operator` are words, for faults: what each of them saw.
    """

    action: str
    loop: str = "-"
    times: int = 1
    requests: int = 0
    outside: int = 0
    inside: int = 0
    gap_ms: float = 0.0
    resets: int = 0
    refused: int = 0
    tunnel: str = "-"
    denied: int = 0
    counters: str = "-"
    left: str = "-"
    clients: str = ""
    operator: str = ""
    wrong: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Shape: its texts in the order of HEADINGS."""
        return [
            self.action, self.loop, str(self.times), f"{self.requests:,}", str(self.outside),
            str(self.inside), f"{self.gap_ms:.0f}", str(self.resets), str(self.refused), self.tunnel,
            str(self.denied), self.counters, self.left,
        ]  # fmt: skip


def render(lines: Sequence[Line]) -> str:
    """Shape: the table as text, each line followed by what was seen and what was wrong."""
    rows = [list(HEADINGS), *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    text = []
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column in (0, 1, 9, 11, 12) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
        if number == 0:
            text.append("-" * (sum(widths) + 2 * len(widths) - 2))
            continue
        line = lines[number - 1]
        text += [f"    clients saw: {line.clients}"] if line.clients else []
        text += [f"    operator saw: {line.operator}"] if line.operator else []
        text += [f"    WRONG: {reason}" for reason in line.wrong]
    bad = sum(bool(line.wrong) for line in lines)
    text.append(f"{len(lines)} lines, " + (f"{bad} not as required" if bad else "all as required"))
    return "\n".join(text)


def as_json(lines: Iterable[Line]) -> str:
    """Shape: one JSON object a line."""
    return "\n".join(json.dumps(asdict(line)) for line in lines)
