"""Reads an instance's counters all the time: they never go back, and every page of them adds up.

Used by chaos.py beside the traffic. A page that cannot be had (the controller is being replaced), or that
does not name an object yet, is no finding; a smaller figure or a wrong sum is. After a start with fresh
memory, `forget` begins anew.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from tests.e2e.survival.stage import Instance
from tests.fakes.client import Closed

EVERY_S = 0.2
OF_ONE_CONTROLLER = "edge_publishes_total"  # says so in its HELP; it begins anew with each controller


class Watch:
    """A thread that reads /metrics; a context manager."""

    def __init__(self, edge: Instance) -> None:
        self._edge = edge
        self._last: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._paused = False
        self._runnable: list[int] = []
        self.pages = 0
        self.wrong: list[str] = []

    def __enter__(self) -> Watch:
        assert self.look(), "no /metrics before anything happened"
        self._first = dict(self._last)
        self._thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._runnable.append(int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]))
            if not self._paused:
                self.look()

    def look(self) -> bool:
        """Read one page and compare it with the one before; False when there is none."""
        with self._lock:
            try:
                page = self._edge.metrics()
            except (OSError, Closed, ValueError):
                return False
            if "edge_requests_total" not in page:
                return False
            self._compare(page)
            self._last |= page
            self.pages += 1
            return True

    def _compare(self, page: dict[str, float]) -> None:
        for name, before in self._last.items():
            family = name.partition("{")[0]
            now = page.get(name, before)
            counts = family.endswith(("_total", "_count", "_bucket")) and family != OF_ONE_CONTROLLER
            if counts and now < before:
                self._note(f"{name} went back from {before:.0f} to {now:.0f}")
        ended = sum(value for name, value in page.items() if name.startswith("edge_request_outcomes_total{"))
        if page["edge_requests_total"] != ended + page["edge_requests_in_flight"]:
            self._note(
                f"{page['edge_requests_total']:.0f} requests, but {ended:.0f} ended and "
                f"{page['edge_requests_in_flight']:.0f} in flight"
            )

    def _note(self, text: str) -> None:
        if len(self.wrong) < 20:
            self.wrong.append(text)

    def pause(self) -> None:
        """Look at the last page of this memory: until forget(), none is read."""
        self.look()
        self._paused = True

    def forget(self) -> None:
        """The memory is fresh: what is read from now on may be anything."""
        with self._lock:
            self._last = {}
        self._paused = False

    @property
    def crowd(self) -> float:
        """Return how many threads were ready to run on this machine, on average, for each CPU."""
        return sum(self._runnable) / max(len(self._runnable), 1) / (os.cpu_count() or 1)

    def since_start(self, name: str) -> int:
        """Return by how much a counter grew."""
        return int(self._last.get(name, 0) - self._first.get(name, 0))
