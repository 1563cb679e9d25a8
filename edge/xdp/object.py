"""The one loader of packet programs: an object, fresh or stored, becomes maps, pins and a program.

Called by plane, tests and the packet generator. Makes maps that are named and typed, reopens pins
only if their shapes and layouts are the object's, and refuses an object whose structs differ from
cffi's layout of the same header. Never compiles, never attaches.

The layouts of pinned maps are known by digests in a frozen map that is pinned beside them: their BTF could
only be opened by id, which takes CAP_SYS_ADMIN, and no process of ours has it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.errors import XdpError
from edge.xdp import syscalls
from edge.xdp.btf import Btf
from edge.xdp.syscalls import MapShape

ABI = 1
# Beside the pins of the maps, and the last of them to be made: where it stands, all stand. An entry for
# each map: half of it says what its keys and values are, half its shape.
LAYOUT_PIN = "edge_layout"
_DIGEST_BYTES = 32
# What belongs to packets and not to a generation: two sets of maps share these where they are the same.
KEPT = ("edge_buckets", "edge_counts", "edge_heartbeat")


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One map of an object: its shape, and its types in the object's BTF."""

    shape: MapShape
    key_type: int
    value_type: int


@dataclass(frozen=True, slots=True)
class BpfObject:
    """What the compiler emits. ``source``: digest of the text it was made from, "" for a test's."""

    program: str
    code: bytes
    relocations: tuple[tuple[int, str], ...]
    maps: dict[str, MapSpec]
    btf: bytes
    source: str

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BpfObject:
        """Errors: XdpError for an object of another version of this format."""
        try:
            if data.get("abi", ABI) != ABI:
                raise XdpError(f"packet program object has version {data['abi']}, expected {ABI}")
            maps = {}
            for name, spec in data["maps"].items():
                shape = MapShape(**{field: spec[field] for field in MapShape.__slots__})
                maps[name] = MapSpec(shape, spec["key_type"], spec["value_type"])
            return cls(
                program=data["program"],
                code=bytes.fromhex(data["code"]),
                relocations=tuple((at, name) for at, name in data["relocations"]),
                maps=maps,
                btf=bytes.fromhex(data["btf"]),
                source=data["source"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise XdpError(f"packet program object is broken: {error!r}") from error

    def to_dict(self) -> dict[str, Any]:
        """Inverse of from_dict; plain JSON."""
        maps = {
            name: asdict(spec.shape) | {"key_type": spec.key_type, "value_type": spec.value_type}
            for name, spec in self.maps.items()
        }
        return {
            "abi": ABI,
            "program": self.program,
            "code": self.code.hex(),
            "relocations": [list(entry) for entry in self.relocations],
            "maps": maps,
            "btf": self.btf.hex(),
            "source": self.source,
        }


def compare_layouts(found: BpfObject) -> None:
    """Compare every struct of the object's maps with cffi's layout of edge_abi.h.

    Errors: XdpError that names the first struct and field that differ.
    """
    from edge.native import ffi

    btf = Btf(found.btf)
    for name, spec in found.maps.items():
        for number, size in (
            (spec.key_type, spec.shape.key_bytes),
            (spec.value_type, spec.shape.value_bytes),
        ):
            if btf.size(number) != size:
                raise XdpError(f"map {name}: BTF says {btf.size(number)} bytes, the map {size}")
            _compare_struct(ffi, btf, number)


def _compare_struct(ffi: Any, btf: Btf, number: int) -> None:
    name = btf.struct_name(number)
    if not name:
        return
    try:
        ours = ffi.typeof(f"struct {name}")
    except ffi.error as error:
        raise XdpError(f"struct {name} of the packet program is unknown to edge_abi.h") from error
    wanted = {field: (info.offset, ffi.sizeof(info.type)) for field, info in ours.fields}
    have = btf.layout(number)
    for field in wanted.keys() | have.keys():
        if wanted.get(field) != have.get(field):
            raise XdpError(
                f"struct {name}: field {field} is at {have.get(field)} (offset, bytes) in the program, "
                f"at {wanted.get(field)} in edge_abi.h: compile again"
            )
    if ffi.sizeof(ours) != btf.size(number):
        raise XdpError(
            f"struct {name}: {btf.size(number)} bytes in the packet program, {ffi.sizeof(ours)} here"
        )
    for _, kind, _ in btf.bare(number).members:
        _compare_struct(ffi, btf, kind)


@dataclass(slots=True)
class Loaded:
    """A program and its maps, as descriptors. ``fresh``: the maps are new and empty."""

    program: int
    maps: dict[str, int]
    fresh: bool

    def close(self) -> None:
        """Close every descriptor; pins stay."""
        for fd in (self.program, *self.maps.values()):
            os.close(fd)
        self.maps = {}


def load(
    found: BpfObject, pins: Path | None = None, *, kept: Mapping[str, Path] | None = None, flags: int = 0
) -> Loaded:
    """Make or reopen the maps, then load the program over them.

    Pins of another shape are removed and *all* maps made anew, but for ``kept``: half of an old state is
    worse than none.
    Errors: XdpError; OSError never.
    """
    try:
        maps, fresh = _open_maps(found, pins, kept or {})
    except OSError as error:
        raise XdpError(f"cannot make BPF maps: {error.strerror}") from error
    try:
        program = syscalls.program_load(linked(found, maps), found.program, flags=flags)
    except XdpError:
        for fd in maps.values():
            os.close(fd)
        raise
    return Loaded(program, maps, fresh)


def linked(found: BpfObject, maps: dict[str, int]) -> bytes:
    """The object's instructions with map descriptors in their places."""
    code = bytearray(found.code)
    for at, name in found.relocations:
        struct.pack_into("<i", code, at * 8 + 4, maps[name])
    return bytes(code)


def _open_maps(found: BpfObject, pins: Path | None, kept: Mapping[str, Path]) -> tuple[dict[str, int], bool]:
    if pins is not None:
        opened = _reopen(found, pins)
        if opened is not None:
            return opened, False
        for name in (LAYOUT_PIN, *found.maps):
            (pins / name).unlink(missing_ok=True)
        pins.mkdir(parents=True, exist_ok=True, mode=0o700)
    maps: dict[str, int] = {}
    btf = syscalls.btf_load(found.btf)
    try:
        for name, spec in found.maps.items():
            if name in kept:
                maps[name] = syscalls.open_pin(str(kept[name]), "map")
            else:
                maps[name] = syscalls.map_create(
                    spec.shape, name, btf if spec.key_type else 0, spec.key_type, spec.value_type
                )
            if pins is not None:
                syscalls.pin(maps[name], str(pins / name))
        if pins is not None:
            _keep_digests(layout_digests(found), pins)
    except OSError:
        for fd in maps.values():
            os.close(fd)
        raise
    finally:
        os.close(btf)
    return maps, True


def layout_digests(found: BpfObject) -> dict[str, bytes]:
    """What two processes must share to share a map, by name: structs and fields, then the shape."""
    btf = Btf(found.btf)
    result = {}
    for name, spec in sorted(found.maps.items()):
        halves = ([name, _spelled(btf, spec.key_type), _spelled(btf, spec.value_type)], asdict(spec.shape))
        result[name] = b"".join(
            hashlib.sha256(json.dumps(half, sort_keys=True).encode()).digest()[: _DIGEST_BYTES // 2]
            for half in halves
        )
    return result


def matches(found: BpfObject, pins: Path) -> dict[str, str]:
    """How pinned maps compare, by name: "same", "content" (but not the shape); others are left out."""
    kept = _kept_digests(pins)
    content = {digest[: _DIGEST_BYTES // 2] for digest in kept}
    return {
        name: "same" if digest in kept else "content"
        for name, digest in layout_digests(found).items()
        if digest[: _DIGEST_BYTES // 2] in content
    }


def _spelled(btf: Btf, number: int) -> list[Any]:
    """A type without its number: name, size, and the members or the element with theirs."""
    bare = btf.bare(number)
    members = [[name, at, _spelled(btf, kind)] for name, kind, at in bare.members]
    if bare.array[1]:
        members = [["", 0, _spelled(btf, bare.array[0])]]
    return [btf.struct_name(number), btf.size(number), members]


def _keep_digests(digests: dict[str, bytes], pins: Path) -> None:
    shape = MapShape(type=2, key_bytes=4, value_bytes=_DIGEST_BYTES, entries=len(digests), flags=0)
    fd = syscalls.map_create(shape, LAYOUT_PIN)
    try:
        for number, digest in enumerate(digests.values()):
            syscalls.map_update(fd, struct.pack("<I", number), digest)
        syscalls.map_freeze(fd)
        syscalls.pin(fd, str(pins / LAYOUT_PIN))
    finally:
        os.close(fd)


def _kept_digests(pins: Path) -> list[bytes]:
    """Shape: empty where none can be read."""
    try:
        fd = syscalls.open_pin(str(pins / LAYOUT_PIN), "map")
    except OSError:
        return []
    try:
        shape = syscalls.map_info(fd).shape
        if (shape.type, shape.key_bytes, shape.value_bytes) != (2, 4, _DIGEST_BYTES):
            return []
        return [
            syscalls.map_lookup(fd, struct.pack("<I", number), _DIGEST_BYTES)
            for number in range(shape.entries)
        ]
    finally:
        os.close(fd)


def reopens(found: BpfObject, pins: Path) -> bool:
    """Tell whether `load` would find all maps of the object pinned in a folder."""
    maps = _reopen(found, pins)
    for fd in (maps or {}).values():
        os.close(fd)
    return maps is not None


def _reopen(found: BpfObject, pins: Path) -> dict[str, int] | None:
    if _kept_digests(pins) != list(layout_digests(found).values()):
        return None
    maps: dict[str, int] = {}
    try:
        for name, spec in found.maps.items():
            maps[name] = syscalls.open_pin(str(pins / name), "map")
            if syscalls.map_info(maps[name]).shape != spec.shape:
                break
        else:
            return maps
    except OSError:
        pass  # a name that is gone, or is somebody else's
    for fd in maps.values():
        os.close(fd)
    return None
