"""The XDP half of a publish: prepare the next generation, flip one word, retire the old one.

Called by the controller, in a thread: every call here blocks (compiling 0.3 s, attaching 0.2 s,
waiting for readers some ms). Owns the pins of one instance and is their only writer. Survives a
restart: `open` finds maps and links again, and what stands in them. `detach` alone removes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.errors import XdpError
from edge.model.types import Address, Policy
from edge.native import enum_names, lib
from edge.xdp import link, syscalls
from edge.xdp.addresses import local_addresses
from edge.xdp.compiler import Found, edge_object
from edge.xdp.object import Loaded, compare_layouts, load
from edge.xdp.rules import Plan, Vip, make_plan, normal_vips

BPFFS = Path("/sys/fs/bpf")
_COUNT_BYTES = 16
_WORD_MAPS = {"front_v4": lib.EDGE_FRONT_V4_WORDS * 8, "front_v6": lib.EDGE_FRONT_V6_WORDS * 8}
# Where the generation stands in the keys that have one.
_KEYED = {"vips": (20, 19), "sources": (20, 18), "short": (24, 4)}


def pins_of(instance: str) -> Path:
    """The folder of an instance: `maps`, `links` and `programs` stand in it."""
    return BPFFS / "edge" / link.pin_name(instance)


class XdpPlane:
    """One instance's packet program: its maps, its links, its two generations."""

    def __init__(self, instance: str, modes: dict[str, str], loaded: Loaded, found: Found) -> None:
        self.instance = instance
        self._modes = modes
        self._loaded = loaded
        self._found = found
        self._pending: list[tuple[str, str]] = []
        self._control_map = mmap.mmap(loaded.maps["edge_control"], mmap.PAGESIZE)
        self._word = ctypes.c_uint64.from_buffer(self._control_map)
        self._fronts = {
            name: mmap.mmap(loaded.maps[f"edge_{name}"], 2 * size) for name, size in _WORD_MAPS.items()
        }
        self._plans = [self._scan(0), self._scan(1)]
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
    ) -> XdpPlane:
        """Compile or find the program, make or reopen the maps, attach to the interfaces.

        Until the first commit every packet passes. A program that runs over maps of another shape
        goes on until that commit.
        Errors: XdpError, one line that says what is missing.
        """
        if mode not in ("auto", "native", "generic"):
            raise XdpError(f"XDP mode {mode!r} is none of auto, native, generic")
        syscalls.mount_bpffs(str(BPFFS))
        found = edge_object(cache)
        compare_layouts(found.object)
        folder = pins_of(instance)
        try:
            (folder / "links").mkdir(parents=True, exist_ok=True, mode=0o700)
            loaded = load(found.object, folder / "maps", flags=syscalls.PROGRAM_FRAGS)
        except OSError as error:
            raise XdpError(f"cannot use {folder}: {error.strerror}") from error
        plane = cls(instance, {}, loaded, found)
        try:
            for interface in interfaces:
                if loaded.fresh and link.attached(folder / "links", interface):
                    plane._pending.append((interface, mode))
                else:
                    plane._modes[interface] = link.attach(loaded.program, interface, mode, folder / "links")
        except (XdpError, OSError) as error:
            plane.close()
            if isinstance(error, OSError):
                raise XdpError(f"cannot attach to {interface}: {error.strerror}") from error
            raise
        return plane

    @property
    def committed(self) -> int:
        """Version of the generation that packets see, 0 before the first commit."""
        return int(self._word.value) >> 1

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
        if self.committed and same == replace(current, front_v4=same.front_v4, front_v6=same.front_v6):
            self._next = (version, current, same, wanted)
            return
        generation = 1 - self._generation if self.committed else 0
        both = wanted | (self._served or frozenset()) if self.committed else wanted
        plan = make_plan(generation, both, policies, local)
        if self._served is None and self.committed:
            plan.vips = _moved(current.vips, generation) | plan.vips
        try:
            syscalls.wait_for_readers()
            self._write(plan)
        except OSError as error:
            raise XdpError(f"cannot fill the next generation: {error.strerror}") from error
        final = make_plan(generation, wanted, policies, local)
        self._next = (version, plan, final, wanted)

    def commit(self) -> None:
        """Flip to what was prepared; the word is one aligned store.

        Errors: XdpError when nothing was prepared, or a program of an older shape cannot be replaced.
        """
        if self._next is None:
            raise XdpError("nothing was prepared")
        version, plan, self._final, wanted = self._next
        self._next = None
        self._word.value = version << 1 | plan.generation
        self._served = wanted
        for interface, mode in self._pending:
            links = pins_of(self.instance) / "links"
            self._modes[interface] = link.attach(self._loaded.program, interface, mode, links)
        self._pending = []

    def retire(self) -> None:
        """Drop what left: VIPs that are no longer served, and the generation nobody sees."""
        if self._final is None or self._next is not None:
            return
        generation = self._final.generation
        try:
            syscalls.wait_for_readers()
            self._write(replace(self._final, front_v4=None, front_v6=None))
            self._write(Plan(1 - generation, settings=bytes(_settings_bytes())))
        except OSError as error:
            raise XdpError(f"cannot retire a generation: {error.strerror}") from error

    def statistics(self) -> dict[str, tuple[int, int]]:
        """Packets and bytes by reason. Shape: "offered", "pass_other", … to (packets, bytes)."""
        cpus = syscalls.possible_cpus()
        result = {}
        for number, name in reasons().items():
            raw = syscalls.map_lookup(
                self._loaded.maps["edge_counts"], struct.pack("<I", number), cpus * _COUNT_BYTES
            )
            words = struct.unpack(f"<{2 * cpus}Q", raw)
            result[name] = (sum(words[::2]), sum(words[1::2]))
        return result

    def heartbeat_descriptor(self) -> int | None:
        """The mappable page of struct edge_heartbeat; ours, so duplicate it to keep it."""
        return self._loaded.maps.get("edge_heartbeat")

    def summary(self) -> str:
        """One line for an operator: which object runs and why, and where."""
        where = ", ".join(f"{interface} ({mode})" for interface, mode in self._modes.items())
        maps = "new" if self._loaded.fresh else "reopened"
        return (
            f"xdp: {self._found.origin} object ({self._found.why}), {maps} maps, "
            f"on {where or 'the interfaces at the first commit'}"
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
            "committed": self.committed,
            "generation": self._generation,
            "vips": len(self._plans[self._generation].vips),
            "rules": len(self._plans[self._generation].sources) + len(self._plans[self._generation].short),
            "pins": str(pins_of(self.instance)),
            "counters": {
                name: {"packets": packets, "bytes": size}
                for name, (packets, size) in self.statistics().items()
            },
        }

    def close(self) -> None:
        """Close descriptors and mappings; pins, and so the program, stay."""
        del self._word
        self._control_map.close()
        for front in self._fronts.values():
            front.close()
        self._loaded.close()

    @property
    def _generation(self) -> int:
        return int(self._word.value) & 1

    def _scan(self, generation: int) -> Plan:
        """What a former process wrote. Front bits are only ever written whole: not read back."""
        plan = Plan(generation)
        maps = self._loaded.maps
        plan.settings = syscalls.map_lookup(
            maps["edge_settings"], struct.pack("<I", generation), _settings_bytes()
        )
        for name, (key_bytes, at) in _KEYED.items():
            fd = maps[f"edge_{name}"]
            items = getattr(plan, name)
            for key in syscalls.map_keys(fd, key_bytes):
                if key[at] == generation:
                    items[key] = syscalls.map_lookup(fd, key, 4)
        return plan

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


def _moved(vips: dict[bytes, bytes], generation: int) -> dict[bytes, bytes]:
    return {key[:19] + bytes((generation,)): value for key, value in vips.items()}


def _settings_bytes() -> int:
    from edge.native import ffi

    return int(ffi.sizeof("struct edge_settings"))


def reasons() -> dict[int, str]:
    """Numbers of enum edge_drop to names as metrics show them."""
    names = enum_names("edge_drop", "EDGE_")
    return {number: name for number, name in names.items() if number != lib.EDGE_REASON_COUNT}


def detach(instance: str) -> list[str]:
    """Detach every link of an instance and remove its pins.

    Shape: what was removed, as paths under the instance's folder.
    Errors: XdpError where the kernel refuses.
    """
    folder = pins_of(instance)
    removed: list[str] = []
    if not folder.exists():
        return removed
    try:
        for pin in sorted((folder / "links").glob("*/*")):
            link.detach(pin)
            removed.append(str(pin.relative_to(folder)))
        # A crash between a program's pin and its link's leaves the former alone.
        for pin in sorted((*(folder / "maps").glob("*"), *(folder / "programs").glob("*/*"))):
            pin.unlink()
            removed.append(str(pin.relative_to(folder)))
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir()
        folder.rmdir()
        with contextlib.suppress(OSError):
            os.rmdir(folder.parent)
    except OSError as error:
        raise XdpError(f"cannot detach {instance}: {error.strerror}") from error
    return removed
