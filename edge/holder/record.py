"""RUN_DIR/INSTANCE/holding.json: what a holder leaves for the one that comes after its death.

Called by holder/main.py (write) and holder/adopt.py (read). It names processes by pid and start time, and
sockets and memory by numbers of the kernel, so that a successor believes only what the last holder had.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edge.holder.log import say
from edge.holdings import HeldChild, Holdings

NAME = "holding.json"
SPARE = ".holding.json.spare"
ROOM_BYTES = 16384  # 64 listeners of 64 members do not fit: such a file grows
AT_FDCWD = -100
RENAME_EXCHANGE = 2
SO_COOKIE = 57  # asm-generic/socket.h


@dataclass(frozen=True, slots=True)
class Process:
    """A child. Shape: ``start`` is field 22 of /proc/PID/stat, in clock ticks since boot."""

    pid: int
    start: int
    part: str
    lane_first: int = 0


@dataclass(slots=True)
class Served:
    """A listener: cookies of its members."""

    slot: int
    address: str
    port: int
    cookies: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Record:
    """The file. Shape: ``statistics`` is device and inode of that memory."""

    pidns: int = 0
    holder: int = 0
    workers: int = 0
    statistics: list[int] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    listeners: list[Served] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def pid_namespace() -> int:
    """Return the inode of our PID namespace."""
    return os.stat("/proc/self/ns/pid").st_ino


def start_of(pid: int) -> int:
    """Return when a process was started, 0 when it is gone. Units: clock ticks since boot."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    words = text.rpartition(")")[2].split()
    return 0 if words[0] in "ZX" else int(words[19])


def cookie_of(end: socket.socket) -> int:
    """Return the number that the kernel gave a socket, the same in every process, never given again."""
    return int.from_bytes(end.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")


def _cookie(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        return cookie_of(copy)


def make(holdings: Holdings, children: list[HeldChild]) -> Record:
    """Make the record of this moment."""
    memory = os.fstat(holdings.statistics)
    return Record(
        pid_namespace(),
        os.getpid(),
        holdings.workers,
        [memory.st_dev, memory.st_ino],
        [Process(one.pid, start_of(one.pid), one.part, one.lane_first) for one in children],
        [
            Served(one.slot, one.address, one.port, [_cookie(member) for member in one.members])
            for one in holdings.listeners.values()
        ],
        dict(holdings.counts),
    )


def write(directory: Path, record: Record) -> None:
    """Replace the file; what cannot be written is said, and stops nothing.

    Two files of one size change places, so that a disk that fills up later has room for every next one.
    """
    try:
        while True:
            _write_spare(directory / SPARE, json.dumps(asdict(record)).encode())
            if (directory / NAME).exists():
                _exchange(directory / SPARE, directory / NAME)
                return
            os.replace(directory / SPARE, directory / NAME)
    except OSError as error:
        say(f"--run-dir: cannot write {directory / NAME}: {error.strerror}")


def _write_spare(spare: Path, data: bytes) -> None:
    number = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(number, "wb", buffering=0) as file:
        room = max(ROOM_BYTES, os.fstat(number).st_size, len(data))
        os.posix_fallocate(number, 0, room)
        file.write(data.ljust(room))


def _exchange(one: Path, other: Path) -> None:
    """Let two files change names, at once. Errors: OSError."""
    first, second = os.fsencode(one), os.fsencode(other)
    if ctypes.CDLL(None).renameat2(AT_FDCWD, first, AT_FDCWD, second, RENAME_EXCHANGE):
        os.replace(one, other)  # a file system that cannot: then the next one needs room again


def read(directory: Path) -> Record | None:
    """Return what the last holder left; None when there is nothing, or nothing that makes sense."""
    try:
        words = json.loads((directory / NAME).read_text())
        return Record(
            int(words["pidns"]),
            int(words["holder"]),
            int(words["workers"]),
            [int(number) for number in words["statistics"]],
            [
                Process(int(one["pid"]), int(one["start"]), str(one["part"]), int(one["lane_first"]))
                for one in words["processes"]
            ],
            [
                Served(
                    int(one["slot"]), str(one["address"]), int(one["port"]), [int(n) for n in one["cookies"]]
                )
                for one in words["listeners"]
            ],
            {str(name): int(count) for name, count in words["counts"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remove(directory: Path) -> None:
    """Say that nothing is left to adopt."""
    for name in (NAME, SPARE):
        with contextlib.suppress(OSError):
            (directory / name).unlink()
