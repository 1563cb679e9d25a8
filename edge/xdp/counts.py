"""Packets and bytes by reason, over every set of maps that ever counted: totals that never go back.

Called by plane (reads) and pins (takes over). A map of counters that could not be shared stays readable
until nothing runs over it; then its totals go to `edge_carried` beside the map that counts on. The last
entry there names the map that was taken over last, so that a process that dies in between, and the next
one, add it once. Writes no map that a program writes.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from edge.native import enum_names, lib
from edge.xdp import syscalls
from edge.xdp.syscalls import MapShape

COUNTS, CARRIED = "edge_counts", "edge_carried"
_ENTRY = struct.Struct("<QQ")
_ARRAY = 2

Pair = tuple[int, int]  # packets, bytes


def reasons() -> dict[int, str]:
    """Numbers of enum edge_drop to names as metrics show them."""
    names = enum_names("edge_drop", "EDGE_")
    return {number: name for number, name in names.items() if number != lib.EDGE_REASON_COUNT}


@dataclass(slots=True)
class Counter:
    """A map that programs count in, and what it was given of earlier ones."""

    id: int
    live: int
    carried: int | None

    def close(self) -> None:
        """Close what is open."""
        for fd in (self.live, self.carried):
            if fd is not None:
                os.close(fd)


def open_counter(place: Path) -> Counter | None:
    """Shape: None where the place has none that can be read."""
    try:
        live = syscalls.open_pin(str(place / COUNTS), "map")
    except OSError:
        return None
    carried = None
    with contextlib.suppress(OSError):
        carried = syscalls.open_pin(str(place / CARRIED), "map")
    return Counter(syscalls.map_info(live).id, live, carried)


def total(counters: Iterable[Counter]) -> list[Pair]:
    """Sum by number of the reason, a map that two places share once. Errors: OSError."""
    seen: set[int] = set()
    sums: list[Pair] = []
    for counter in counters:
        if counter.id in seen:
            continue
        seen.add(counter.id)
        sums = _added(sums, _live(counter.live))
        if counter.carried is not None:
            sums = _added(sums, _carried(counter.carried)[:-1])
    return sums


def named(sums: list[Pair]) -> dict[str, Pair]:
    """By name; a reason that a newer program counted under is shown by its number."""
    names = reasons()
    result = {name: (0, 0) for name in names.values()}
    for number, pair in enumerate(sums):
        if number in names or any(pair):
            result[names.get(number, f"reason_{number}")] = pair
    return result


def take_over(place: Path, gone: Path) -> None:
    """Leave the totals of ``gone`` with ``place``; nothing counts there any more.

    Errors: OSError.
    """
    with contextlib.ExitStack() as stack:
        ours, old = open_counter(place), open_counter(gone)
        for one in (ours, old):
            if one is not None:
                stack.callback(one.close)
        if ours is None or old is None or ours.id == old.id:
            return
        had = _carried(ours.carried) if ours.carried is not None else [(0, 0)]
        if had[-1][0] == old.id:
            return
        sums = _added(had[:-1], total([old]))
        if any(map(any, sums)):
            _keep(place / CARRIED, [*sums, (old.id, 0)])


def share(place: Path, old: Path) -> None:
    """Let a place that shares the counters of ``old`` have what those were given. Errors: OSError."""
    try:
        fd = syscalls.open_pin(str(old / CARRIED), "map")
    except FileNotFoundError:
        return
    try:
        syscalls.pin(fd, str(place / CARRIED))
    finally:
        os.close(fd)


def _live(fd: int) -> list[Pair]:
    shape = syscalls.map_info(fd).shape
    cpus = syscalls.possible_cpus()
    step = shape.value_bytes + 7 & ~7
    result = []
    for number in range(shape.entries):
        raw = syscalls.map_lookup(fd, struct.pack("<I", number), cpus * step)
        # Packets and bytes stand first, whatever else a later version counts.
        words = [_ENTRY.unpack_from(raw, cpu * step) for cpu in range(cpus)]
        result.append((sum(one[0] for one in words), sum(one[1] for one in words)))
    return result


def _carried(fd: int) -> list[Pair]:
    entries = syscalls.map_info(fd).shape.entries
    return [
        _ENTRY.unpack(syscalls.map_lookup(fd, struct.pack("<I", number), _ENTRY.size))
        for number in range(entries)
    ]


def _keep(pin: Path, pairs: list[Pair]) -> None:
    """Write a map, then let its name appear or change at once."""
    fd = syscalls.map_create(MapShape(_ARRAY, 4, _ENTRY.size, len(pairs), 0), CARRIED)
    try:
        syscalls.map_write(fd, {struct.pack("<I", i): _ENTRY.pack(*pair) for i, pair in enumerate(pairs)})
        new = pin.with_name(f"{CARRIED}%new")
        new.unlink(missing_ok=True)
        syscalls.pin(fd, str(new))
        new.rename(pin)
    finally:
        os.close(fd)


def _added(one: list[Pair], two: list[Pair]) -> list[Pair]:
    pairs = zip_longest(one, two, fillvalue=(0, 0))
    return [(first[0] + second[0], first[1] + second[1]) for first, second in pairs]
