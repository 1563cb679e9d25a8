"""Parts that are replaced by others while clients ask; those that do not become ready, and the way back."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.proxy import processes
from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, write
from tests.e2e.succession import Succession, nothing_failed, succession, traffic

LONG = bool(os.environ.get("EDGE_LONG"))

pytestmark = [pytest.mark.root, pytest.mark.slow]


MOVES = ("take-over", "data", "kill holder", "controller", "kill both", "holder", "kill controller")


@contextlib.contextmanager
def changing(edge: Succession) -> Iterator[None]:
    """Change routes and endpoints all the time: patches, full images, and again."""
    over = threading.Event()

    def change() -> None:
        number = 0
        while not over.wait(0.03):
            number += 1
            edge.route(f"r{number % 7}")
            slices = endpoints("extra", 9, [f"127.0.0.{1 + number % 200}"])
            write(Path(str(edge.options["config"])), "extra.yaml", slices)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("loop", ["uring", "epoll"])
def test_everything_is_replaced_while_objects_change(tmp_path: Path, loop: str) -> None:
    chance = random.Random(7)
    moves = [chance.choice(MOVES) for _ in range(60)] if LONG else list(MOVES)
    with succession(tmp_path, loop=loop, grace_period=1) as edge:
        with traffic(edge) as seen, changing(edge):
            for move in moves:
                status = edge.wait_well()
                victims = {"kill holder": ("pid",), "kill both": ("pid", "controller_pid")}
                if move == "take-over":
                    edge.take_over()
                elif move == "kill controller":
                    edge.kill(int(status["controller_pid"]))
                elif move in victims:
                    edge.kill(*(int(status[name]) for name in victims[move]))
                    edge.start()
                else:
                    said = steps(edge, move)
                    assert states(said)[-1] == "done", (move, said)
        nothing_failed(seen, tunnel_may_end=True)
        edge.wait_well()
        edge.route("last")
        edge.serves("last")
        assert edge.holder()["data_restarts"] == "0"
        assert edge.metrics()['edge_request_outcomes_total{outcome="lost"}'] == 0


class InContainer(Succession):
    """Every holder is PID 1 of a PID namespace, as in a container."""

    def command(self) -> list[str]:
        return ["unshare", "--pid", "--fork", "--kill-child", *super().command()]

    def first(self, process: subprocess.Popen[bytes]) -> int:
        """Return PID 1 of a container, as we see it."""
        return processes.descendants(process.pid)[1]


def steps(edge: Succession, what: str, executable: object = sys.executable) -> list[tuple[str, str]]:
    """Ask for an upgrade; shape: states and texts, the last is done or failed."""
    said = edge.talk("upgrade", what=what, executable=executable)
    return [(one.fields.get("state", one.verb), one.fields.get("text", "")) for one in said]


def states(said: list[tuple[str, str]]) -> list[str]:
    return [state for state, _ in said]


@pytest.mark.parametrize("loop", ["uring", "epoll"])
def test_edge_upgrade_replaces_all_and_costs_nothing(tmp_path: Path, loop: str) -> None:
    with succession(tmp_path, loop=loop, grace_period=1) as edge:
        before = edge.wait_well()
        with traffic(edge) as seen:
            done = edge.run_command("upgrade")
            assert done.returncode == 0, done.stdout + done.stderr
            after = edge.wait_well()
        nothing_failed(seen, tunnel_may_end=True)
        assert all(before[name] != after[name] for name in ("pid", "data_pid", "controller_pid"))
        assert (after["handovers"], after["upgrades"]) == ("1", "2")
        said = [
            line.partition(":")[0] + line.partition(":")[2].partition(":")[0]
            for line in done.stdout.splitlines()
        ]
        assert said == [
            "holder starting", "holder done", "controller starting", "controller done",
            "data plane starting", "data plane ready", "data plane draining", "data plane done",
        ]  # fmt: skip
        assert sorted(edge.processes().values()) == ["edge-controller", "edge-data", "edge-holder"]
        assert edge.metrics()['edge_request_outcomes_total{outcome="lost"}'] == 0


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Path]:
    """An executable that ends at once."""
    path = tmp_path / "broken"
    path.write_text("#!/bin/sh\nexit 3\n")
    path.chmod(0o755)
    yield path


def test_what_does_not_become_ready_is_rolled_back(tmp_path: Path, broken: Path) -> None:
    with succession(tmp_path) as edge:
        before = edge.wait_well()
        with traffic(edge) as seen:
            for what in ("holder", "data", "controller"):
                said = steps(edge, what, broken)
                assert states(said)[-2:] == ["failed", "failed"], said
                assert "it ended" in said[-2][1], said
                assert steps(edge, what, "/nowhere/python")[-1][0] == "failed"
            after = edge.wait_well()
            edge.route("b")
            edge.serves("b")
        nothing_failed(seen)
        assert (after["pid"], after["data_pid"]) == (before["pid"], before["data_pid"])
        assert after["upgrades"] == "0"
        done = edge.run_command("upgrade")  # and nothing is left of the attempts
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_data_plane_that_dies_while_it_is_upgraded(tmp_path: Path) -> None:
    """Whichever of the two is killed: one serves at the end, and another upgrade works."""
    with succession(tmp_path, grace_period=5) as edge:
        for victim in ("new", "old"):
            before = int(edge.wait_well()["data_pid"])
            with traffic(edge):
                said = edge.talk("upgrade", what="data", executable=sys.executable)
                first = next(said)
                fresh = int(first.fields["text"].removeprefix("pid "))
                edge.kill(fresh if victim == "new" else before)
                ends = [one.fields.get("state", one.verb) for one in said]
            after = int(edge.wait_well()["data_pid"])
            if victim == "new" and ends[-1] == "failed":
                assert after == before
            wait_for("one is left", lambda: edge.named("edge-data") == [after], 10)  # noqa: B023
        assert states(steps(edge, "data"))[-1] == "done"


def test_two_pods_and_one_host_path(tmp_path: Path) -> None:
    """Across PID namespaces the successor starts its own children, and the old data plane drains."""
    with succession(tmp_path, InContainer) as edge:
        assert isinstance(edge, InContainer)
        with traffic(edge) as seen:
            for _ in range(2):
                old = edge.process
                first = edge.first(old)
                edge.options["take_over"] = True
                edge.start()
                wait_for("one data plane is left", lambda: moved(edge, first), 20)  # noqa: B023
                assert old.poll() is None  # a container that ends would be started again
                os.kill(first, signal.SIGTERM)
                assert old.wait(10) == 0
        nothing_failed(seen, tunnel_may_end=True)
        assert edge.metrics()['edge_request_outcomes_total{outcome="lost"}'] == 0
        assert edge.holder()["handovers"] == "2"


def moved(edge: InContainer, first: int) -> bool:
    """Tell whether the processes of a container have left, but for its PID 1."""
    return bool(edge.well()) and processes.descendants(first) == [first] and len(edge.named("edge-data")) == 1


def test_pid_1_hands_on_the_signal_to_stop(tmp_path: Path) -> None:
    with succession(tmp_path, InContainer) as edge:
        assert isinstance(edge, InContainer)
        assert states(steps(edge, "holder"))[-1] == "done"
        assert edge.wait_well()["pid"] != "1"
        os.kill(edge.first(edge.process), signal.SIGTERM)
        assert edge.process.wait(10) == 0
        assert not edge.processes()
        assert not (tmp_path / "run" / edge.name / "control.sock").exists()


def test_a_holder_that_is_pid_1_stays_when_it_is_upgraded(tmp_path: Path) -> None:
    with succession(tmp_path, InContainer) as edge:
        assert isinstance(edge, InContainer)
        first = edge.first(edge.process)
        with traffic(edge) as seen:
            for _ in range(2):
                between = edge.named("edge-holder")
                assert states(steps(edge, "holder"))[-1] == "done"
                edge.wait_well()
            wait_for("the one between has left", lambda: edge.ended(*set(between) - {first}), 10)
            (last,) = set(edge.named("edge-holder")) - {first}
            edge.kill(last)  # and nobody starts another, but PID 1
            wait_for("it is the holder again", lambda: edge.status().get("pid") == "1", 10)
            edge.wait_well()
        nothing_failed(seen)
        status = edge.holder()
        assert (status["handovers"], status["adoptions"]) == ("2", "1")
        os.kill(first, signal.SIGTERM)
        assert edge.process.wait(10) == 0
        assert not edge.processes()
