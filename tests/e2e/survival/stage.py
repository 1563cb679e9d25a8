"""Where the survival program happens: a node with pods and clients in namespaces, one instance on it.

Used by actions.py, faults.py and chaos.py. Whatever runs in the node's namespace is ours: by that
processes are found again when their holder is gone, counted and ended. It knows the instance as an
operator does: by its command line, its control socket, its admin API and what the kernel shows.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, netns

from bench.proxy import processes
from edge.messages import receive, send
from tests.e2e.lab import ADDRESS, ROOT, Lab, give, wait_for
from tests.e2e.objects import endpoints, ingress, policy, service, write
from tests.e2e.running import EDGE, Running
from tests.e2e.survival.traffic import (
    CLIENT_ROLE,
    DENIED,
    DENIED_ROLE,
    HOST,
    LISTENING,
    PORT,
    TLS_PORT,
    connections_of_node,
)
from tests.fakes.client import Closed

FAST_BODY = 128  # client.c knows it
PODS_SECONDS_MAX = 3600
MEMORY_GROWTH, MEMORY_SLACK_KIB = 1.05, 2048  # Python's heaps are not the same twice


class Instance(Running):
    """One instance on the node over all its holders, controllers and data planes."""

    @property
    def pins(self) -> Path:
        """Return where its BPF objects are pinned."""
        return Path("/sys/fs/bpf/edge") / self.name

    def processes(self) -> dict[int, str]:
        """Return the living processes of the node's namespace that are edge's, with their names."""
        assert self.lab is not None
        here = os.stat(f"/run/netns/{self.lab.name('node')}").st_ino
        found = {}
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(name)
                if os.stat(f"/proc/{pid}/ns/net").st_ino == here:
                    comm = processes.command_name(pid)
                    if comm.startswith("edge") and process_state(pid) not in "ZX":
                        found[pid] = comm
        return found

    def pid(self, name: str) -> int:
        """Return the present process of a name, as the holder names it."""
        fields = {"edge-data": "data_pid", "edge-controller": "controller_pid", "edge-holder": "pid"}
        return int(wait_for(f"a {name}", lambda: int(self.status().get(fields[name], "0") or 0), 10))

    def status(self) -> dict[str, str]:
        """Return what the holder says of itself; empty while there is none."""
        try:
            return self.holder()
        except (OSError, AssertionError):
            return {}

    def well(self) -> dict[str, str]:
        """Return the holder's status when all parts are up and the committed version is served."""
        status = self.status()
        serving = status.get("serving", "0")
        if status.get("data_state") != "up" or serving == "0" or serving != status.get("committed"):
            return {}
        try:
            if self.admin("/readyz").status != 200:
                return {}
            # Readiness speaks of the data plane; a controller that has XDP has done all of its start.
            attached = self.options["xdp"] == "off" or self.metrics().get("edge_xdp_attached") == 1
            return status if attached else {}
        except (OSError, Closed, AssertionError, ValueError):
            return {}

    def wait_well(self, seconds: float = 20) -> dict[str, str]:
        """Wait until it is well; return the holder's status. Errors: AssertionError with its last words."""
        try:
            return dict(wait_for(f"{self.name} is well", self.well, seconds))
        except AssertionError as error:
            raise AssertionError(f"{error}; it said:\n{self.lines()[-3000:]}") from None

    def start(self) -> None:
        """Start it; a holder of ours that ended since the last start (it was taken over) is waited for."""
        with contextlib.suppress(AttributeError):
            self.process.poll()
        super().start()

    def end_holder(self, number: signal.Signals, seconds: float = 20) -> None:
        """Send the present holder a signal and wait for its end; one that we started ends with 0 or by it."""
        pid = self.pid("edge-holder")
        with watched(pid) as pidfd:
            signal.pidfd_send_signal(pidfd, number)
            wait_end(pidfd, "the holder", seconds)
        if pid == self.process.pid:
            status = self.process.wait(5)
            assert status in (0, -number), f"edge run ended with {status}"

    def upgrade(self, what: str, executable: str = sys.executable, seconds: float = 60) -> list[str]:
        """Ask the holder to upgrade a part; return what it said. Errors: AssertionError when it failed."""
        path = Path(str(self.options["run_dir"])) / self.name / "control.sock"
        said: list[str] = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
            control.settimeout(seconds)
            control.connect(str(path))
            send(control, "upgrade", what=what, executable=executable)
            while answer := receive(control):
                said.append(" ".join([answer.verb, *answer.fields.values()]))
                if answer.verb in ("done", "failed", "refused"):
                    break
        assert said and said[-1].startswith("done"), f"upgrade of {what}: {said}"
        return said

    def run_command(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run another `edge` command on this instance, in its namespace."""
        where = ["--instance", self.name, "--run-dir", self.options["run_dir"]]
        with self.inside():
            return subprocess.run(
                [str(word) for word in (EDGE, *words, *where)], capture_output=True, text=True, cwd=ROOT
            )

    def close(self) -> None:
        """End every process of the node's namespace and detach what they leave in the kernel."""
        for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, number)
            deadline = time.monotonic() + patience
            while self.processes() and time.monotonic() < deadline:
                self.process.poll()
                time.sleep(0.02)
        self.process.wait(5)
        if self.options["xdp"] != "off":
            done = self.run_command("detach")
            assert done.returncode == 0, done.stderr


class Stage:
    """Lab, pods, objects and instance; a context manager. Serves HOST to the client, never to DENIED."""

    def __init__(self, folder: Path, loop: str, **options: object) -> None:
        self.folder = folder
        self.config = folder / "config"
        self.lab = Lab(clients=2, pods=2)
        settings: dict[str, object] = {
            "xdp": "native", "interface": self.lab.interfaces(), "loop": loop, "workers": 2,
            "grace_period": 1, "https": f"{ADDRESS}:{TLS_PORT}", **options,
        }  # fmt: skip
        self.edge = Instance(folder, self.config, lab=self.lab, http=f"{ADDRESS}:{PORT}", **settings)

    def __enter__(self) -> Stage:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.lab)
            self._prepare()
            stack.enter_context(self.edge)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._stack.__exit__(*reason)

    def _prepare(self) -> None:
        lab = self.lab
        with lab.inside(CLIENT_ROLE):
            # New connections at this rate use up the usual range within two minutes of TIME_WAIT.
            Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("10000 65000")
        with lab.inside(DENIED_ROLE), IPRoute() as route:
            give(route, "eth0", DENIED, 32)
        fast = [processes.compile_tool("origin"), lab.pod_address(1), 8080, FAST_BODY, PODS_SECONDS_MAX]
        lab.start("pod1", "pod fast", fast)
        lab.start_pod(2, "checked")
        self.write_objects()

    def write_objects(self) -> None:
        """Put the folder of objects in its place, whole: half of it would be another configuration."""
        fresh = self.config.with_name("config.new")
        fresh.mkdir()
        names = {"fast": 1, "checked": 2}
        for name, number in names.items():
            slices = endpoints(name, 8080, [self.lab.pod_address(number)])
            write(fresh, f"{name}.yaml", service(name), slices)
        checked = [(HOST, path, "checked") for path in ("/echo", "/bytes", "/tunnel")]
        write(fresh, "ingress.yaml", ingress("web", [(HOST, "/", "fast"), *checked]))
        write(fresh, "policy.yaml", policy(deny=[f"{DENIED}/32"]))
        fresh.rename(self.config)


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


def process_state(pid: int) -> str:
    """Return the state letter of a process, X when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


@dataclass(slots=True, frozen=True)
class Belongings:
    """What an instance uses of the machine. Units: resident in KiB. Connections are not counted."""

    descriptors: dict[str, int]
    resident: dict[str, int]
    pins: int
    namespaces: int
    processes: int

    @classmethod
    def of(cls, edge: Instance) -> Belongings:
        """Count them now."""
        descriptors: dict[str, int] = {}
        resident: dict[str, int] = {}
        running = edge.processes()
        assert edge.lab is not None
        with edge.lab.inside("node"):
            unix = Path("/proc/thread-self/net/unix").read_text().splitlines()[1:]
        kept = {int(line.split()[6]) for line in unix}
        kept |= {one.inode for one in connections_of_node(edge.lab, LISTENING)}
        sockets = {f"socket:[{inode}]" for inode in kept}
        for pid, name in running.items():
            count = 0
            for path in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):  # a connection that has just ended
                    link = os.readlink(path)
                    count += link in sockets or not link.startswith("socket:")
            descriptors[name] = descriptors.get(name, 0) + count
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            resident[name] = resident.get(name, 0) + pages * os.sysconf("SC_PAGE_SIZE") // 1024
        namespaces = [name for name in netns.listnetns() if name.startswith(edge.lab.prefix)]
        pins = sum(path.is_file() or path.is_symlink() for path in edge.pins.rglob("*"))
        return cls(descriptors, resident, pins, len(namespaces), len(running))

    def change(self, later: Belongings) -> str:
        """Shape: `fds +0 mem +12K pins +0 procs +0`."""
        memory = sum(later.resident.values()) - sum(self.resident.values())
        return (
            f"fds {sum(later.descriptors.values()) - sum(self.descriptors.values()):+d} mem {memory:+d}K "
            f"pins {later.pins - self.pins:+d} procs {later.processes - self.processes:+d}"
        )

    def grown(self, later: Belongings) -> list[str]:
        """Name what is more, or less, later: connections and memory apart, nothing may be."""
        wrong = [
            f"{name} has {later.descriptors.get(name, 0)} descriptors, after the first time {count}"
            for name, count in self.descriptors.items()
            if later.descriptors.get(name, 0) != count
        ]
        for what in ("pins", "namespaces", "processes"):
            if getattr(self, what) != getattr(later, what):
                wrong.append(f"{getattr(later, what)} {what}, after the first time {getattr(self, what)}")
        return wrong

    def heavier(self, later: Belongings) -> list[str]:
        """Name the processes that use more memory later."""
        return [
            f"{name} uses {later.resident.get(name, 0)} KiB, after the first time {before}"
            for name, before in self.resident.items()
            if later.resident.get(name, 0) > before * MEMORY_GROWTH + MEMORY_SLACK_KIB
        ]
