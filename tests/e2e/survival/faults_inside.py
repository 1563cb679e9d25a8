"""Faults inside of our processes: stalls, a wrong clock, a controller that publishes garbage.

As faults.py; these need something patched (scene.py's Odd), or a thread held by ptrace.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.proxy import processes
from bench.proxy.processes import free_port
from tests.e2e.lab import ROOT, wait_for
from tests.e2e.survival.actions import stop_threads
from tests.e2e.survival.garbage import ORDERS
from tests.e2e.survival.scene import HOST, Odd, scene
from tests.e2e.survival.table import Line
from tests.fakes.client import Client

LONG = bool(os.environ.get("EDGE_LONG"))
DAY_S = 86_400
KILL_S = 10.0  # SILENT_S and STALLED_S of the holder
WATCHDOG_S = KILL_S if LONG else 2.0
WORKER_STALLED_S = 3.0  # until the data plane says so


class Watched(Odd):
    """An instance whose holder has less patience, so that a story takes less time."""

    in_holder = f"import edge.holder.data_plane as of\nof.SILENT_S = of.STALLED_S = {WATCHDOG_S}"


def kills(here: object) -> int:
    """Return how many data planes the watchdog has killed."""
    return int(here.edge.holder()["watchdog_kills"])  # type: ignore[attr-defined]


def data_plane_stopped(folder: Path, loop: str) -> Line:
    """SIGSTOP for longer than the watchdog waits: killed, and another one serves what waited."""
    with scene("data plane stopped", folder, loop, Watched) as here:
        edge, line = here.edge, here.line
        with here.asking(inside_max=2) as asking:
            wait_for("requests are answered", lambda: asking.answers() > 20)
            old = edge.pid("edge-data")
            stop_threads(old)
            began = time.monotonic()
            wait_for("the watchdog kills it", lambda: kills(here) == 1, KILL_S + 10)
            took = time.monotonic() - began
            asking.go_on(50)
        here.demand(edge.pid("edge-data") != old, "it was not replaced")
        here.demand(took >= WATCHDOG_S - 1.5, f"killed after {took:.1f} s, which is too soon")
        wait_for("ready", edge.ready)
        here.demand(edge.metrics()["edge_watchdog_kills_total"] == 1, "the metric does not say so")
        line.clients = f"waited {line.gap_ms / 1000:.1f} s; what was inside is lost: {line.inside}"
        line.operator = said(edge.lines(), "silent", here)
        return line


def worker_stalled(folder: Path, loop: str) -> Line:
    """One worker never comes round: the data plane says so, is killed, and another one serves."""
    with scene("worker stalled", folder, loop, Watched) as here:
        edge, line = here.edge, here.line
        old = edge.pid("edge-data")
        words = [sys.executable, "-m", "tests.e2e.survival.hold", str(old), "edge-w0"]
        pipe = subprocess.PIPE
        with (
            here.asking(inside_max=2) as asking,
            subprocess.Popen(words, stdin=pipe, stdout=pipe, cwd=ROOT) as holding,
        ):
            wait_for("requests are answered", lambda: asking.answers() > 20)
            assert holding.stdin is not None and holding.stdout is not None
            holding.stdin.write(b"\n")
            holding.stdin.flush()
            assert holding.stdout.readline() == b"held\n"
            try:
                wait_for("the watchdog kills it", lambda: kills(here) == 1, KILL_S + WORKER_STALLED_S + 10)
                wait_for("another", lambda: edge.holder()["data_pid"] not in ("0", str(old)))
                wait_for("requests are served", lambda: edge.served(HOST) == 200)
            finally:
                holding.stdin.close()
        wait_for("ready", edge.ready)
        here.demand(edge.metrics()["edge_watchdog_kills_total"] == 1, "the metric does not say so")
        line.clients = f"those of one worker waited {line.gap_ms / 1000:.1f} s; inside: {line.inside}"
        line.operator = said(edge.lines(), "come round", here)
        return line


def said(lines: str, word: str, here: object) -> str:
    """Return the line with a word in it."""
    found = [text for text in lines.splitlines() if word in text]
    here.demand(found, f"no line with {word!r} in:\n{lines[-1500:]}")  # type: ignore[attr-defined]
    return found[-1] if found else ""


def clock_jumps(folder: Path, loop: str) -> Line:
    """The time of day jumps a day ahead, then two back, then is right again."""
    library = processes.BUILD / "skew.so"
    source = Path(__file__).parent / "skew.c"
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        processes.BUILD.mkdir(parents=True, exist_ok=True)
        flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run(["gcc", *flags, str(source), "-o", str(library)], check=True)
    skew = folder / "skew"
    skew.write_bytes(struct.pack("q", 0))
    folder.chmod(0o755)
    tls = free_port()

    class Skewed(Odd):
        preload = str(library)

        def preload_variables(self) -> str:
            return f"EDGE_SKEW={skew}"

        def start(self) -> None:
            self.environment = {"LD_PRELOAD": self.preload, "EDGE_SKEW": str(skew)}
            super().start()

    options = {"https": f"127.0.0.1:{tls}", "log_format": "json"}
    with scene("clock jumps a day", folder, loop, Skewed, **options) as here:
        edge, line = here.edge, here.line
        log = folder / "access.log"
        dates = []
        with here.asking() as asking:
            for number, seconds in enumerate((DAY_S, -DAY_S, 0)):
                with skew.open("r+b") as file:  # in place: it is mapped
                    file.write(struct.pack("q", seconds))
                wanted = time.strftime("%Y-%m-%d", time.gmtime(time.time() + seconds))
                wait_for("log lines follow", lambda wanted=wanted: wanted in last_line(log))
                dates.append(wanted)
                here.publish(f"r{number}")
                wait_for("a change is served", lambda n=number: edge.served(f"r{n}.example") == 200)
                with Client("127.0.0.1", tls, tls_name=HOST) as client:
                    here.demand(client.ask(HOST).status == 200, "TLS is not served")
                asking.go_on(50)
        here.demand(kills(here) == 0, "the watchdog killed something")
        here.demand(edge.holder()["controller_restarts"] == "0", "the controller ended")
        page = edge.metrics()
        here.demand(page["edge_request_duration_seconds_count"] > 100, "no durations are counted")
        slow = (
            page["edge_request_duration_seconds_count"]
            - page['edge_request_duration_seconds_bucket{le="8.38861"}']
        )
        here.demand(slow == 0, f"{slow:.0f} requests took longer than 8 s, by the wrong clock")
        line.clients = "nothing"
        line.operator = f"log lines of {', '.join(dates)}"
        return line


def last_line(log: Path) -> str:
    """Return the last whole line."""
    lines = log.read_text().splitlines(keepends=True)
    return next((text for text in reversed(lines) if text.endswith("\n")), "")


def garbage_published(folder: Path, loop: str) -> Line:
    """The controller publishes what is no image: refused each time, the running version stays."""
    order = folder / "order"

    class Spoiling(Odd):
        in_child = (
            "if module == 'edge.controller':\n    from pathlib import Path\n"
            f"    from tests.e2e.survival import garbage\n    garbage.obey(Path({str(order)!r}))"
        )

    with scene("garbage published", folder, loop, Spoiling) as here:
        edge, line = here.edge, here.line
        data = edge.pid("edge-data")
        with here.asking() as asking:
            for number, what in enumerate(ORDERS):
                fresh = folder / "order.new"
                fresh.write_text(what)
                fresh.rename(order)
                here.publish(f"r{number}")
                wait_for(f"{what} is published", lambda: not order.exists())
                asking.go_on(10)
                here.publish(f"s{number}")  # another change: what was left out for it is tried again
                wait_for(f"served after {what}", lambda n=number: edge.served(f"s{n}.example") == 200, 10)
        here.demand(edge.pid("edge-data") == data, "the data plane was replaced")
        words = re.findall(r"version \d+ was refused: ([^\n]*)", edge.lines())
        here.demand(len(words) == len(ORDERS), f"{len(words)} of {len(ORDERS)} were refused: {words}")
        counted = edge.metrics()['edge_publishes_total{kind="failed"}']
        here.demand(counted == len(ORDERS), f"{counted} of {len(ORDERS)} were counted")
        line.clients = "nothing"
        line.operator = "was refused: " + ", ".join(sorted(set(words)))
        return line


FAULTS: dict[str, Callable[[Path, str], Line]] = {
    one.__name__: one for one in (data_plane_stopped, worker_stalled, clock_jumps, garbage_published)
}
