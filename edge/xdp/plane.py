"""The XDP half of a publish: prepare the next generation, flip one word, retire the old one.

Called by the controller, in a thread: every call here blocks (compiling 0.3 s, attaching 0.2 s,
waiting for readers some ms). Owns the pins of one instance and is their only writer. Survives a
restart: `open` finds maps and links again, and what stands in them; a program whose maps have another
shape goes on until the first commit (edge/xdp/pins.py). `detach` alone removes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from edge import privileges
from edge.errors import XdpError
from edge.model.types import Address, Policy
from edge.native import ffi, lib
from edge.xdp import counts, link, syscalls
from edge.xdp.addresses import local_addresses
from edge.xdp.compiler import Found, edge_object, source_hash
from edge.xdp.object import Loaded, compare_layouts, load, matches, reopens
from edge.xdp.pins import Pins, committed, opened
from edge.xdp.rules import Plan, Vip, make_plan, normal_vips, put_vips

_REFUSED = "xdp_refused-"
P = ParamSpec("P")
T = TypeVar("T")

_WORD_MAPS = {"front_v4": lib.EDGE_FRONT_V4_WORDS * 8, "front_v6": lib.EDGE_FRONT_V6_WORDS * 8}
# Where the generation stands in the keys that have one.
_KEYED = {"vips": (20, 19), "sources": (20, 18), "short": (24, 4)}


def _in_turn(
    method: Callable[Concatenate[XdpPlane, P], T],
) -> Callable[Concatenate[XdpPlane, P], T]:
    """One at a time: a publish and a look at the interfaces come from two threads."""

    @functools.wraps(method)
    def run(plane: XdpPlane, /, *arguments: P.args, **named: P.kwargs) -> T:
        with plane._turn:
            return method(plane, *arguments, **named)

    return run


class Heartbeat:
    """The page that holder and data plane stamp, seen from the plane."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, mmap.PAGESIZE)
        self._page = ffi.from_buffer("struct edge_heartbeat *", self._map, require_writable=True)

    def begin(self) -> None:
        """Count the first commit of a process as a sign of life: whoever prepared it lives.

        Without it packets would be judged as if nobody served until the first stamp on a fresh page.
        """
        self._page.holder_ns = max(self._page.holder_ns, time.clock_gettime_ns(time.CLOCK_MONOTONIC))

    def ages(self) -> dict[str, float]:
        """Time since each last stamp. Units: seconds."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        stamps = {"holder": self._page.holder_ns, "data": self._page.data_ns}
        return {name: max(0, now - stamp) / 1e9 for name, stamp in stamps.items()}

    def close(self) -> None:
        """Unmap the page."""
        ffi.release(self._page)
        self._map.close()


class XdpPlane:
    """One instance's packet program: its maps, its links, its two generations."""

    def __init__(self, instance: str, pins: Pins, place: Path, loaded: Loaded, found: Found) -> None:
        self.instance = instance
        self._pins = pins
        self._place = place
        self._loaded = loaded
        self._found = found
        self._modes: dict[str, str] = {}
        self._without: dict[str, str] = {}  # interfaces that go without, and why
        self._wanted: tuple[str, ...] = ()
        self._mode, self._strict = "auto", True
        self._pending: list[str] = []  # interfaces that run over maps of another shape
        self._old_page: int | None = None  # the heartbeat of those programs, if it is not ours
        self._settled = False
        self._before = committed(pins.other(place))  # where another place is in use
        self._turn = threading.Lock()
        self._lock = threading.Lock()  # counters are read in one thread, taken over in another
        self._counters = [one for one in map(counts.open_counter, (place, pins.other(place))) if one]
        self._control_map = mmap.mmap(loaded.maps["edge_control"], mmap.PAGESIZE)
        self._word = ctypes.c_uint64.from_buffer(self._control_map)
        self._heartbeat = Heartbeat(loaded.maps["edge_heartbeat"])
        self._fronts = {
            name: mmap.mmap(loaded.maps[f"edge_{name}"], 2 * size) for name, size in _WORD_MAPS.items()
        }
        self._plans = self._scan()
        self._next: tuple[int, Plan, Plan, frozenset[tuple[Address, int, int]]] | None = None
        self._final: Plan | None = None
        self._served: frozenset[tuple[Address, int, int]] | None = None

    @classmethod
    def open(
        cls,
        instance: str,
        interfaces: Sequence[str],
        mode: str = "auto",
        *,
        cache: Path | None = None,
        strict: bool = True,
    ) -> XdpPlane:
        """Compile or find the program, make or reopen the maps, attach to the interfaces.

        Until the first commit every packet passes. A program that runs over maps of another shape
        goes on until that commit. With mode auto an interface that cannot have it goes without; with any
        mode where it is not ``strict``: an instance that serves already goes on, and looks for it (`look`).
        Errors: XdpError, one line that says what is missing.
        """
        if mode not in ("auto", "native", "generic"):
            raise XdpError(f"XDP mode {mode!r} is none of auto, native, generic")
        missing = privileges.mount_bpffs()
        if missing:
            raise XdpError(missing)
        found = edge_object(cache)
        compare_layouts(found.object)
        pins = Pins(instance)
        used = None
        try:
            pins.make()
            used = pins.recover()
            plane = cls._over(instance, pins, used, found)
            try:
                plane._attach(interfaces, mode, strict)
            except XdpError:
                plane.close()
                raise
        except OSError as error:
            raise XdpError(f"cannot use {pins.folder}: {error.strerror}") from error
        except XdpError:
            with contextlib.suppress(OSError):  # maps that nothing will ever run over
                pins.recover() if used else pins.remove()
            raise
        _forget_refusals(cache)
        return plane

    @classmethod
    def _over(cls, instance: str, pins: Pins, used: Path | None, found: Found) -> XdpPlane:
        """Load over the place in use if its maps are the object's, else over new ones in the other."""
        place = used if used and reopens(found.object, used) else pins.other(used)
        kept = pins.kept(found.object, used) if place != used else {}
        loaded = load(found.object, place, kept=kept, flags=syscalls.PROGRAM_FRAGS)
        if used and counts.COUNTS in kept:
            counts.share(place, used)
        return cls(instance, pins, place, loaded, found)

    def _attach(self, interfaces: Sequence[str], mode: str, strict: bool) -> None:
        self._wanted, self._mode, self._strict = tuple(interfaces), mode, strict
        made = []
        for interface in interfaces:
            before = link.attached(self._pins.links, interface)
            if self._loaded.fresh and before:
                self._pending.append(interface)
                continue
            try:
                self._modes[interface] = link.attach(self._loaded.program, interface, mode, self._pins.links)
                if not before:
                    made.append(interface)
            except XdpError as error:
                self._without[interface] = str(error)
        if self._pending:
            self._old_page = self._pins.other_map(self._place, "edge_heartbeat")
        if strict and self._without and (mode != "auto" or not (self._modes or self._pending)):
            for interface in made:
                link.detach(self._pins.links / self._modes[interface] / link.pin_name(interface))
            raise XdpError("; ".join(dict.fromkeys(self._without.values())))

    @_in_turn
    def look(self) -> list[str]:
        """Attach to interfaces that came, or came back, since the last look. Shape: what changed, in words.

        Errors: OSError.
        """
        said = []
        alive = {one.pin.name for one in link.survey(self._pins.links)}
        for interface in self._wanted:
            if link.pin_name(interface) in alive and interface not in self._without:
                continue
            try:
                mode = link.attach(self._loaded.program, interface, self._mode, self._pins.links)
                self._modes[interface] = mode
                self._without.pop(interface, None)
                said.append(f"xdp: attached to {interface} ({mode})")
            except XdpError as error:
                self._modes.pop(interface, None)
                if self._without.get(interface) != str(error):
                    self._without[interface] = str(error)
                    said.append(f"xdp: {error}")
        return said

    @property
    def committed(self) -> int:
        """Version of the generation that packets see, 0 before the first commit."""
        return int(self._word.value) >> 1 or self._before

    @_in_turn
    def prepare(self, version: int, vips: Iterable[Vip], policies: Iterable[Policy]) -> None:
        """Fill the generation that no packet sees: the VIPs given and those served until now.

        Errors: XdpError; the running generation is untouched.
        """
        if version <= self.committed:
            raise XdpError(f"version {version} is not above the committed {self.committed}")
        wanted = normal_vips(vips)
        policies = tuple(policies)
        node = any(policy.scope == "node" for policy in policies)
        local = local_addresses(self._modes) if node else frozenset()
        current = self._plans[self._generation]
        same = make_plan(self._generation, wanted, policies, local)
        if self._word.value and same == replace(current, front_v4=same.front_v4, front_v6=same.front_v6):
            self._next = (version, current, same, wanted)
            return
        final = same.moved(1 - self._generation if self._word.value else 0)
        plan = replace(final, vips=dict(final.vips))
        if self._word.value and self._served is None:
            plan.vips = current.moved(plan.generation).vips | plan.vips
        elif self._word.value:
            put_vips(plan, (self._served or frozenset()) - wanted, ())
        try:
            syscalls.wait_for_readers()
            self._write(plan)
        except OSError as error:
            raise XdpError(f"cannot fill the next generation: {error.strerror}") from error
        self._next = (version, plan, final, wanted)

    @_in_turn
    def commit(self) -> None:
        """Flip to what was prepared; the word is one aligned store.

        Errors: XdpError when nothing was prepared, or a program of an older shape cannot be replaced.
        """
        if self._next is None:
            raise XdpError("nothing was prepared")
        if self._served is None:
            self._heartbeat.begin()
        version, plan, self._final, wanted = self._next
        self._next = None
        self._word.value = version << 1 | plan.generation
        self._served = wanted
        if self._pending:
            self._switch()

    def _switch(self) -> None:
        """Move the links that run over maps of another shape to ours, which are filled."""
        with contextlib.suppress(OSError):  # at worst a source has its burst once more
            self._copy_buckets()
        for interface in tuple(self._pending):
            try:
                self._modes[interface] = link.attach(
                    self._loaded.program, interface, self._mode, self._pins.links
                )
            except XdpError as error:
                if self._strict and self._mode != "auto":
                    raise
                self._without[interface] = str(error)
            self._pending.remove(interface)

    def _copy_buckets(self) -> None:
        """What sources have used of their limits, where the maps differ in size alone."""
        old = self._pins.other(self._place)
        if matches(self._found.object, old).get("edge_buckets") != "content":
            return
        with opened(old / "edge_buckets", "map") as fd:
            shape = syscalls.map_info(fd).shape
            items = syscalls.map_items(fd, shape.key_bytes, shape.value_bytes, shape.entries)
        room = self._found.object.maps["edge_buckets"].shape.entries
        syscalls.map_write(self._loaded.maps["edge_buckets"], dict(list(items.items())[:room]))

    @_in_turn
    def retire(self) -> None:
        """Drop what left: VIPs no longer served, the generation nobody sees, maps and links of before.

        Errors: XdpError; the next call tries again.
        """
        try:
            if not self._settled and not self._pending:
                self._settle()
            if self._final is None or self._next is not None:
                return
            generation = self._final.generation
            syscalls.wait_for_readers()
            self._write(replace(self._final, front_v4=None, front_v6=None))
            self._write(Plan(1 - generation, settings=bytes(_settings_bytes())))
        except OSError as error:
            raise XdpError(f"cannot retire a generation: {error.strerror}") from error

    def _settle(self) -> None:
        """After the first commit only our place is needed, and only links that were asked for."""
        if self._wanted:
            self._pins.forget_links(self._wanted)
        self._pins.settle(self._place)
        mine = counts.open_counter(self._place)
        with self._lock:  # both sets of descriptors give the same sum
            for one in self._counters:
                one.close()
            self._counters = [mine] if mine else []
        self._settled = True

    def statistics(self) -> dict[str, tuple[int, int]]:
        """Packets and bytes by reason. Shape: "offered", "pass_other", … to (packets, bytes)."""
        with self._lock:
            return counts.named(counts.total(self._counters))

    def heartbeat_descriptor(self) -> int:
        """The mappable page that the attached programs read; ours, so duplicate it to keep it.

        The first commit may move them to another: ask `moved_heartbeat` then.
        """
        return self._loaded.maps["edge_heartbeat"] if self._old_page is None else self._old_page

    def moved_heartbeat(self) -> int | None:
        """The page that is read from now on, where the last commit changed it."""
        if self._old_page is None or self._pending:
            return None
        os.close(self._old_page)
        self._old_page = None
        return self.heartbeat_descriptor()

    def summary(self) -> str:
        """One line for an operator: which object runs and why, and where."""
        where = ", ".join(f"{interface} ({mode})" for interface, mode in self._modes.items())
        maps = "new" if self._loaded.fresh else "reopened"
        return (
            f"xdp: {self._found.origin} object ({self._found.why}), {maps} maps, "
            f"on {where or 'the interfaces at the first commit'}"
            + "".join(f"; {reason}" for reason in dict.fromkeys(self._without.values()))
        )

    def describe(self) -> dict[str, Any]:
        """What /xdp shows."""
        info = syscalls.program_info(self._loaded.program)
        return {
            "instance": self.instance,
            "interfaces": dict(self._modes),
            "program": {
                "id": info.id,
                "tag": info.tag,
                "jited_bytes": info.jited_bytes,
                "object": self._found.origin,
                "why": self._found.why,
            },
            "maps": "new" if self._loaded.fresh else "reopened",
            "without": dict(self._without),
            "dead_man": self._dead_man(),
            "committed": self.committed,
            "generation": self._generation,
            "vips": len(self._plans[self._generation].vips),
            "rules": len(self._plans[self._generation].sources) + len(self._plans[self._generation].short),
            "pins": str(self._pins.folder),
            "counters": {
                name: {"packets": packets, "bytes": size}
                for name, (packets, size) in self.statistics().items()
            },
        }

    def close(self) -> None:
        """Close descriptors and mappings; pins, and so the program, stay."""
        del self._word
        self._control_map.close()
        self._heartbeat.close()
        if self._old_page is not None:
            os.close(self._old_page)
        for front in self._fronts.values():
            front.close()
        for counter in self._counters:
            counter.close()
        self._loaded.close()

    def _dead_man(self) -> dict[str, Any]:
        """Shape: seconds (0: off), action, ages of the last stamps in seconds, and whether it holds now."""
        settings = ffi.from_buffer("struct edge_settings *", self._plans[self._generation].settings)
        seconds = settings.dead_man_ns / 1e9
        ages = self._heartbeat.ages()
        return {
            "seconds": seconds,
            "action": "drop" if settings.flags & lib.EDGE_SETTING_STALE_DROP else "pass",
            "ages": ages,
            "stale": bool(seconds) and min(ages.values()) > seconds,
        }

    @property
    def _generation(self) -> int:
        return int(self._word.value) & 1

    def _scan(self) -> list[Plan]:
        """What a former process wrote. Front bits are only ever written whole: not read back."""
        maps = self._loaded.maps
        plans = [Plan(0), Plan(1)]
        for plan in plans:
            key = struct.pack("<I", plan.generation)
            plan.settings = syscalls.map_lookup(maps["edge_settings"], key, _settings_bytes())
        for name, (key_bytes, at) in _KEYED.items():
            room = self._found.object.maps[f"edge_{name}"].shape.entries
            for key, value in syscalls.map_items(maps[f"edge_{name}"], key_bytes, 4, room).items():
                getattr(plans[key[at]], name)[key] = value
        return plans

    def _write(self, plan: Plan) -> None:
        """Make a generation of the maps hold the plan and nothing else."""
        have = self._plans[plan.generation]
        maps = self._loaded.maps
        for name in _KEYED:
            fd, old, new = maps[f"edge_{name}"], getattr(have, name), getattr(plan, name)
            gone = [key for key in old if key not in new]
            changed = {key: value for key, value in new.items() if old.get(key) != value}
            syscalls.map_remove(fd, gone)
            syscalls.map_write(fd, changed)
        for name, size in _WORD_MAPS.items():
            bits = getattr(plan, name)
            if bits is not None:
                start = plan.generation * size
                self._fronts[name][start : start + size] = bits
        if plan.settings != have.settings:
            key = struct.pack("<I", plan.generation)
            syscalls.map_update(maps["edge_settings"], key, plan.settings)
        self._plans[plan.generation] = plan


def _settings_bytes() -> int:
    return int(ffi.sizeof("struct edge_settings"))


def detach(instance: str) -> tuple[list[str], list[str]]:
    """Detach every link of an instance and remove its pins.

    Shape: what was removed, and what was left, because it is none of ours; paths under its folder.
    Errors: XdpError where the kernel refuses.
    """
    try:
        return Pins(instance).remove()
    except OSError as error:
        raise XdpError(f"cannot detach {instance}: {error.strerror}") from error


def earlier(instance: str) -> tuple[list[str], int | None]:
    """What a start that goes without XDP finds attached all the same, by an earlier one.

    Shape: interfaces, and a descriptor of the page that judges whether we live, which the caller closes.
    """
    with contextlib.suppress(OSError):
        return Pins(instance).running()
    return [], None


def refused_first(instance: str, cache: Path) -> bool:
    """Tell whether this code was refused for the first time, while a program of other code runs.

    Then to end is better than to go without: an upgrade is rolled back. The next start goes without, and
    so does this one where nothing can be written down.
    """
    path = cache / f"{_REFUSED}{source_hash()[:16]}"
    if not earlier(instance)[0] or path.exists():
        return False
    try:
        path.touch()
    except OSError:
        return False
    return True


def _forget_refusals(cache: Path | None) -> None:
    for path in cache.glob(f"{_REFUSED}*") if cache is not None else ():
        path.unlink(missing_ok=True)
