"""What is done to an instance in the survival program: deaths, upgrades, hand-overs, stops, reboots.

Each action is done once by its function, which returns when the instance is well again. What was inside
a data plane when it was killed is written down by those that kill one (Death), from the kernel's
list of accepted connections, so that each failure can be held against it. Used by chaos.py and faults.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.lab import wait_for
from tests.e2e.survival.stage import Stage, wait_end, watched
from tests.e2e.survival.traffic import PORT, TLS_PORT, Event, connections_of_node

TCP_LISTEN = 10  # the state's number, net/tcp_states.h
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
    starved: float = 0.0  # how long the holder and the successor waited for a CPU until it was well again

    def held(self, event: Event) -> bool:
        """Tell whether the connection of a failure was inside the process that died."""
        if event.at < self.listed or event.opened > self.died:
            return False
        return event.port in self.ports or (not self.frozen and event.opened >= self.listed - ACCEPT_S)


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


@dataclass(slots=True, frozen=True)
class Moved:
    """An upgrade of the data plane: from `began` on, its tunnels have the grace period."""

    began: float


def kill_data_plane(stage: Stage, number: int) -> Death:
    """Kill the data plane; every other one is stopped first, so that what it held is exactly known."""
    frozen = number % 2 == 0
    old, holder = stage.edge.pid("edge-data"), stage.edge.pid("edge-holder")
    waited = waited_for_cpu(holder)
    with watched(old) as pidfd:
        if frozen:
            stop_threads(old)
        listed = time.monotonic()
        connections = connections_of_node(stage.lab)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        died = wait_end(pidfd, "the data plane")
    wait_for("another data plane", lambda: stage.edge.status().get("data_pid") not in (None, "0", str(old)))
    stage.edge.wait_well()
    starved = waited_for_cpu(holder) - waited + waited_for_cpu(stage.edge.pid("edge-data"))
    ports = frozenset(one.peer for one in connections if one.own in (PORT, TLS_PORT) and one.inode)
    return Death(listed, died, ports, frozen, starved)


def waited_for_cpu(pid: int) -> float:
    """Return how long a process's first thread was ready and did not run, over its life. Units: seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


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
    edge.end_holder(signal.SIGKILL)
    edge.start()
    same_children(before, edge.wait_well())


def same_children(before: dict[str, str], after: dict[str, str]) -> None:
    """Errors: AssertionError unless there is another holder with the same children."""
    assert after["pid"] != before["pid"], "the holder is the same"
    for child in ("data_pid", "controller_pid"):
        assert after[child] == before[child], f"{child} was {before[child]} and is {after[child]}"


def take_over(stage: Stage, _number: int) -> None:
    """Start a holder beside the living one: it takes the children, the old one ends with 0."""
    edge = stage.edge
    before = edge.wait_well()
    old = edge.process
    edge.options["take_over"] = True
    try:
        with watched(int(before["pid"])) as pidfd:
            edge.start()
            wait_end(pidfd, "the old holder", 20)
    finally:
        edge.options["take_over"] = None
    assert int(before["pid"]) != old.pid or old.wait(5) == 0, f"the old holder ended with {old.returncode}"
    same_children(before, edge.wait_well())


def upgrade_data_plane(stage: Stage, _number: int) -> Moved:
    """Ask for another data plane; the old one drains, its tunnel has the grace period."""
    edge = stage.edge
    began = time.monotonic()
    before = edge.wait_well()
    edge.upgrade("data")
    after = edge.wait_well()
    assert after["data_pid"] != before["data_pid"], "the data plane is the same"
    drained = float(str(edge.options["grace_period"])) + 10
    wait_for("the old data plane has ended", lambda: only_one(stage, "edge-data"), drained)
    return Moved(began)


def only_one(stage: Stage, name: str) -> bool:
    """Tell whether the node has one process of a name."""
    return list(stage.edge.processes().values()).count(name) == 1


def upgrade_controller(stage: Stage, _number: int) -> None:
    """Ask for another controller, and with it the BPF programs."""
    before = stage.edge.wait_well()
    stage.edge.upgrade("controller")
    after = stage.edge.wait_well()
    assert after["controller_pid"] != before["controller_pid"], "the controller is the same"
    assert after["data_pid"] == before["data_pid"], "the data plane is another one"


def upgrade_holder(stage: Stage, _number: int) -> None:
    """Ask for another holder: the old one starts it, and it takes over."""
    before = stage.edge.wait_well()
    with watched(int(before["pid"])) as pidfd:
        stage.edge.upgrade("holder")
        wait_end(pidfd, "the old holder")
    same_children(before, stage.edge.wait_well())


def upgrade_all(stage: Stage, _number: int) -> Moved:
    """`edge upgrade`: holder, controller, data plane, in this order."""
    edge = stage.edge
    began = time.monotonic()
    before = edge.wait_well()
    done = edge.run_command("upgrade")
    assert done.returncode == 0, f"edge upgrade: {done.stdout}{done.stderr}"
    after = edge.wait_well()
    for part in ("pid", "controller_pid", "data_pid"):
        assert after[part] != before[part], f"{part} is the same: {done.stdout}"
    wait_for("the old data plane has ended", lambda: only_one(stage, "edge-data"), 20)
    return Moved(began)


def stop_and_start(stage: Stage, _number: int) -> None:
    """SIGTERM, exit status 0, and `edge run` again."""
    stage.edge.end_holder(signal.SIGTERM)
    stage.edge.start()
    stage.edge.wait_well()


def reboot(stage: Stage, _number: int) -> Outage:
    """Stop, lose pins, run directory and the folder of objects; start with the state directory alone."""
    edge = stage.edge
    edge.end_holder(signal.SIGTERM)
    began = time.monotonic()
    come_up_without_source(stage)
    return Outage(began, time.monotonic())


def power_cut(stage: Stage, _number: int) -> tuple[Death, Outage]:
    """Kill everything at once, then as a reboot: what was inside is lost, nothing else."""
    edge = stage.edge
    holder = edge.pid("edge-holder")
    pids = sorted(edge.processes(), key=lambda pid: pid == holder, reverse=True)
    listed = time.monotonic()
    connections = connections_of_node(stage.lab)
    with contextlib.ExitStack() as stack:
        watches = [stack.enter_context(watched(pid)) for pid in pids]
        for watch in watches:
            signal.pidfd_send_signal(watch, signal.SIGKILL)
        for watch in watches:
            wait_end(watch, "a process")
    # A ring gives its files back a little after its process has ended, listening sockets too.
    wait_for("no listening socket is left", lambda: not listening(stage), 5, 0.001)
    died = time.monotonic()
    edge.process.poll()
    ports = frozenset(
        one.peer for one in connections if one.own in (PORT, TLS_PORT)
    )  # queues go with the sockets
    come_up_without_source(stage)
    return Death(listed, died, ports, False), Outage(listed, time.monotonic())


def listening(stage: Stage) -> bool:
    """Tell whether the kernel still queues connections for us."""
    return any(one.own in (PORT, TLS_PORT) for one in connections_of_node(stage.lab, 1 << TCP_LISTEN))


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
    "upgrade-data": Action("upgrade data plane", upgrade_data_plane, tunnel_ends=True),
    "upgrade-controller": Action("upgrade controller", upgrade_controller, 1.2),
    "upgrade-holder": Action("upgrade holder", upgrade_holder),
    "upgrade-all": Action("edge upgrade", upgrade_all, tunnel_ends=True),
    "stop": Action("SIGTERM, edge run", stop_and_start, stops=True, fresh_memory=True),
    "reboot": Action("reboot without source", reboot, stops=True, fresh_memory=True),
    "power-cut": Action("kill -9 of all, reboot", power_cut, stops=True, fresh_memory=True, kills_data=True),
}
