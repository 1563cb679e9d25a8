"""Reading a BTF blob: names, offsets and sizes of the structs that the compiler saw.

Called by edge/xdp/object.py to compare them with cffi's layout of the same header. Reads only what
edge_abi.h needs: integers, arrays, structs, typedefs and enums; writes nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_INT, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT = 8, 9, 10, 11
# Bytes after the 12 of every type, by kind: fixed part, and each of its `vlen` members.
_TAIL = {
    1: (4, 0), 2: (0, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 7: (0, 0), 8: (0, 0), 9: (0, 0),
    10: (0, 0), 11: (0, 0), 12: (0, 0), 13: (0, 8), 14: (4, 0), 15: (0, 12), 16: (0, 0), 17: (4, 0),
    18: (0, 0), 19: (0, 12),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class BtfType:
    """One type as it stands in the blob. ``size_or_type``: which of the two depends on the kind."""

    name: str
    kind: int
    size_or_type: int
    members: tuple[tuple[str, int, int], ...]  # struct: name, type, offset in bits
    array: tuple[int, int]  # element type, count


class Btf:
    """The types of a blob by number.

    Errors: ValueError for a blob that is not BTF.
    """

    def __init__(self, data: bytes) -> None:
        magic, _, _, header, type_at, type_bytes, text_at, text_bytes = struct.unpack_from("<HBBIIIII", data)
        if magic != 0xEB9F:
            raise ValueError("not BTF")
        self._text = data[header + text_at : header + text_at + text_bytes]
        self.types: list[BtfType] = [BtfType("", 0, 0, (), (0, 0))]
        at, end = header + type_at, header + type_at + type_bytes
        while at < end:
            at = self._read(data, at)

    def _read(self, data: bytes, at: int) -> int:
        name, info, size = struct.unpack_from("<III", data, at)
        kind, count, flag = info >> 24 & 31, info & 0xFFFF, info >> 31
        at += 12
        if kind not in _TAIL:
            raise ValueError(f"BTF kind {kind} is unknown")
        members: tuple[tuple[str, int, int], ...] = ()
        array = (0, 0)
        if kind in (_STRUCT, _UNION):
            found = []
            for i in range(count):
                member, kind_of, offset = struct.unpack_from("<III", data, at + 12 * i)
                found.append((self._string(member), kind_of, offset & 0xFFFFFF if flag else offset))
            members = tuple(found)
        if kind == _ARRAY:
            element, _, number = struct.unpack_from("<III", data, at)
            array = (element, number)
        self.types.append(BtfType(self._string(name), kind, size, members, array))
        fixed, each = _TAIL[kind]
        end: int = at + fixed + each * count
        return end

    def _string(self, at: int) -> str:
        return self._text[at : self._text.index(b"\0", at)].decode()

    def bare(self, number: int) -> BtfType:
        """Follow typedefs and qualifiers."""
        found = self.types[number]
        while found.kind in (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT):
            found = self.types[found.size_or_type]
        return found

    def size(self, number: int) -> int:
        """Units: bytes."""
        found = self.bare(number)
        if found.kind == _ARRAY:
            return found.array[1] * self.size(found.array[0])
        return found.size_or_type

    def layout(self, number: int) -> dict[str, tuple[int, int]]:
        """Shape: of a struct, field name to (offset, size) in bytes; of anything else, empty."""
        found = self.bare(number)
        if found.kind != _STRUCT:
            return {}
        return {name: (offset // 8, self.size(kind)) for name, kind, offset in found.members}

    def struct_name(self, number: int) -> str:
        """Shape: "" where the type is not a struct."""
        found = self.bare(number)
        return found.name if found.kind == _STRUCT else ""
