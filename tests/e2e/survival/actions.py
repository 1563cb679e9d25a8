"""What is done to an instance in the survival program: deaths, upgrades, hand-overs, stops, reboots.

Each action is done once by its function, which returns when the instance is well again. What was inside
a data plane when it was killed is written down by those that kill one (Death), from the kernel's
list of accepted connections, so that each failure can be held against it. Used by chaos.py and faults.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.lab import wait_for
from tests.e2e.survival.stage import Stage
from tests.e2e.survival.traffic import PORT, Event, connections_of_node

ACCEPT_S = 0.05  # a connection opened this long before the list may have been accepted just after it


@dataclass(slots=True, frozen=True)
class Death:
    """A data plane's kill -9. Units: seconds, monotonic.

    Shape: ports are the client's of all connections that the process had accepted just after `listed`. Where
    it was stopped before (`frozen`), it accepted none after that, so the list is whole; else one that was
    opened between the list and the end may have been accepted too, and was if it had an answer.
    """

    listed: float
    died: float
    ports: frozenset[int]
    frozen: bool

    def held(self, event: Event) -> bool:
        """Tell whether the connection of a failure was inside the process that died."""
        if event.at < self.listed or event.opened > self.died:
            return False
        return event.port in self.ports or (not self.frozen and event.opened >= self.listed - ACCEPT_S)


@contextlib.contextmanager
def watched(pid: int) -> Iterator[int]:
    """Yield a pidfd."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def wait_end(pidfd: int, what: str, seconds: float = 15) -> float:
    """Wait until a process has ended; return when that was seen."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(seconds * 1000), f"{what} has not ended within {seconds} s"
    return time.monotonic()


def stop_threads(pid: int) -> None:
    """Stop a process and wait until no thread of it runs."""
    os.kill(pid, signal.SIGSTOP)

    def stopped() -> bool:
        stats = Path(f"/proc/{pid}/task").glob("*/stat")
        return {stat.read_text().rpartition(")")[2].split()[0] for stat in stats} == {"T"}

    wait_for("the process is stopped", stopped, 5, 0.0005)


@dataclass(slots=True, frozen=True)
class Outage:
    """When nothing of the instance was there, XDP included: denied packets reach a node without sockets.

    Units: seconds, monotonic.
    """

    began: float
    ended: float


def kill_data_plane(stage: Stage, number: int) -> Death:
    """Kill the data plane; every other one is stopped first, so that what it held is exactly known."""
    frozen = number % 2 == 0
    old = stage.edge.pid("edge-data")
    with watched(old) as pidfd:
        if frozen:
            stop_threads(old)
        listed = time.monotonic()
        connections = connections_of_node(stage.lab)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        died = wait_end(pidfd, "the data plane")
    wait_for("another data plane", lambda: stage.edge.status().get("data_pid") not in (None, "0", str(old)))
    stage.edge.wait_well()
    ports = frozenset(one.peer for one in connections if one.own == PORT and one.inode)
    return Death(listed, died, ports, frozen)


def kill_controller(stage: Stage, _number: int) -> None:
    """Kill the controller; it is well again when its successor answers."""
    old = stage.edge.pid("edge-controller")
    with watched(old) as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        wait_end(pidfd, "the controller")
    wait_for(
        "another controller", lambda: stage.edge.status().get("controller_pid") not in (None, "0", str(old))
    )
    stage.edge.wait_well()


def kill_holder(stage: Stage, _number: int) -> None:
    """Kill the holder and start `edge run` again: it adopts the children."""
    edge = stage.edge
    before = edge.wait_well()
    edge.process.send_signal(signal.SIGKILL)
    edge.process.wait(10)
    edge.start()
    after = edge.wait_well()
    for child in ("data_pid", "controller_pid"):
        assert after[child] == before[child], f"{child} {before[child]} was not adopted: {after[child]}"


def take_over(stage: Stage, _number: int) -> None:
    """Start a holder beside the living one: it takes the children, the old one ends with 0."""
    edge = stage.edge
    before = edge.wait_well()
    old = edge.process
    edge.options["take_over"] = True
    try:
        edge.start()
    finally:
        edge.options["take_over"] = None
    assert old.wait(20) == 0, f"the old holder ended with {old.returncode}"
    after = edge.wait_well()
    assert after["pid"] != before["pid"]
    for child in ("data_pid", "controller_pid"):
        assert after[child] == before[child], f"{child} {before[child]} was not taken over: {after[child]}"


def stop_and_start(stage: Stage, _number: int) -> None:
    """SIGTERM, exit status 0, and `edge run` again."""
    status = stage.edge.stop()
    assert status == 0, f"edge run ended with {status}"
    stage.edge.start()
    stage.edge.wait_well()


def reboot(stage: Stage, _number: int) -> Outage:
    """Stop, lose pins, run directory and the folder of objects; start with the state directory alone."""
    edge = stage.edge
    status = edge.stop()
    assert status == 0, f"edge run ended with {status}"
    began = time.monotonic()
    come_up_without_source(stage)
    return Outage(began, time.monotonic())


def power_cut(stage: Stage, _number: int) -> tuple[Death, Outage]:
    """Kill everything at once, then as a reboot: what was inside is lost, nothing else."""
    edge = stage.edge
    pids = sorted(edge.processes(), key=lambda pid: pid == edge.process.pid, reverse=True)
    listed = time.monotonic()
    connections = connections_of_node(stage.lab)
    with contextlib.ExitStack() as stack:
        watches = [stack.enter_context(watched(pid)) for pid in pids]
        for watch in watches:
            signal.pidfd_send_signal(watch, signal.SIGKILL)
        edge.process.wait(10)
        died = max(wait_end(watch, "a process") for watch in watches)
    ports = frozenset(one.peer for one in connections if one.own == PORT)  # queues go with the sockets
    come_up_without_source(stage)
    return Death(listed, died, ports, False), Outage(listed, time.monotonic())


def come_up_without_source(stage: Stage) -> None:
    """Start on a machine that has only the state directory; give the objects back when it is well."""
    edge = stage.edge
    done = edge.run_command("detach")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(str(edge.options["run_dir"]))
    shutil.rmtree(stage.config)
    edge.start()
    edge.wait_well()
    stage.write_objects()


@dataclass(slots=True, frozen=True)
class Action:
    """One line of the table: what is done, and what clients may notice of it."""

    name: str
    do: Callable[[Stage, int], object]
    settle_s: float = 0.3  # between two of them
    kills_data: bool = False
    stops: bool = False  # refused connections are no failures, the tunnel ends
    fresh_memory: bool = False  # counters begin anew
    tunnel_ends: bool = False  # with the grace period


ACTIONS: dict[str, Action] = {
    "kill-data": Action("kill -9 data plane", kill_data_plane, 1.2, kills_data=True),
    "kill-controller": Action("kill -9 controller", kill_controller, 1.2),
    "kill-holder": Action("kill -9 holder, edge run", kill_holder),
    "take-over": Action("edge run --take-over", take_over),
    "stop": Action("SIGTERM, edge run", stop_and_start, stops=True, fresh_memory=True),
    "reboot": Action("reboot without source", reboot, stops=True, fresh_memory=True),
    "power-cut": Action("kill -9 of all, reboot", power_cut, stops=True, fresh_memory=True, kills_data=True),
}
