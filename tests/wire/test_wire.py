"""Wire cases: bytes of a request or response, and beside them what must come out.

Each case (cases/*.txt, smuggling/*.txt) runs through the C parsers (driver.c, with sanitizers;
whole, byte by byte and cut everywhere) and through h11. Where h11 decides otherwise the case must
say so (``oracle:``) and who is right and why (``right:``). README.md describes the form.
"""

from __future__ import annotations

import fcntl
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h11
import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
CASES = sorted([*HERE.glob("cases/*.txt"), *HERE.glob("smuggling/*.txt")])
SOURCES = [f"csrc/http/{n}.c" for n in ("h1_parse", "h1_chunked", "field", "target", "framing")]
COMPILE = (
    "gcc -std=gnu11 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    " -Wall -Wextra -Werror -Icsrc"
).split()


@dataclass(frozen=True)
class Case:
    """One case file, read."""

    kind: str
    bytes: bytes
    expected: list[str]
    oracle: str | None
    right: str | None


def unescape(text: str) -> bytes:
    """The bytes of the visible form: \\r \\n \\t \\0 \\\\ \\xNN and <<TEXT*COUNT>>."""
    text = re.sub(r"<<(.+?)\*(\d+)>>", lambda m: m[1] * int(m[2]), text)
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


def read_case(path: Path) -> Case:
    head, _, rest = path.read_text("ascii").partition("\n>>> ")
    assert head.startswith("# "), "a case begins with its reason"
    kind, _, rest = rest.partition("\n")
    wire, _, after = rest.partition("\n===\n")
    lines = [line for line in after.splitlines() if line]
    notes = dict(line.split(": ", 1) for line in lines if line.startswith(("oracle: ", "right: ")))
    expected = [line for line in lines if not line.startswith(("oracle: ", "right: "))]
    return Case(kind, unescape(wire.replace("\n", "")), expected, notes.get("oracle"), notes.get("right"))


@pytest.fixture(scope="session")
def driver() -> Iterator[subprocess.Popen[bytes]]:
    """The running C driver, built when a source is newer than it."""
    folder = ROOT / "build" / "wire"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "driver"
    newest = max(p.stat().st_mtime for p in [HERE / "driver.c", *ROOT.glob("csrc/http/*.[ch]")])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists() or program.stat().st_mtime < newest:
            command = [*COMPILE, "tests/wire/driver.c", *SOURCES, "-o", str(program)]
            subprocess.run(command, cwd=ROOT, check=True)
    process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    assert process.wait(10) == 0


def run_driver(driver: subprocess.Popen[bytes], case: Case) -> list[str]:
    assert driver.stdin is not None and driver.stdout is not None
    driver.stdin.write(f"{case.kind} {len(case.bytes)}\n".encode() + case.bytes)
    driver.stdin.flush()
    lines: list[str] = []
    while (line := driver.stdout.readline()) not in (b".\n", b""):
        lines.append(line.decode("latin-1").removesuffix("\n"))
    return lines


def our_verdict(lines: list[str]) -> str:
    if any(line.startswith("refused: ") for line in lines) or "message: broken" in lines:
        return "refuses"
    if "incomplete" in lines or "message: incomplete" in lines:
        return "waits"
    return "accepts"


def ask_h11(case: Case) -> tuple[str, bytes]:
    """What h11 makes of the same bytes: accepts, refuses or waits, and the content."""
    if case.kind == "request":
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=32768)
    else:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=32768)
        method = "HEAD" if case.kind == "response-to-head" else "GET"
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        connection.send(h11.EndOfMessage())
    content = b""
    try:
        connection.receive_data(case.bytes)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage | h11.InformationalResponse):
                return "accepts", content
            elif event is h11.NEED_DATA or event is h11.PAUSED:
                until_close = type(connection._reader).__name__ == "Http10Reader"
                return ("accepts" if until_close else "waits"), content
            elif isinstance(event, h11.ConnectionClosed):
                return "refuses", content
    except h11.RemoteProtocolError:
        return "refuses", content


def test_enough_cases() -> None:
    assert len(CASES) >= 80
    assert sum(p.parent.name == "smuggling" for p in CASES) >= 30


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_case(path: Path, driver: subprocess.Popen[bytes]) -> None:
    case = read_case(path)
    lines = run_driver(driver, case)
    missing = [line for line in case.expected if line not in lines]
    assert case.expected and not missing, f"missing {missing} in\n" + "\n".join(lines)
    forwarded = [line for line in case.expected if line.startswith(("field: ", "hop: "))]
    if forwarded:
        assert forwarded == [line for line in lines if line.startswith(("field: ", "hop: "))]
    ours = our_verdict(lines)
    theirs, content = ask_h11(case)
    if case.oracle is None:
        assert theirs == ours, f"h11 {theirs}, we: {ours}; say who is right"
        if ours == "accepts" and (mine := [x for x in lines if x.startswith("content: ")]):
            assert mine[0].removeprefix("content: ").encode("latin-1") == content
    else:
        assert case.oracle == theirs, f"h11 {theirs}"
        assert theirs != ours, "h11 agrees by now: drop the oracle line"
        assert case.right and case.right.startswith(("us, ", "h11, "))
