"""The one loader of packet programs: an object, fresh or stored, becomes maps, pins and a program.

Called by plane, tests and the packet generator. Makes maps that are named and typed, reopens pins
only if their shapes and layouts are the object's, and refuses an object whose structs differ from
cffi's layout of the same header. Never compiles, never attaches.

The layouts of pinned maps are known by a digest in a frozen map of one element that is pinned beside
them: their BTF could only be opened by id, which takes CAP_SYS_ADMIN, and no process of ours has it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.errors import XdpError
from edge.xdp import syscalls
from edge.xdp.btf import Btf
from edge.xdp.syscalls import MapShape

ABI = 1
# Beside the pins of the maps, and the last of them to be made: where it stands, all stand.
LAYOUT_PIN = "edge_layout"
_LAYOUT_SHAPE = MapShape(type=2, key_bytes=4, value_bytes=32, entries=1, flags=0)
_FIRST = bytes(4)


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


def load(found: BpfObject, pins: Path | None = None, *, flags: int = 0) -> Loaded:
    """Make or reopen the maps, then load the program over them.

    A pin of another shape makes *all* maps anew: half of an old state is worse than none.
    Errors: XdpError; OSError never.
    """
    try:
        maps, fresh = _open_maps(found, pins)
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


def _open_maps(found: BpfObject, pins: Path | None) -> tuple[dict[str, int], bool]:
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
            maps[name] = syscalls.map_create(
                spec.shape, name, btf if spec.key_type else 0, spec.key_type, spec.value_type
            )
            if pins is not None:
                syscalls.pin(maps[name], str(pins / name))
        if pins is not None:
            _keep_digest(layout_digest(found), pins)
    except OSError:
        for fd in maps.values():
            os.close(fd)
        raise
    finally:
        os.close(btf)
    return maps, True


def layout_digest(found: BpfObject) -> bytes:
    """Digest of all that two processes must share to share maps: names, shapes, structs and fields."""
    btf = Btf(found.btf)
    text = {
        name: [asdict(spec.shape), _spelled(btf, spec.key_type), _spelled(btf, spec.value_type)]
        for name, spec in found.maps.items()
    }
    return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).digest()


def _spelled(btf: Btf, number: int) -> list[Any]:
    """A type without its number: name, size, and the members or the element with theirs."""
    bare = btf.bare(number)
    members = [[name, at, _spelled(btf, kind)] for name, kind, at in bare.members]
    if bare.array[1]:
        members = [["", 0, _spelled(btf, bare.array[0])]]
    return [btf.struct_name(number), btf.size(number), members]


def _keep_digest(digest: bytes, pins: Path) -> None:
    fd = syscalls.map_create(_LAYOUT_SHAPE, LAYOUT_PIN)
    try:
        syscalls.map_update(fd, _FIRST, digest)
        syscalls.map_freeze(fd)
        syscalls.pin(fd, str(pins / LAYOUT_PIN))
    finally:
        os.close(fd)


def _kept_digest(pins: Path) -> bytes:
    """Shape: b"" where none is kept."""
    try:
        fd = syscalls.open_pin(str(pins / LAYOUT_PIN))
    except FileNotFoundError:
        return b""
    try:
        if syscalls.map_info(fd).shape != _LAYOUT_SHAPE:
            return b""
        return syscalls.map_lookup(fd, _FIRST, _LAYOUT_SHAPE.value_bytes)
    finally:
        os.close(fd)


def _reopen(found: BpfObject, pins: Path) -> dict[str, int] | None:
    if _kept_digest(pins) != layout_digest(found):
        return None
    maps: dict[str, int] = {}
    try:
        for name, spec in found.maps.items():
            maps[name] = syscalls.open_pin(str(pins / name))
            if syscalls.map_info(maps[name]).shape != spec.shape:
                break
        else:
            return maps
    except FileNotFoundError:
        pass
    for fd in maps.values():
        os.close(fd)
    return None
