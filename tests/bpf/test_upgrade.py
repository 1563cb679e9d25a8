"""Another object at a controller's start: what moves, what stays, and a death at every step of it.

Two interfaces, so that a switch has a middle. Deaths are real (SIGKILL to a forked child before each call
that changes anything); after each one the attached programs still drop the denied source, and the next
start, of the new object or of the old one, ends with one place, every count and the same link.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from itertools import count
from pathlib import Path

import pytest
from pyroute2 import IPRoute, netns

from edge.model.types import PerSource
from edge.xdp import link, plane, syscalls
from edge.xdp.compiler import Found, stored_object
from edge.xdp.object import BpfObject
from edge.xdp.pins import Pins, pins_of
from edge.xdp.plane import XdpPlane, detach
from tests.bpf.packets import ipv4, tcp
from tests.bpf.probe import V4, VIPS, policy
from tests.e2e.lab import inside

pytestmark = [pytest.mark.root, pytest.mark.slow]

INTERFACES = ("edge0", "edge2")
DENIED = ipv4(V4, tcp())
DENY = policy(deny=(ip_network("198.18.7.0/24"),))
LONG = bool(os.environ.get("EDGE_LONG"))
_numbers = count()


def other(found: BpfObject, *names: str) -> BpfObject:
    """An object whose named maps have one entry more."""
    maps = {
        name: replace(spec, shape=replace(spec.shape, entries=spec.shape.entries + (name in names)))
        for name, spec in found.maps.items()
    }
    return replace(found, maps=maps)


OLD = stored_object()
SHAPES = {
    "vips": other(OLD, "edge_vips"),
    "counts": other(OLD, "edge_counts"),
    # The heartbeat's page has one element whatever comes: here a field of it has another name.
    "kept": replace(
        other(OLD, "edge_counts", "edge_buckets"), btf=OLD.btf.replace(b"data_reserved", b"data_preserve")
    ),
}


@pytest.fixture
def instance() -> Iterator[str]:
    name = f"test-upgrade-{os.getpid()}-{next(_numbers)}"
    netns.create(name)
    try:
        with inside(name):
            with IPRoute() as route:
                route.link("add", ifname="edge0", kind="veth", peer="edge1")
                route.link("add", ifname="edge2", kind="veth", peer="edge3")
            yield name
    finally:
        detach(name)
        netns.remove(name)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, instance: str) -> Callable[..., XdpPlane]:
    def open_with(found: BpfObject, *interfaces: str, mode: str = "native") -> XdpPlane:
        monkeypatch.setattr(plane, "edge_object", lambda _cache: Found(found, "stored", "a test"))
        monkeypatch.setattr(plane, "compare_layouts", lambda _found: None)
        return XdpPlane.open(instance, interfaces or INTERFACES, mode)

    return open_with


def publish(one: XdpPlane, *policies: object) -> None:
    one.prepare(one.committed + 1, VIPS, policies or [DENY])  # type: ignore[arg-type]
    one.commit()
    one.retire()


def verdicts(instance: str, packet: bytes = DENIED) -> list[int]:
    """Put a packet into each program that is attached."""
    found = []
    for one in link.survey(pins_of(instance) / "links"):
        assert one.place is not None
        program = syscalls.open_pin(str(one.place), "prog")
        found.append(syscalls.test_run(program, packet).verdict)
        os.close(program)
    return found


def places(instance: str) -> list[str]:
    return sorted(path.name for path in Pins(instance).folder.glob("maps/*"))


def adds_up(counts: dict[str, tuple[int, int]]) -> int:
    """The packets that were offered."""
    ends = {name: pair for name, pair in counts.items() if name != "offered"}
    for i in (0, 1):
        assert counts["offered"][i] == sum(pair[i] for pair in ends.values())
    return counts["offered"][0]


def buckets(one: XdpPlane) -> dict[bytes, float]:
    """When each source will have paid for its packets. Units: nanoseconds."""
    shape = one._found.object.maps["edge_buckets"].shape
    items = syscalls.map_items(one._loaded.maps["edge_buckets"], 20, 16, shape.entries)
    return {key: int.from_bytes(value[:8], "little") / 16 for key, value in items.items()}


@pytest.mark.parametrize("shape", [None, *SHAPES])
def test_an_upgrade_keeps_what_it_can(
    instance: str, start: Callable[..., XdpPlane], shape: str | None
) -> None:
    limited = policy("q", per_source=PerSource(packets_per_second=1, burst=100))
    one = start(OLD)
    publish(one, DENY, limited)
    spent = ipv4(V4, tcp(), source="198.19.0.1")
    assert verdicts(instance) == [1, 1]
    assert verdicts(instance, spent) == [2, 2]
    paid = buckets(one)
    assert len(paid) == 1
    before = link.survey(pins_of(instance) / "links")
    one.close()

    two = start(SHAPES[shape] if shape else OLD)
    # Nothing moves but the program, and where the shape differs not even that before the first commit.
    assert two.describe()["maps"] == ("new" if shape else "reopened")
    assert two.committed == 1
    assert places(instance) == (["a", "b"] if shape else ["a"])
    assert verdicts(instance) == [1, 1]
    assert verdicts(instance, spent) == [2, 2]
    assert adds_up(two.statistics()) == 8
    page = syscalls.map_info(two.heartbeat_descriptor()).id
    assert page in link.survey(pins_of(instance) / "links")[0].maps
    two.prepare(2, VIPS, [DENY, limited])
    assert verdicts(instance) == [1, 1]
    two.commit()
    assert verdicts(instance) == [1, 1]
    assert verdicts(instance, spent) == [2, 2]
    # Six packets, a second each: none of them is forgotten.
    assert buckets(two).keys() == paid.keys()
    assert all(buckets(two)[key] - paid[key] >= 3.9e9 for key in paid)
    assert adds_up(two.statistics()) == 14
    moved = two.moved_heartbeat()
    assert (moved is not None) == (shape == "kept")
    assert moved is None or syscalls.map_info(moved).id != page
    assert (
        syscalls.map_info(two.heartbeat_descriptor()).id in link.survey(pins_of(instance) / "links")[0].maps
    )
    two.retire()
    assert places(instance) == (["b"] if shape else ["a"])
    after = link.survey(pins_of(instance) / "links")
    assert [one.pin for one in after] == [one.pin for one in before]
    assert all(one.program != two.program for one, two in zip(before, after, strict=True))
    counts = two.statistics()
    assert adds_up(counts) == 14
    assert counts["drop_denied"][0] == 8
    two.close()

    three = start(OLD)
    assert adds_up(three.statistics()) == 14
    publish(three)
    assert adds_up(three.statistics()) == 14
    assert places(instance) == ["a"]
    three.close()


class Deaths:
    """Kills this process before its n-th change to kernel or file system."""

    CHANGES = frozenset({
        syscalls.MAP_UPDATE, syscalls.MAP_DELETE, syscalls.OBJ_PIN, syscalls.MAP_FREEZE,
        syscalls.UPDATE_BATCH, syscalls.DELETE_BATCH, syscalls.LINK_CREATE, syscalls.LINK_UPDATE,
        syscalls.LINK_DETACH,
    })  # fmt: skip

    def __init__(self, after: int) -> None:
        self.left = after
        bpf = syscalls.bpf

        def counted(command: int, attributes: bytes, size: int = 0) -> tuple[int, bytes]:
            if command in self.CHANGES:
                self.count()
            return bpf(command, attributes, size)

        syscalls.bpf = counted
        for name in ("unlink", "rename", "mkdir", "rmdir"):
            setattr(Path, name, self.counts(getattr(Path, name)))

    def counts(self, call: Callable[..., object]) -> Callable[..., object]:
        def counted(path: Path, *arguments: object, **named: object) -> object:
            self.count()
            return call(path, *arguments, **named)

        return counted

    def count(self) -> None:
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def dies(after: int, work: Callable[[], None]) -> bool:
    """Do the work in a child that dies at a step. Shape: False when it came to its end."""
    pid = os.fork()
    if not pid:
        status = 1
        with contextlib.suppress(BaseException):
            Deaths(after)
            work()
            status = 0
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), f"step {after}: it failed by itself"
    return status != 0


@pytest.mark.parametrize("shape", SHAPES if LONG else ["kept"])
@pytest.mark.parametrize("then", ["forward", "back"])
def test_a_death_at_any_step(instance: str, start: Callable[..., XdpPlane], shape: str, then: str) -> None:
    """Each step starts where the last recovery ended: so places and pins take every role in turn."""
    new = SHAPES[shape]
    one = start(OLD)
    publish(one)
    one.close()
    running, sent = OLD, 0
    for step in count(0, 1) if LONG else count(2 * (then == "back"), 5):
        target = new if running is OLD else OLD

        def work(target: BpfObject = target) -> None:
            publish(start(target))

        early = died = dies(step, work)
        if early and step % 3 == 0:  # and its successor in the midst of putting things right
            died = dies(step * 7 % 23, work)
        assert verdicts(instance) == [1, 1], f"step {step}: filtering was off"
        sent += 2
        running = target if then == "forward" or not died else running
        again = start(running)
        assert adds_up(again.statistics()) == sent, f"step {step}"
        assert verdicts(instance) == [1, 1]
        publish(again)
        assert verdicts(instance) == [1, 1]
        sent += 4
        assert adds_up(again.statistics()) == sent, f"step {step}"
        again.close()
        assert len(places(instance)) == 1, f"step {step}"
        assert len(list((pins_of(instance) / "programs").glob("*/*"))) == 2, f"step {step}"
        if not early:
            assert step > 20
            break
