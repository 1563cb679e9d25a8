"""`edge run` as PID 1 of a PID namespace, as a container runs it: signals, orphans, restarts, the end.

Each story is one instance on loopback in a PID namespace of its own, made by unshare(1).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.proxy import processes
from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod

pytestmark = [pytest.mark.root, pytest.mark.slow]

HOST = "a.example"


class Container(Running):
    """An instance whose holder is PID 1; `process` is unshare, which ends with the holder's status."""

    def command(self) -> list[str]:
        unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [*unshare, *super().command()]

    @property
    def init(self) -> int:
        """Return the pid of the namespace's PID 1 as we see it."""

        def find() -> int | None:
            children = processes.descendants(self.process.pid)[1:]
            return next((pid for pid in children if inner_pid(pid) == 1), None)

        return int(wait_for("PID 1", find, 10))

    def run_inside(self, script: str) -> None:
        """Run a shell in the PID namespace; what it leaves behind is PID 1's."""
        words = ["nsenter", "--target", str(self.init), "--pid", "--mount", "sh", "-c", script]
        subprocess.run(words, check=True, timeout=10)

    def stop(self, seconds: float = 15) -> int:
        """Signal PID 1 from outside, as a runtime does."""
        os.kill(self.init, signal.SIGTERM)
        return self.process.wait(seconds)

    def close(self) -> None:
        """End PID 1; its namespace ends with it."""
        if self.process.poll() is None:
            os.kill(self.init, signal.SIGKILL)
            self.process.wait(10)


def inner_pid(pid: int) -> int:
    """Return the pid that a process has in its own namespace, 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("NSpid:")[2].partition("\n")[0].split()[-1])


def dead_children(pid: int) -> list[str]:
    """Return the names of the children that nobody has waited for."""
    found = []
    for child in processes.descendants(pid)[1:]:
        try:
            stat = Path(f"/proc/{child}/stat").read_text()
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[0] == "Z":
            found.append(stat)
    return found


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "config"
    folder.mkdir()
    with pod("web") as port:
        objects = service("web"), endpoints("web", port), ingress("a", [(HOST, "/", "web")])
        write(folder, "objects.yaml", *objects)
        yield folder


@pytest.fixture
def edge(tmp_path: Path, config: Path) -> Iterator[Container]:
    with Container(tmp_path, config, workers=1) as running:
        assert running.served(HOST) == 200
        yield running


def test_orphans_are_waited_for_and_children_are_not_stolen(edge: Container) -> None:
    edge.run_inside("for i in 1 2 3 4 5 6 7 8; do (true & exec sleep 0.01 &) ; done")
    for round_ in range(3):
        old = edge.pid("edge-data")
        edge.run_inside("(sleep 0.02 &) ; (true &)")
        os.kill(old, signal.SIGKILL)
        edge.run_inside("(sleep 0.01 &) ; (true &)")
        wait_for("another data plane", lambda old=old: edge.holder()["data_pid"] not in ("0", str(old)))
        wait_for("it serves", lambda: edge.served(HOST) == 200)
        count = edge.lines().count("ended (killed by SIGKILL)")
        assert count == round_ + 1, "PID 1 took the status of its own child: " + edge.lines()
    wait_for("no dead process is left", lambda: not dead_children(edge.init))


def test_an_orphan_of_a_killed_controller_is_waited_for(edge: Container) -> None:
    old = edge.pid("edge-controller")
    os.kill(old, signal.SIGKILL)
    wait_for("another controller", lambda: edge.holder()["controller_pid"] != "0" and edge.ready())
    wait_for("no dead process is left", lambda: not dead_children(edge.init))
    assert edge.served(HOST) == 200


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_stop_from_inside_drains_and_ends_with_0(edge: Container, name: str) -> None:
    edge.run_inside(f"kill -{name} 1")
    assert edge.process.wait(15) == 0
    assert edge.served(HOST) == 0


def test_signals_that_mean_nothing_change_nothing(edge: Container) -> None:
    before = edge.holder()
    for name in ("QUIT", "USR2", "PIPE", "ALRM", "WINCH", "TSTP", "KILL", "STOP"):
        edge.run_inside(f"kill -{name} 1")
    after = edge.holder()
    assert edge.served(HOST) == 200
    kept = ("state", "data_pid", "controller_pid", "committed")
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}


def test_hup_reads_the_folder_again_and_reopens_the_log(edge: Container) -> None:
    log = edge.folder / "access.log"
    log.rename(edge.folder / "old.log")
    edge.run_inside("kill -HUP 1")
    wait_for("a new log", log.exists)
    assert edge.served(HOST) == 200


def test_a_stop_that_comes_during_the_start_is_not_lost(tmp_path: Path, config: Path) -> None:
    """From the moment that the process is the holder; PID 1 without a handler would go on for ever."""
    edge = Container(tmp_path, config, workers=1)
    edge.start()
    try:
        wait_for("it is the holder", lambda: processes.command_name(edge.init) == "edge-holder", 10, 0.0005)
        os.kill(edge.init, signal.SIGTERM)
        assert edge.process.wait(15) == 0
    finally:
        edge.close()
