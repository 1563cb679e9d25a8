"""The kernel's inotify, as much of it as files.py needs.

Called by files.py alone. The standard library has no binding and pyroute2's blocks a thread; this one
gives a descriptor for the event loop. Never reads a file, never decides what an event means.
Source: inotify(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MODIFY = 0x2
CLOSE_WRITE = 0x8
MOVED = 0xC0
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
ONLYDIR = 0x0100_0000
CHANGES = MODIFY | CLOSE_WRITE | MOVED | CREATE | DELETE | DELETE_SELF | MOVE_SELF | ONLYDIR

_HEADER = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Change:
    """One event: the watched folder ("" after an overflow), the name in it, the mask."""

    folder: str
    name: str
    mask: int


class Inotify:
    """One inotify descriptor, non-blocking."""

    def __init__(self) -> None:
        """Errors: OSError when the user has too many instances."""
        self.descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._folders: dict[int, str] = {}

    def watch(self, folder: str) -> None:
        """Watch a folder; twice is once.

        Errors: OSError (FileNotFoundError, NotADirectoryError, too many watches).
        """
        number = _checked(_libc.inotify_add_watch(self.descriptor, os.fsencode(folder), CHANGES))
        self._folders[number] = folder

    def read(self) -> Iterator[Change]:
        """Take what has happened; nothing when nothing has."""
        while True:
            try:
                data = os.read(self.descriptor, 65536)
            except BlockingIOError:
                return
            offset = 0
            while offset < len(data):
                number, mask, _cookie, length = _HEADER.unpack_from(data, offset)
                offset += _HEADER.size
                name = data[offset : offset + length].rstrip(b"\0")
                offset += length
                yield Change(self._folders.get(number, ""), os.fsdecode(name), mask)

    def close(self) -> None:
        """Close the descriptor; once more does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
