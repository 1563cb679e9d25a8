"""The memory limit of a process: the smallest of its cgroups', whatever their version, and its own."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from edge.dataplane.limits import memory_limit

MIB = 1 << 20


@pytest.fixture(autouse=True)
def no_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (resource.RLIM_INFINITY,) * 2)


def limit(folder: Path, cgroups: str, files: dict[str, str]) -> int:
    (folder / "cgroup").write_text(cgroups)
    for name, text in files.items():
        path = folder / "mounts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return memory_limit(folder / "cgroup", folder / "mounts")


@pytest.mark.parametrize(
    ("cgroups", "files", "expected"),
    [
        ("0::/pod/data\n", {"pod/data/memory.max": "max\n", "pod/memory.max": f"{256 * MIB}\n"}, 256 * MIB),
        ("0::/pod\n", {"pod/memory.max": f"{64 * MIB}\n", "memory.max": f"{256 * MIB}\n"}, 64 * MIB),
        ("0::/\n", {"memory.max": f"{512 * MIB}\n"}, 512 * MIB),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": f"{32 * MIB}\n"}, 32 * MIB),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, 0),
        ("5:cpu,cpuacct:/a\n", {"memory/a/memory.limit_in_bytes": "1\n"}, 0),
        ("0::/not/there\n", {}, 0),
    ],
)
def test_smallest_of_the_cgroups(tmp_path: Path, cgroups: str, files: dict[str, str], expected: int) -> None:
    assert limit(tmp_path, cgroups, files) == expected


def test_own_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {resource.RLIMIT_DATA: 128 * MIB, resource.RLIMIT_AS: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (own[kind], own[kind]))
    assert limit(tmp_path, "0::/\n", {"memory.max": f"{256 * MIB}\n"}) == 128 * MIB
    assert memory_limit(tmp_path / "none", tmp_path) == 128 * MIB
