"""Where a Kubernetes of the tests lives on this machine, and how all of it is removed again.

Everything carries one name, edge-kube-PID of the process that owns it: the folder of state, network
namespaces, cgroups. So two can run side by side, and what a killed owner left is found by its name:
sweep() at the next start removes it. A process belongs to us when it is in one of our namespaces.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import netns

NAME = re.compile(r"(edge-kube-(\d+))(?:-\w+)?")
CGROUPS = Path("/sys/fs/cgroup")


class PlaceError(Exception):
    """Something of a place could not be made or removed."""


class Place:
    """The name, the folder and the namespaces of one Kubernetes."""

    def __init__(self, owner: int | None = None) -> None:
        self.name = f"edge-kube-{owner or os.getpid()}"
        self.run = Path(tempfile.gettempdir()) / self.name

    def make(self) -> None:
        """Make the folder of state."""
        self.run.mkdir(mode=0o755)
        for part in ("logs", "images", "keys", "control"):
            (self.run / part).mkdir()

    def namespace(self, role: str) -> str:
        """Return the name of a role's network namespace under /run/netns."""
        return f"{self.name}-{role}"

    def log(self, name: str) -> Path:
        """Return where a daemon writes its log."""
        return self.run / "logs" / f"{name}.log"

    def remove(self) -> list[str]:
        """End every process, and remove namespaces, cgroups and the folder; return what is left."""
        left = end_all(self.processes)
        for name in self.namespaces():
            netns.remove(name)
        for _attempt in range(50):  # a cgroup is empty only when its last process was reaped
            if not (remaining := self.cgroups()):
                break
            for path in remaining:
                with contextlib.suppress(OSError):
                    path.rmdir()
            time.sleep(0.05)
        shutil.rmtree(self.run, ignore_errors=True)
        left += [str(path) for path in self.cgroups()]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        left += [line.split()[4] for line in mounts if belongs_in(line, self.name)]
        if self.run.exists():
            left.append(str(self.run))
        return left

    def namespaces(self) -> list[str]:
        """List our network namespaces by name."""
        return [name for name in netns.listnetns() if belongs(name, self.name)]

    def processes(self) -> list[int]:
        """List the processes inside our network namespaces, whoever started them."""
        inodes = {os.stat(f"/run/netns/{name}").st_ino for name in self.namespaces()}
        return [pid for pid, inode in network_of_all() if inode in inodes and pid != os.getpid()]

    def cgroups(self) -> list[Path]:
        """List our cgroups of all hierarchies, the deepest first."""
        roots = [path for path in hierarchies() for path in path.glob(f"{self.name}-*")]
        found = [Path(there) for root in roots for there, _folders, _files in os.walk(root)]
        return sorted(found, key=lambda path: -len(path.parts))


def belongs(name: str, owner: str) -> bool:
    """Say whether a namespace, cgroup or folder carries an owner's name."""
    match = NAME.fullmatch(name)
    return match is not None and match[1] == owner


def belongs_in(line: str, owner: str) -> bool:
    """Say whether a line of a table speaks of something that carries an owner's name."""
    return any(match[1] == owner for match in NAME.finditer(line))


def network_of_all() -> Iterator[tuple[int, int]]:
    """Give each process and the inode of its network namespace; kernel threads and the dead are left out."""
    for text in os.listdir("/proc"):
        if text.isdigit():
            with contextlib.suppress(OSError):
                yield int(text), os.stat(f"/proc/{text}/ns/net").st_ino


def end_all(processes: object) -> list[str]:
    """Kill what `processes` lists until it lists nothing; return who did not die in time."""
    deadline = time.monotonic() + 20
    assert callable(processes)
    while pids := processes():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            return [f"process {pid}" for pid in pids]
        time.sleep(0.02)
    return []


def sweep() -> list[str]:
    """Remove what killed owners left; return their names."""
    names = [*netns.listnetns(), *os.listdir(tempfile.gettempdir())]
    for path in hierarchies():
        names += os.listdir(path)
    swept = set()
    for name in names:
        match = NAME.fullmatch(name)
        if match and match[1] not in swept and not Path("/proc", match[2]).exists():
            Place(int(match[2])).remove()
            swept.add(match[1])
    return sorted(swept)


# ---- Cgroups -------------------------------------------------------------------------------------


def hierarchies() -> list[Path]:
    """List the roots of cgroup hierarchies: the one of version 2, or each controller's of version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]


def make_cgroup(name: str) -> None:
    """Make a cgroup in every hierarchy; one that is there is emptied of its dead children.

    Stale cgroups of a node that lost its power cost the kubelet 3 s each.
    """
    for root in hierarchies():
        path = root / name
        for there, _folders, _files in os.walk(path, topdown=False):
            if Path(there) != path:
                with contextlib.suppress(OSError):
                    os.rmdir(there)
        path.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (root / setting).exists():
                (path / setting).write_text((root / setting).read_text())
