"""Where one fault happens: an instance on loopback, clients that ask all the time, one line of the table.

Used by faults*.py. The clients are few and slow: they show what one fault costs, not what load does (that
is traffic.py). What is patched in a process of ours, so that a fault can be made at all, is written to
files in the test's folder by Odd, and nowhere else.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.e2e.lab import ROOT, Lab, wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod
from tests.e2e.survival.table import Line
from tests.fakes.client import Client, Closed

HOST = "a.example"
PACE_S = 0.003
PATIENCE_S = 30.0
EXPLAINED_MAX = 3


class Odd(Running):
    """An instance whose processes are started by way of what a fault needs.

    Shape: `in_holder` is Python that the holder runs before it is the holder; `in_child` is Python that its
    children run first, with `module` as what they are to become; `preload` is a library for all of them.
    """

    in_holder = ""
    in_child = ""
    preload = ""

    def command(self) -> list[str]:
        for name, text in self.files().items():
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)
        return [sys.executable, str(self.folder / "holder.py"), *super().command()[1:]]

    def files(self) -> dict[str, str]:
        """Shape: name to text of what is executed in the place of Python."""
        variables = f"export LD_PRELOAD={self.preload} {self.preload_variables()}" if self.preload else ""
        root = f"sys.path.insert(0, {str(ROOT)!r})"
        return {
            # The children are started as: PYTHON -I -m MODULE
            "python": f'#!/bin/sh\n{variables}\nexec {sys.executable} -I {self.folder}/child.py "$3"\n',
            "child.py": (
                f"import runpy, sys\n{root}\nmodule = sys.argv[1]\nsys.argv = sys.argv[:1]\n{self.in_child}\n"
                "runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
            ),
            "holder.py": (
                f"import sys\n{root}\nsys.executable = {str(self.folder / 'python')!r}\n{self.in_holder}\n"
                "from edge.cli.main import main\nsys.exit(main())\n"
            ),
        }

    def preload_variables(self) -> str:
        """Shape: NAME=VALUE for the library."""
        return ""


class Asking:
    """Clients in threads: one with a kept connection, one with a fresh one for each request."""

    def __init__(
        self, edge: Running, *, kept: bool = True, fresh: bool = True, client: type[Client] = Client
    ) -> None:
        self._edge = edge
        self._client = client
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(True,))] if kept else []
        self._threads += [threading.Thread(target=self._run, args=(False,))] if fresh else []
        self.answered_at: list[float] = []
        self.failed: list[str] = []
        self._asked = 0
        self._lock = threading.Lock()

    def _run(self, keep: bool) -> None:
        client: Client | None = None
        while not self._over.is_set():
            began = time.monotonic()
            outcome, over = "", not keep
            try:
                client = client or self._client(self._edge.address, self._edge.port, timeout=PATIENCE_S)
                answer = client.ask(HOST, "/who")
                outcome = "" if answer.status == 200 else f"status {answer.status}"
                over = over or answer.headers.get("connection", "") == "close"
            except (OSError, Closed) as error:
                outcome = f"{type(error).__name__} {error}"
            now = time.monotonic()
            with self._lock:
                self._asked += 1
                if outcome:
                    self.failed.append(f"{'kept' if keep else 'fresh'}: {outcome} after {now - began:.3f} s")
                else:
                    self.answered_at.append(now)
            if client and (outcome or over):
                client.close()
                client = None
            self._over.wait(PACE_S)
        if client:
            client.close()

    def answers(self) -> int:
        """Return how many answers there were so far."""
        return len(self.answered_at)

    def go_on(self, count: int) -> None:
        """Wait for so many answers more."""
        before = self.answers()
        wait_for("requests go on", lambda: self.answers() > before + count)

    def finish(self, line: Line, inside_max: int) -> None:
        """End, and fill in what was seen; so many failures may belong to a data plane that was killed."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        line.requests += self._asked
        inside = min(len(self.failed), inside_max)
        line.inside += inside
        line.outside += len(self.failed) - inside
        line.resets += sum("reset" in text.lower() for text in self.failed)
        line.refused += sum("refused" in text.lower() for text in self.failed)
        times = sorted(self.answered_at)
        gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
        line.gap_ms = max([line.gap_ms, *(gap * 1000 for gap in gaps)])
        line.wrong += [f"failed: {text}" for text in self.failed[inside:][:EXPLAINED_MAX]]
        if not times:
            line.wrong.append("no request was answered")

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


class Scene:
    """One fault on the scene."""

    def __init__(self, edge: Running, line: Line, config: Path) -> None:
        self.edge = edge
        self.line = line
        self.config = config

    def demand(self, condition: object, otherwise: str) -> None:
        """Note what is not as required, and go on."""
        if not condition:
            self.line.wrong.append(otherwise)

    def publish(self, name: str) -> None:
        """Add a route NAME.example to the folder."""
        write(self.config, f"{name}.yaml", ingress(name, [(f"{name}.example", "/", "web")]))

    @contextlib.contextmanager
    def asking(self, inside_max: int = 0, *, kept: bool = True, fresh: bool = True) -> Iterator[Asking]:
        """Ask during a block."""
        with Asking(self.edge, kept=kept, fresh=fresh) as asking:
            yield asking
            asking.finish(self.line, inside_max)


@contextlib.contextmanager
def scene(
    name: str,
    folder: Path,
    loop: str,
    kind: Callable[..., Running] = Running,
    **options: object,
) -> Iterator[Scene]:
    """Run an instance with one route to one pod."""
    config = folder / "config"
    config.mkdir()
    with pod("web") as port:
        objects = service("web"), endpoints("web", port), ingress("a", [(HOST, "/", "web")])
        write(config, "objects.yaml", *objects)
        settings: dict[str, object] = {"loop": loop, "workers": 2, **options}
        with kind(folder, config, **settings) as edge:
            assert edge.served(HOST) == 200
            yield Scene(edge, Line(name, loop), config)


def ask_inside(lab: Lab) -> type[Client]:
    """Make clients whose sockets are in the client's namespace."""

    class Inside(Client):
        def __init__(self, address: str, port: int, *, timeout: float = 10.0) -> None:
            with lab.inside("client1"):
                super().__init__(address, port, timeout=timeout)

    return Inside


@contextlib.contextmanager
def small_disk(place: Path, kib: int) -> Iterator[Path]:
    """Mount a file system of so many KiB."""
    place.mkdir(mode=0o755)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=755", "edge-test", str(place)]
    subprocess.run(mount, check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    """Write until the disk is full; return the file."""
    file = place / "filler"
    with file.open("ab", buffering=0) as sink:
        with contextlib.suppress(OSError):
            while True:
                sink.write(bytes(4096))
        with contextlib.suppress(OSError):
            while True:
                sink.write(b"x")
    return file


def processor_time(place: Path) -> float:
    """Return the processor time that a process or thread (its folder in /proc) has used. Units: seconds."""
    fields = (place / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
