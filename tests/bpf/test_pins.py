"""What a start may find in bpffs and on interfaces: leftovers, strangers, interfaces that came and went.

Over a veth pair in a namespace, by the plane itself; a start either uses what is there, or makes anew
beside it, or says in one line whose it is. `edge detach` removes what is ours and nothing else.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from pyroute2 import IPRoute, netns

from edge.errors import XdpError
from edge.xdp import link, syscalls
from edge.xdp import plane as plane_module
from edge.xdp.compiler import Found
from edge.xdp.object import LAYOUT_PIN
from edge.xdp.pins import Pins
from edge.xdp.plane import XdpPlane, detach, earlier, refused_first
from tests.bpf.packets import ipv4, tcp
from tests.bpf.probe import V4, VIPS
from tests.bpf.test_upgrade import DENY, OLD, other
from tests.e2e.lab import inside

pytestmark = [pytest.mark.root, pytest.mark.slow]

PASS = bytes.fromhex("b7000000020000009500000000000000")
_numbers = count()


Start = Callable[..., XdpPlane]


@pytest.fixture
def start(instance: str, cache: Path) -> Start:
    def open_with(*interfaces: str, mode: str = "native", name: str = instance) -> XdpPlane:
        return XdpPlane.open(name, interfaces or ["edge0"], mode, cache=cache)

    return open_with


@pytest.fixture
def published(start: Start) -> Start:
    """A start, up to the end of its first publish."""

    def open_with(*interfaces: str, **values: str) -> XdpPlane:
        plane = start(*interfaces, **values)
        plane.prepare(plane.committed + 1, VIPS, [DENY])
        plane.commit()
        plane.retire()
        return plane

    return open_with


@pytest.fixture
def instance() -> Iterator[str]:
    name = f"test-pins-{os.getpid()}-{next(_numbers)}"
    netns.create(name)
    try:
        with inside(name):
            add("edge0", "edge1")
            add("edge2", "edge3")
            yield name
    finally:
        detach(name)
        detach(f"{name}-b")
        netns.remove(name)


def add(one: str, other: str) -> None:
    with IPRoute() as route:
        route.link("add", ifname=one, kind="veth", peer=other)


def change(name: str, command: str, **values: object) -> None:
    with IPRoute() as route:
        route.link(command, index=socket.if_nametoindex(name), **values)


def denied(instance: str) -> list[tuple[str, int]]:
    """The interfaces with a program of ours, and what it does with a denied packet."""
    found = []
    for one in link.survey(Pins(instance).links):
        assert one.place is not None
        program = syscalls.open_pin(str(one.place), "prog")
        found.append((one.pin.name, syscalls.test_run(program, ipv4(V4, tcp())).verdict))
        os.close(program)
    return found


def damage_missing(place: Path) -> None:
    (place / "edge_vips").unlink()


def damage_half_made(place: Path) -> None:
    (place / LAYOUT_PIN).unlink()


def damage_unreadable(place: Path) -> None:
    os.chown(place / "edge_sources", 1234, 1234)
    (place / "edge_sources").chmod(0)


def damage_other_kind(place: Path) -> None:
    (place / "edge_settings").unlink()
    program = syscalls.program_load(PASS, "stranger")
    syscalls.pin(program, str(place / "edge_settings"))
    os.close(program)


def damage_digests(place: Path) -> None:
    (place / LAYOUT_PIN).unlink()
    fd = syscalls.map_create(syscalls.MapShape(2, 4, 32, 1, 0), LAYOUT_PIN)
    syscalls.pin(fd, str(place / LAYOUT_PIN))
    os.close(fd)


def damage_all(place: Path) -> None:
    for pin in place.iterdir():
        pin.unlink()
    place.rmdir()


@pytest.mark.parametrize(
    "damage",
    [damage_missing, damage_half_made, damage_unreadable, damage_other_kind, damage_digests, damage_all],
)
def test_maps_that_are_not_whole_are_made_anew_beside(
    instance: str, start: Start, published: Start, damage: Callable[[Path], None]
) -> None:
    published().close()
    (place,) = Pins(instance).folder.glob("maps/*")
    damage(place)
    again = start("edge0", mode="native")
    # A root that may read everything opens what has mode 0; the controller may not.
    if damage is not damage_unreadable:
        assert again.describe()["maps"] == "new"
    assert denied(instance) == [("edge0", 1)]
    again.prepare(max(again.committed, 1) + 1, VIPS, [DENY])
    again.commit()
    again.retire()
    assert denied(instance) == [("edge0", 1)]
    assert len(list(Pins(instance).folder.glob("maps/*"))) == 1
    again.close()


def test_a_strangers_pins_are_left_alone(instance: str, published: Start) -> None:
    published().close()
    folder = Pins(instance).folder
    program = syscalls.program_load(PASS, "stranger")
    strangers = [folder / "note", folder / "maps" / "a" / "theirs", folder / "links" / "native" / "eth9"]
    for path in strangers:
        syscalls.pin(program, str(path))
    os.close(program)
    published().close()
    assert all(path.exists() for path in strangers)
    removed, left = detach(instance)
    assert "links/native/edge0" in removed
    assert sorted(left) == ["links/native/eth9", "maps/a/theirs", "note"]
    assert all(path.exists() for path in strangers)
    for path in strangers:
        path.unlink()
    detach(instance)
    assert not folder.exists()


def test_an_interface_that_was_made_anew_is_attached_anew(instance: str, published: Start) -> None:
    first = published("edge0", "edge2")
    number = first.statistics()["offered"]
    first.close()
    change("edge0", "del")
    add("edge0", "edge1")
    assert [name for name, _ in denied(instance)] == ["edge2"]
    again = published("edge0", "edge2")
    assert denied(instance) == [("edge0", 1), ("edge2", 1)]
    assert again.statistics()["offered"] >= number
    again.close()


def test_an_instance_that_serves_goes_on_without_its_interface(
    instance: str, published: Start, cache: Path
) -> None:
    published().close()
    change("edge0", "del")
    plane = XdpPlane.open(instance, ["edge0"], "native", cache=cache, strict=False)
    plane.prepare(plane.committed + 1, VIPS, [DENY])
    plane.commit()
    plane.retire()
    assert plane.describe()["without"] == {"edge0": "interface edge0 does not exist"}
    add("edge0", "edge1")
    assert plane.look() == ["xdp: attached to edge0 (native)"]
    assert denied(instance) == [("edge0", 1)]
    link.detach(Pins(instance).links / "native" / "edge0")
    assert plane.look() == ["xdp: attached to edge0 (native)"]
    assert denied(instance) == [("edge0", 1)]
    plane.close()


def test_an_interface_that_comes_back_is_attached_while_we_run(instance: str, published: Start) -> None:
    plane = published("edge0", "late0", mode="auto")
    assert plane.look() == []
    change("edge0", "del")
    assert plane.look() == ["xdp: interface edge0 does not exist"]
    assert plane.look() == []
    assert plane.describe()["interfaces"] == {}
    add("edge0", "edge1")
    assert plane.look() == ["xdp: attached to edge0 (native)"]
    add("late0", "late1")
    assert plane.look() == ["xdp: attached to late0 (native)"]
    assert plane.look() == []
    assert denied(instance) == [("edge0", 1), ("late0", 1)]
    assert (plane.describe()["without"], len(plane.describe()["interfaces"])) == ({}, 2)
    plane.close()


def test_a_start_without_xdp_finds_what_an_earlier_one_left(instance: str, published: Start) -> None:
    assert earlier(instance) == ([], None)
    published().close()
    names, page = earlier(instance)
    assert names == ["edge0"] and page is not None
    assert syscalls.map_info(page).name == "edge_heartbeat"
    os.close(page)


def test_an_interface_that_was_renamed_keeps_its_link(instance: str, published: Start) -> None:
    published().close()
    before = link.survey(Pins(instance).links)[0]
    change("edge0", "set", ifname="wan.0")
    again = published("wan.0")
    (after,) = link.survey(Pins(instance).links)
    assert (after.pin.name, after.index) == ("wan%2e0", before.index)
    assert again.describe()["interfaces"] == {"wan.0": "native"}
    assert denied(instance) == [("wan%2e0", 1)]
    again.close()


def test_an_instance_of_another_network_namespace_is_left_alone(
    instance: str, published: Start, start: Start
) -> None:
    """Links name interfaces by number, and numbers are the same everywhere."""
    published().close()
    before = link.survey(Pins(instance).links)
    there = f"{instance}-there"
    netns.create(there)
    try:
        with inside(there):
            add("wan0", "wan1")
            change("wan0", "set", ifname="edge9")
            add("edge0", "edge1")
            assert socket.if_nametoindex("edge9") == before[0].index
            assert [one.pin for one in link.survey(Pins(instance).links)] == [one.pin for one in before]
            with pytest.raises(
                XdpError, match="edge0: this instance is attached in another network namespace"
            ):
                start()
    finally:
        netns.remove(there)
    assert link.survey(Pins(instance).links) == before
    published().close()
    assert denied(instance) == [("edge0", 1)]


def test_an_interface_that_is_asked_for_no_more_is_let_go(instance: str, published: Start) -> None:
    published("edge0", "edge2").close()
    published("edge2").close()
    assert denied(instance) == [("edge2", 1)]


def test_one_interface_goes_without_and_the_others_do_not(
    instance: str, start: Start, published: Start
) -> None:
    plane = published("edge0", "gone0", mode="auto")
    assert plane.describe()["interfaces"] == {"edge0": "native"}
    assert plane.describe()["without"] == {"gone0": "interface gone0 does not exist"}
    assert plane.summary().endswith("; interface gone0 does not exist")
    plane.close()
    with pytest.raises(XdpError, match="^interface gone0 does not exist$"):
        start("edge0", "gone0", mode="native")
    assert denied(instance) == [("edge0", 1)]


def test_a_start_that_fails_leaves_nothing_that_it_made(instance: str, start: Start) -> None:
    with pytest.raises(XdpError, match="gone0"):
        start("edge0", "gone0", mode="native")
    assert not Pins(instance).folder.exists()


def test_a_program_that_is_refused_leaves_no_maps(
    instance: str, published: Start, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = b"\x05\x00\xff\xff\x00\x00\x00\x00" + b"\x95" + bytes(7)
    wrong = replace(other(OLD, "edge_vips"), code=endless, relocations=())
    with monkeypatch.context() as patch:
        patch.setattr(plane_module, "edge_object", lambda _cache: Found(wrong, "stored", "a test"))
        with pytest.raises(XdpError, match="the kernel refuses program"):
            start()
        assert not Pins(instance).folder.exists()
    published().close()
    with monkeypatch.context() as patch:
        patch.setattr(plane_module, "edge_object", lambda _cache: Found(wrong, "stored", "a test"))
        with pytest.raises(XdpError, match="the kernel refuses program"):
            start()
    assert denied(instance) == [("edge0", 1)]
    assert [path.name for path in Pins(instance).folder.glob("maps/*")] == ["a"]


def test_a_strangers_program_is_named(instance: str, start: Start, published: Start) -> None:
    published(name=f"{instance}-b").close()
    with pytest.raises(XdpError, match=f"^interface edge0 already has XDP program .* instance {instance}-b$"):
        start("edge0", mode="native")
    program = syscalls.program_load(PASS, "stranger")
    number = syscalls.program_info(program).id
    theirs = syscalls.link_create(program, socket.if_nametoindex("edge2"), syscalls.MODE_NATIVE)
    try:
        plain = f"^interface edge2 already has XDP program {number} of somebody else, "
        with pytest.raises(XdpError, match=plain + "who has not pinned it$"):
            start("edge2", mode="native")
        pin = Path(f"/sys/fs/bpf/{instance}")
        syscalls.pin(program, str(pin))
        try:
            with pytest.raises(XdpError, match=plain + f"pinned as {pin}$"):
                start("edge2", mode="auto")
        finally:
            pin.unlink()
    finally:
        os.close(theirs)
        os.close(program)


def test_a_first_refusal_over_a_running_program_is_told_apart(
    instance: str, published: Start, tmp_path: Path
) -> None:
    assert not refused_first(instance, tmp_path)  # nothing runs: going without costs no filter
    published().close()
    assert refused_first(instance, tmp_path)
    assert not refused_first(instance, tmp_path)
    XdpPlane.open(instance, ["edge0"], "native", cache=tmp_path).close()
    assert refused_first(instance, tmp_path)
    assert not refused_first(instance, tmp_path / "nowhere")
