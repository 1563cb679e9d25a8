"""The plane with the capabilities that the controller has, and not one more: compile, reopen, update.

Each run is a child that drops the rest by the controller's own call; root alone would hide a lookup by
id, which takes CAP_SYS_ADMIN.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.errors import XdpError
from edge.xdp import link, syscalls
from edge.xdp.compiler import stored_object
from edge.xdp.object import LAYOUT_PIN, layout_digests, load
from edge.xdp.pins import pins_of
from edge.xdp.plane import XdpPlane, detach
from tests.e2e.lab import inside

pytestmark = [pytest.mark.root, pytest.mark.slow]

AS_CONTROLLER = """
import json, sys
from pathlib import Path
from edge import privileges
privileges.keep_capabilities(privileges.CONTROLLER_KEEPS)
from edge.xdp.plane import XdpPlane
plane = XdpPlane.open(sys.argv[1], ["edge0"], "native", cache=Path(sys.argv[2]))
before = plane.committed
plane.prepare(before + 1, [("198.18.0.1", 80, "tcp")], [])
plane.commit()
plane.retire()
status = Path("/proc/self/status").read_text()
held = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
print(json.dumps(plane.describe() | {"before": before, "held": int(held, 16), "line": plane.summary()}))
plane.close()
"""


@pytest.fixture
def instance() -> Iterator[str]:
    from pyroute2 import IPRoute, netns

    name = f"test-caps-{os.getpid()}"
    netns.create(name)
    try:
        with inside(name):
            with IPRoute() as route:
                route.link("add", ifname="edge0", kind="veth", peer="edge1")
            yield name
    finally:
        detach(name)
        netns.remove(name)


def run(instance: str, cache: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", AS_CONTROLLER, instance, str(cache)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_compile_then_cache_then_update_in_place(instance: str, tmp_path: Path) -> None:
    first = run(instance, tmp_path)
    assert first["held"] == 1 << 12 | 1 << 38 | 1 << 39
    assert first["program"]["object"] == "compiled", first["program"]["why"]
    assert first["line"].startswith("xdp: compiled object (nothing was cached; now in ")
    assert first["maps"] == "new"
    number = link_number(instance)
    second = run(instance, tmp_path)
    assert second["program"]["object"] == "cached", second["program"]["why"]
    assert (second["before"], second["maps"]) == (1, "reopened")
    assert link_number(instance) == number
    third = run(instance, tmp_path)
    running = link.attached(pins_of(instance) / "links", "edge0")
    assert running == ("native", third["program"]["id"])
    assert third["program"]["id"] != second["program"]["id"]
    assert len(list((pins_of(instance) / "programs").glob("*/*"))) == 1


def test_maps_of_other_layouts_are_made_anew(instance: str, tmp_path: Path) -> None:
    """The same shapes and BTF numbers, but a field of another name."""
    found = stored_object()
    other = type(found).from_dict(
        found.to_dict() | {"btf": found.btf.replace(b"dead_man_ns", b"dead_man_us").hex()}
    )
    assert layout_digests(other) != layout_digests(found)
    folder = pins_of(instance) / "maps" / "a"
    load(other, folder).close()
    again = load(other, folder)
    again.close()
    assert not again.fresh
    assert run(instance, tmp_path)["maps"] == "new"
    assert run(instance, tmp_path)["maps"] == "reopened"


def test_the_digest_cannot_be_written_again(instance: str, tmp_path: Path) -> None:
    run(instance, tmp_path)
    fd = syscalls.open_pin(str(pins_of(instance) / "maps" / "a" / LAYOUT_PIN), "map")
    try:
        with pytest.raises(PermissionError):
            syscalls.map_update(fd, bytes(4), bytes(32))
    finally:
        os.close(fd)


def test_a_program_that_somebody_else_put_in_is_left(instance: str, tmp_path: Path) -> None:
    run(instance, tmp_path)
    pin = pins_of(instance) / "links" / "native" / "edge0"
    foreign = syscalls.program_load(b"\xb7\0\0\0\2\0\0\0\x95" + bytes(7), "foreign")
    ours = syscalls.open_pin(str(next((pins_of(instance) / "programs").glob("native/*"))), "prog")
    channel = syscalls.open_pin(str(pin), "link")
    try:
        syscalls.link_update(channel, foreign, ours)
        number = syscalls.program_info(foreign).id
        with pytest.raises(XdpError, match="interface edge0: somebody else replaced the program"):
            XdpPlane.open(instance, ["edge0"], "native", cache=tmp_path)
        assert syscalls.link_info(channel)[0] == number
    finally:
        for fd in (foreign, ours, channel):
            os.close(fd)


def test_a_crash_in_an_update_leaves_a_program_that_is_known(instance: str, tmp_path: Path) -> None:
    """Both places hold a program: whichever the link runs is the old one of the next update."""
    run(instance, tmp_path)
    folder = pins_of(instance) / "programs" / "native"
    (have,) = folder.iterdir()
    stray = syscalls.program_load(b"\xb7\0\0\0\2\0\0\0\x95" + bytes(7), "stray")
    syscalls.pin(stray, str(folder / f"edge0%{'b' if have.name.endswith('a') else 'a'}"))
    os.close(stray)
    again = run(instance, tmp_path)
    assert link.attached(pins_of(instance) / "links", "edge0") == ("native", again["program"]["id"])
    assert len(list(folder.iterdir())) == 1


def link_number(instance: str) -> int:
    pin = pins_of(instance) / "links" / "native" / "edge0"
    shown = subprocess.run(["bpftool", "-j", "link", "show", "pinned", pin], capture_output=True, check=True)
    return int(json.loads(shown.stdout)["id"])
