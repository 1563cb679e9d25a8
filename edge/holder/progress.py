"""How far a drain is, on the operator's terminal, or as plain lines where there is none.

Called by holder/drain.py with what the data planes say while they drain. rich is imported only for a
terminal. Never a thread, never a question: it is drawn when there is something new to draw.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from edge.holder.log import say

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_EVERY_S = 5.0


class DrainProgress:
    """One drain. Units: seconds of the monotonic clock."""

    def __init__(self, grace_s: float, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._until = time.monotonic() + grace_s
        self._told_at = float("-inf")
        self._left: dict[int, tuple[int, int]] = {}  # by data plane: exchanges, tunnels
        self._live: Live | None = None
        if self._out.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._out, highlight=False)
            self._live = Live(self._text(), console=console, auto_refresh=False, transient=True)
            self._live.start(refresh=True)

    def heard(self, pid: int, exchanges: int, tunnels: int) -> None:
        """Take what a data plane said of itself."""
        self._left[pid] = (exchanges, tunnels)
        self._tell()

    def gone(self, pid: int) -> None:
        """Count a data plane no more."""
        self._left.pop(pid, None)

    def _text(self) -> str:
        exchanges, tunnels = (sum(one[kind] for one in self._left.values()) for kind in (0, 1))
        seconds = max(self._until - time.monotonic(), 0)
        if not self._left:
            return f"draining for at most {seconds:.0f} s"
        return (
            f"draining: {exchanges} exchange{'' if exchanges == 1 else 's'} and "
            f"{tunnels} tunnel{'' if tunnels == 1 else 's'} left, {seconds:.0f} s of the grace period"
        )

    def _tell(self) -> None:
        if self._live is not None:
            self._live.update(self._text(), refresh=True)
            return
        now = time.monotonic()
        if now >= self._told_at + PLAIN_EVERY_S:
            self._told_at = now
            say(self._text())

    def end(self) -> None:
        """Clear the terminal's line; twice is harmless."""
        if self._live is not None:
            self._live.stop()
            self._live = None
