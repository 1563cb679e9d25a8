"""How much memory this process may use: by its cgroup and the ones above it, and by its own limits.

Called by edge/dataplane/main.py before the sandbox is entered, which forbids reading files. The data plane
bounds its buffers and connections by it, so that a limit is met by an answer with 503 and not by the
kernel's killer.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/proc/self/cgroup")
MOUNTS = Path("/sys/fs/cgroup")


def _files(cgroups: str, mounts: Path) -> Iterator[Path]:
    """Each file that may hold a limit: version 2, then version 1, from our own cgroup upwards."""
    for line in cgroups.splitlines():
        _number, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (mounts / "memory", "memory.limit_in_bytes") if controllers else (mounts, "memory.max")
        parts = [part for part in path.split("/") if part]
        # In a container the path may be the host's: what is not there is not looked at.
        for length in range(len(parts), -1, -1):
            yield root.joinpath(*parts[:length], name)


def memory_limit(cgroups: Path = CGROUPS, mounts: Path = MOUNTS) -> int:
    """Shape: bytes, the smallest of all limits; 0 when there is none."""
    found: list[int] = []
    try:
        listed = cgroups.read_text()
    except OSError:
        listed = ""
    for file in _files(listed, mounts):
        try:
            found.append(int(file.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    found += [limit for limit in limits if limit != resource.RLIM_INFINITY]
    smallest = min(found, default=0)
    return smallest if smallest < 1 << 50 else 0  # version 1 says "none" with a large number
