"""bpf(2) as plain functions over file descriptors: numbers, attribute layouts, nothing else.

Called by object, link, plane, the compiler child and the tests. Holds no state, pins nothing by
itself, knows no map of ours. Every refusal is an OSError with the kernel's errno; program and BTF
loads are tried again with a log so that the text of an XdpError can carry the verifier's words.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

from edge.errors import XdpError

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_ARM = platform.machine() == "aarch64"
_BPF = 280 if _ARM else 321
_MEMBARRIER = 283 if _ARM else 324

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, _NEXT_KEY, PROG_LOAD, OBJ_PIN, OBJ_GET = range(8)
TEST_RUN, INFO_BY_FD, BTF_LOAD, MAP_FREEZE = 10, 15, 18, 22
LOOKUP_BATCH, UPDATE_BATCH, DELETE_BATCH, LINK_CREATE, LINK_UPDATE, LINK_DETACH = 24, 26, 27, 28, 29, 34

TYPE_XDP = 6
ATTACH_XDP = 37
PROGRAM_FRAGS = 1 << 5
LINK_REPLACE = 4
MODE_GENERIC, MODE_NATIVE = 2, 4
RUN_LIVE = 2

_LOG_BYTES = 1 << 20
_BATCH = 1 << 16
_MAPS_MAX = 64  # of one program, as the kernel has it


def bpf(command: int, attributes: bytes, size: int = 0) -> tuple[int, bytes]:
    """Make one call.

    Shape: its result, and the attributes as the kernel left them.
    Errors: OSError.
    """
    buffer = ctypes.create_string_buffer(attributes, max(size, len(attributes)))
    result = _LIBC.syscall(ctypes.c_long(_BPF), ctypes.c_long(command), buffer, ctypes.c_long(len(buffer)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result, buffer.raw


def _keep(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))


def _name(text: str) -> bytes:
    return text.encode()[:15]


@dataclass(frozen=True, slots=True)
class MapShape:
    """What two maps must share to be the same map; BTF types are checked apart."""

    type: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int


def map_create(shape: MapShape, name: str, btf: int = 0, key_type: int = 0, value_type: int = 0) -> int:
    """Make a map; ``btf`` is a descriptor, 0 for none."""
    attributes = struct.pack(
        "<7I16s5IQ",
        *(shape.type, shape.key_bytes, shape.value_bytes, shape.entries, shape.flags, 0, 0),
        _name(name),
        *(0, btf, key_type, value_type, 0),
        0,
    )
    return bpf(MAP_CREATE, attributes)[0]


def _element(command: int, fd: int, key: bytes, value: bytes | None, flags: int = 0) -> bytes:
    key_buffer = _keep(key)
    value_buffer = _keep(value) if value is not None else None
    address = ctypes.addressof(value_buffer) if value_buffer is not None else 0
    bpf(command, struct.pack("<IIQQQ", fd, 0, ctypes.addressof(key_buffer), address, flags))
    return value_buffer.raw if value_buffer is not None else b""


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Put one element."""
    _element(MAP_UPDATE, fd, key, value, flags)


def map_lookup(fd: int, key: bytes, value_bytes: int) -> bytes:
    """Read one element; of a per-CPU map, ``value_bytes`` is for all possible CPUs.

    Errors: OSError with ENOENT where there is none.
    """
    return _element(MAP_LOOKUP, fd, key, bytes(value_bytes))


def map_delete(fd: int, key: bytes) -> None:
    """Remove one element."""
    _element(MAP_DELETE, fd, key, None)


def map_freeze(fd: int) -> None:
    """Allow no more writes through system calls, to nobody."""
    bpf(MAP_FREEZE, struct.pack("<I", fd))


def map_items(fd: int, key_bytes: int, value_bytes: int, room: int) -> dict[bytes, bytes]:
    """All elements of a hash or trie of up to ``room``, in as few calls as it takes.

    Others may write meanwhile: what they put in or take away may be missed, nothing else is.
    """
    found: dict[bytes, bytes] = {}
    count = min(room, _BATCH)
    keys, values = (ctypes.create_string_buffer(count * size) for size in (key_bytes, value_bytes))
    # A hash gives its position in four bytes, a trie in a key.
    position = ctypes.create_string_buffer(max(4, key_bytes))
    start = 0
    while True:
        head = struct.pack(
            "<QQQQ", start, *(ctypes.addressof(one) for one in (position, keys, values))
        ) + struct.pack("<IIQQ", count, fd, 0, 0)
        buffer = ctypes.create_string_buffer(head, len(head))
        result = _LIBC.syscall(
            ctypes.c_long(_BPF), ctypes.c_long(LOOKUP_BATCH), buffer, ctypes.c_long(len(buffer))
        )
        number = ctypes.get_errno() if result < 0 else 0
        if number not in (0, errno.ENOENT):
            raise OSError(number, os.strerror(number))
        got = struct.unpack_from("<I", buffer.raw, 32)[0]
        columns = (
            [item for (item,) in struct.iter_unpack(f"{size}s", buffer_of.raw[: got * size])]
            for buffer_of, size in ((keys, key_bytes), (values, value_bytes))
        )
        found.update(zip(*columns, strict=True))
        if number:
            return found
        start = ctypes.addressof(position)


def map_write(fd: int, items: dict[bytes, bytes]) -> None:
    """Put many elements in one call."""
    if not items:
        return
    keys, values = _keep(b"".join(items)), _keep(b"".join(items.values()))
    head = struct.pack("<QQQQ", 0, 0, ctypes.addressof(keys), ctypes.addressof(values))
    bpf(UPDATE_BATCH, head + struct.pack("<IIQQ", len(items), fd, 0, 0))


def map_remove(fd: int, keys: list[bytes]) -> None:
    """Remove many elements in one call; all must be there."""
    if not keys:
        return
    buffer = _keep(b"".join(keys))
    bpf(DELETE_BATCH, struct.pack("<QQQQIIQQ", 0, 0, ctypes.addressof(buffer), 0, len(keys), fd, 0, 0))


def program_load(code: bytes, name: str, *, kind: int = TYPE_XDP, flags: int = 0) -> int:
    """Give a program to the verifier.

    Errors: XdpError, whose log holds the verifier's words.
    """
    instructions, license_text = _keep(code), ctypes.create_string_buffer(b"GPL")

    def load(log: ctypes.Array[ctypes.c_char] | None) -> int:
        log_words = (1, len(log), ctypes.addressof(log)) if log is not None else (0, 0, 0)
        attributes = struct.pack(
            "<IIQQIIQII16sII",
            *(kind, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(license_text)),
            *log_words,
            *(0, flags, _name(name), 0, ATTACH_XDP if kind == TYPE_XDP else 0),
        )
        return bpf(PROG_LOAD, attributes)[0]

    try:
        return load(None)
    except OSError as error:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return load(log)
        except OSError:
            text = log.value.decode(errors="replace")
            last = text.strip().splitlines()[-1:] or [""]
            raise XdpError(
                f"the kernel refuses program {name}: {error.strerror} {last[0]}".rstrip(), text
            ) from error


def btf_load(data: bytes) -> int:
    """Load a BTF blob."""
    buffer = _keep(data)
    return bpf(BTF_LOAD, struct.pack("<QQIII", ctypes.addressof(buffer), 0, len(data), 0, 0))[0]


def _info(fd: int, size: int, start: bytes = b"") -> bytes:
    buffer = ctypes.create_string_buffer(start, size)
    bpf(INFO_BY_FD, struct.pack("<IIQ", fd, size, ctypes.addressof(buffer)))
    return buffer.raw


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says about a map; BTF numbers are 0 where it has none."""

    shape: MapShape
    id: int
    name: str
    btf_id: int
    key_type: int
    value_type: int


def map_info(fd: int) -> MapInfo:
    """Ask about a map."""
    raw = _info(fd, 88)
    kind, number, key, value, entries, flags = struct.unpack_from("<6I", raw)
    btf_id, key_type, value_type = struct.unpack_from("<3I", raw, 64)
    name = raw[24:40].split(b"\0")[0].decode()
    return MapInfo(MapShape(kind, key, value, entries, flags), number, name, btf_id, key_type, value_type)


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says about a program. Units: bytes."""

    id: int
    tag: str
    jited_bytes: int
    xlated_bytes: int
    name: str
    maps: tuple[int, ...]  # their ids


def program_info(fd: int) -> ProgramInfo:
    """Ask about a program."""
    ids = ctypes.create_string_buffer(4 * _MAPS_MAX)
    raw = _info(fd, 80, bytes(52) + struct.pack("<IQ", _MAPS_MAX, ctypes.addressof(ids)))
    number = struct.unpack_from("<I", raw, 4)[0]
    jited, xlated = struct.unpack_from("<II", raw, 16)
    count = struct.unpack_from("<I", raw, 52)[0]
    return ProgramInfo(
        number,
        raw[8:16].hex(),
        jited,
        xlated,
        raw[64:80].split(b"\0")[0].decode(),
        struct.unpack_from(f"<{count}I", ids.raw),
    )


def link_info(fd: int) -> tuple[int, int]:
    """Shape: id of its program, index of its interface (0 when that is gone)."""
    raw = _info(fd, 32)
    program, _, interface = struct.unpack_from("<III", raw, 8)
    return program, interface


def btf_bytes(btf_id: int) -> bytes:
    """Read the blob of a BTF object that a descriptor of this process holds.

    By descriptor, because a lookup by id takes CAP_SYS_ADMIN.
    Errors: FileNotFoundError when no descriptor holds it.
    """
    for text in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{text}") != "anon_inode:btf":
                continue
            _, size, number = struct.unpack_from("<QII", _info(int(text), 32))
        except FileNotFoundError:
            continue  # the descriptor that listed the folder
        if number == btf_id:
            data = ctypes.create_string_buffer(size)
            _info(int(text), 32, struct.pack("<QI", ctypes.addressof(data), size))
            return data.raw
    raise FileNotFoundError(f"no descriptor holds BTF {btf_id}")


def pin(fd: int, path: str) -> None:
    """Give a map, program or link a name in bpffs."""
    text = ctypes.create_string_buffer(path.encode())
    bpf(OBJ_PIN, struct.pack("<QII", ctypes.addressof(text), fd, 0))


def open_pin(path: str, kind: str) -> int:
    """Open what a name in bpffs holds: a "map", "prog" or "link".

    Errors: OSError, with EINVAL where it is of another kind.
    """
    text = ctypes.create_string_buffer(path.encode())
    fd = bpf(OBJ_GET, struct.pack("<QII", ctypes.addressof(text), 0, 0))[0]
    if kind not in os.readlink(f"/proc/self/fd/{fd}"):  # anon_inode:bpf-map, bpf-prog, bpf_link
        os.close(fd)
        raise OSError(errno.EINVAL, f"it holds no {kind}")
    return fd


def link_create(program: int, interface: int, flags: int) -> int:
    """Attach to an interface; the link is gone with its last descriptor or pin."""
    return bpf(LINK_CREATE, struct.pack("<IIII", program, interface, ATTACH_XDP, flags), 64)[0]


def link_update(link: int, program: int, old: int) -> None:
    """Replace the program in place, if it is still ``old``; no packet passes unseen.

    Errors: OSError with EPERM where somebody else replaced it.
    """
    bpf(LINK_UPDATE, struct.pack("<IIII", link, program, LINK_REPLACE, old))


def link_detach(link: int) -> None:
    """Detach at once, whoever still holds the link."""
    bpf(LINK_DETACH, struct.pack("<I", link))


@dataclass(frozen=True, slots=True)
class Run:
    """What BPF_PROG_TEST_RUN gave. Units: nanoseconds for one run on average."""

    verdict: int
    nanoseconds: int
    data: bytes


def test_run(program: int, data: bytes, repeat: int = 1, *, live: bool = False, batch: int = 0) -> Run:
    """Run a program over a packet; ``live`` frames really leave through redirects."""
    packet = _keep(data)
    room = len(data) + 256
    out = None if live else ctypes.create_string_buffer(room)
    out_words = (0, 0) if out is None else (room, ctypes.addressof(out))
    attributes = struct.pack(
        "<IIIIQQIIIIQQIII",
        *(program, 0, len(data), out_words[0], ctypes.addressof(packet), out_words[1]),
        *(repeat, 0, 0, 0, 0, 0, RUN_LIVE if live else 0, 0, batch),
    )
    raw = bpf(TEST_RUN, attributes, 80)[1]
    verdict, _, size = struct.unpack_from("<III", raw, 4)
    nanoseconds = struct.unpack_from("<I", raw, 36)[0]
    return Run(verdict, nanoseconds, out.raw[:size] if out is not None else b"")


def wait_for_readers() -> None:
    """Return when every packet that was in a program at the call has left it.

    Source: membarrier(2), MEMBARRIER_CMD_GLOBAL waits for a whole RCU period.
    """
    if _LIBC.syscall(ctypes.c_long(_MEMBARRIER), ctypes.c_long(1), ctypes.c_long(0), ctypes.c_long(0)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def possible_cpus() -> int:
    """How many values an element of a per-CPU map has."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        last = file.read().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1
