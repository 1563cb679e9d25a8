"""Objects, pins and links: what the loader accepts, what tools see, what survives a process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from edge.errors import XdpError
from edge.xdp import link, syscalls
from edge.xdp.compiler import compile_edge, compile_program, source_hash, stored_object
from edge.xdp.object import compare_layouts, load
from edge.xdp.pins import pins_of
from edge.xdp.plane import XdpPlane, detach
from tests.bpf.probe import Probe
from tests.e2e.lab import inside

pytestmark = pytest.mark.root

OPEN_AND_DIE = """
import os, sys
from edge.xdp.plane import XdpPlane
plane = XdpPlane.open(sys.argv[1], ["edge0"], "native")
plane.prepare(plane.committed + 1, [("198.18.0.1", 80, "tcp")], [])
plane.commit()
print(plane.describe()["program"]["id"], flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def namespace() -> Iterator[str]:
    from pyroute2 import IPRoute, netns

    name = f"edge-bpf-{os.getpid()}"
    netns.create(name)
    try:
        with inside(name), IPRoute() as route:
            route.link("add", ifname="edge0", kind="veth", peer="edge1")
        yield name
    finally:
        netns.remove(name)


def test_the_stored_object_is_of_these_sources() -> None:
    assert stored_object().source == source_hash(), "run: python -m edge.xdp.compiler --store"


def test_a_fresh_compile_equals_the_stored_object() -> None:
    fresh, stored = compile_edge(), stored_object()
    assert (fresh.code, fresh.relocations, fresh.maps) == (stored.code, stored.relocations, stored.maps)


def test_layouts_are_compared_with_cffi() -> None:
    found = stored_object()
    compare_layouts(found)
    wrong = replace(found, btf=found.btf.replace(b"dead_man_ns", b"dead_man_us"))
    with pytest.raises(XdpError, match="struct edge_settings: field dead_man_"):
        compare_layouts(wrong)


def test_the_stored_object_loads_without_bcc() -> None:
    text = (
        "import sys; sys.modules['bcc'] = None\n"
        "from edge.xdp.compiler import stored_object\n"
        "from edge.xdp.object import load\n"
        "load(stored_object()).close()\n"
        "print(any('LLVM' in line for line in open('/proc/self/maps')))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_compiler_says_what_clang_said() -> None:
    with pytest.raises(XdpError) as caught:
        compile_program(
            "int broken(struct xdp_md *c) { return nothing; }", '#define EDGE_DECLARE_MAPS\n#include "maps.h"'
        )
    assert "use of undeclared identifier 'nothing'" in caught.value.log


def test_the_verifier_speaks() -> None:
    found = stored_object()
    endless = b"\x05\x00\xff\xff\x00\x00\x00\x00" + b"\x95" + bytes(7)
    with pytest.raises(XdpError) as caught:
        load(replace(found, code=endless, relocations=()))
    assert caught.value.log


def test_tools_print_named_fields(probe: Probe) -> None:
    probe.publish()
    for name, words in (
        ("edge_settings", ("dead_man_ns", "packet_interval")),
        ("edge_vips", ("port_be", "generation", "flags")),
        ("edge_counts", ("packets", "bytes")),
        ("edge_heartbeat", ("holder_ns", "data_ns")),
    ):
        pin = pins_of(probe.plane.instance) / "maps" / "a" / name
        out = subprocess.run(
            ["bpftool", "map", "dump", "pinned", pin], capture_output=True, text=True, check=True
        )
        assert all(f'"{word}"' in out.stdout for word in words), out.stdout[:400]
        assert (
            json.loads(
                subprocess.run(
                    ["bpftool", "-j", "map", "show", "pinned", pin], capture_output=True, check=True
                ).stdout
            )["name"]
            == name
        )


def test_a_pin_that_was_replaced_makes_all_maps_anew_beside(probe: Probe) -> None:
    probe.publish()
    pin = pins_of(probe.plane.instance) / "maps" / "a" / "edge_buckets"
    pin.unlink()
    other = syscalls.map_create(syscalls.MapShape(1, 20, 8, 10, 0), "edge_buckets")
    syscalls.pin(other, str(pin))
    os.close(other)
    again = XdpPlane.open(probe.plane.instance, [])
    try:
        assert again.describe()["maps"] == "new"
        assert again.committed == 1
    finally:
        again.close()


def test_a_link_survives_its_process_and_is_updated_in_place(namespace: str) -> None:
    instance = f"test-link-{os.getpid()}"
    try:
        with inside(namespace):
            seen = []
            for _ in range(2):
                done = subprocess.run(
                    [sys.executable, "-c", OPEN_AND_DIE, instance], capture_output=True, text=True
                )
                assert done.returncode == -9, done.stderr
                links = pins_of(instance) / "links"
                seen.append((_link_id(links / "native" / "edge0"), link.attached(links, "edge0")))
                assert seen[-1][1] == ("native", int(done.stdout))
            assert seen[0][0] == seen[1][0]
            assert seen[0][1] != seen[1][1]
            with pytest.raises(
                XdpError, match=f"edge0 already has XDP program .* of edge instance {instance}$"
            ):
                XdpPlane.open(f"{instance}-b", ["edge0"])
    finally:
        removed, _ = detach(instance)
        detach(f"{instance}-b")
    assert "links/native/edge0" in removed
    assert not pins_of(instance).exists()


def test_jumbo_frames_and_generic_mode(namespace: str) -> None:
    instance = f"test.jumbo-{os.getpid()}"
    try:
        with inside(namespace):
            with IPRoute() as route:
                for name in ("edge1", "edge0"):
                    route.link("set", index=socket.if_nametoindex(name), mtu=9000)
            for mode in ("native", "generic"):
                plane = XdpPlane.open(instance, ["edge0"], mode)
                assert plane.describe()["interfaces"] == {"edge0": mode}
                plane.close()
    finally:
        detach(instance)


def test_one_line_where_it_cannot_be_had(namespace: str) -> None:
    with inside(namespace), pytest.raises(XdpError, match="interface nothing0 does not exist"):
        XdpPlane.open("test-nothing", ["nothing0"])
    detach("test-nothing")


def _link_id(pin: Path) -> int:
    shown = subprocess.run(["bpftool", "-j", "link", "show", "pinned", pin], capture_output=True, check=True)
    return int(json.loads(shown.stdout)["id"])
