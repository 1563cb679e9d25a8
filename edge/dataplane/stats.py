"""Counters of the data plane: reads the lanes and cells of the statistics memory.

Called by edge/admin/metrics.py and by the controller; `ensure_formatted` by edge/dataplane/main.py. The
writers are workers, one for each lane; what they write is believed only as numbers: every offset is
checked against the memory's size. Only reads: a dead data plane's books are closed by its successor.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from edge.native import enum_names, ffi, format_stats, lib, stats_bytes

OUTCOMES: Final = {
    number: name for number, name in enum_names("edge_outcome", "EDGE_OUTCOME_").items() if name != "count"
}
LATENCY_BUCKETS: Final = 32
READS_MAX = 50  # of a lane that its writer keeps changing
STALLED_NS = 3_000_000_000  # a worker that has not passed the top of its loop for so long
_SUMMED = (
    "requests",
    "in_flight",
    "connections",
    "connections_open",
    "bytes_in",
    "bytes_out",
    "tls_handshakes",
    "tls_errors",
    "log_lines",
    "log_dropped",
    "accept_errors",
    "tunnels",
    "connect_limits",
    "memory_errors",
)
_UPSTREAM_SUMMED = ("in_flight", "requests", "connects", "connect_errors", "timeouts", "resets", "retries")


def ensure_formatted(descriptor: int, lanes: int) -> None:
    """Give a fresh statistics memory its size and header; one that has them is left alone.

    Called before the first thread of a data plane. Errors: OSError, NativeError.
    """
    if os.fstat(descriptor).st_size:
        return
    size = stats_bytes(lanes)
    os.ftruncate(descriptor, size)
    with mmap.mmap(descriptor, size) as memory:
        format_stats(memory, lanes)


@dataclass(slots=True)
class Totals:
    """Sums over all lanes, dead ones included. Units: bytes; latency in log2 buckets of microseconds."""

    values: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_SUMMED, 0))
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES.values(), 0))
    latency: list[int] = field(default_factory=lambda: [0] * LATENCY_BUCKETS)
    versions: list[int] = field(default_factory=list)  # of live lanes
    stalled: int = 0  # live lanes whose worker does not come round


@dataclass(slots=True)
class CellTotals:
    """Sums of one route's or upstream's cells over all lanes. Shape: status by class, 1xx first."""

    values: dict[str, int] = field(default_factory=dict)
    status: list[int] = field(default_factory=lambda: [0] * 5)


class Statistics:
    """The mapped memory. Thread: the controller's only."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory: mmap.mmap | None = None
        self._base: Any = None
        self._header: Any = None

    def open(self) -> bool:
        """Map it once a data plane has formatted it; False until then, or when its header makes no sense."""
        if self._memory is not None:
            return True
        size = os.fstat(self._descriptor).st_size
        if size < ffi.sizeof("struct edge_stats_header"):
            return False
        memory = mmap.mmap(self._descriptor, size)
        base = ffi.from_buffer("uint8_t[]", memory)
        header = ffi.new("struct edge_stats_header *")
        ffi.memmove(header, base, ffi.sizeof("struct edge_stats_header"))
        if not self._makes_sense(header, size):
            return False
        self._memory, self._base, self._header = memory, base, header
        return True

    @staticmethod
    def _makes_sense(header: Any, size: int) -> bool:
        lanes = header.lane_count
        parts = (
            (header.lanes_offset, lanes * ffi.sizeof("struct edge_lane")),
            (header.route_cells_offset, lanes * lib.EDGE_ROUTE_SLOTS * ffi.sizeof("struct edge_route_cell")),
            (
                header.upstream_cells_offset,
                lanes * lib.EDGE_UPSTREAM_SLOTS * ffi.sizeof("struct edge_upstream_cell"),
            ),
        )
        return (
            header.magic == lib.EDGE_STATS_MAGIC
            and header.layout == lib.EDGE_STATS_LAYOUT
            and all(offset % 8 == 0 and offset + length <= size for offset, length in parts)
        )

    def _lane(self, number: int) -> Any:
        start = self._base + self._header.lanes_offset
        return ffi.cast("struct edge_lane *", start) + number

    def _read_lane(self, number: int) -> Any:
        """Copy a lane at a moment when its books are balanced.

        A worker that was interrupted between its stores may stay so: then what has no outcome is in flight.
        """
        live = self._lane(number)
        copy = ffi.new("struct edge_lane *")
        for _ in range(READS_MAX):
            ffi.memmove(copy, live, ffi.sizeof("struct edge_lane"))
            if copy.requests == sum(copy.outcomes) + copy.in_flight:
                return copy
        copy.in_flight = max(copy.requests - sum(copy.outcomes), 0)
        return copy

    def totals(self) -> Totals:
        """Sum all lanes."""
        result = Totals()
        if not self.open():
            return result
        now = time.monotonic_ns()
        for number in range(self._header.lane_count):
            lane = self._read_lane(number)
            for name in _SUMMED:
                result.values[name] += getattr(lane, name)
            for index, name in OUTCOMES.items():
                result.outcomes[name] += lane.outcomes[index]
            for index in range(LATENCY_BUCKETS):
                result.latency[index] += lane.latency[index]
            if lane.pid:
                result.versions.append(lane.version)
                result.stalled += lane.loop_ns + STALLED_NS < now
        return result

    def _cells(self, kind: str, offset: int, slots: int, index: int, generation: int) -> Iterable[Any]:
        start = ffi.cast(f"struct {kind} *", self._base + offset)
        for lane in range(self._header.lane_count):
            cell = start[lane * slots + index]
            if cell.generation == generation:
                yield cell

    def route(self, index: int, generation: int) -> CellTotals:
        """Sum the cells of a route's slot."""
        result = CellTotals({"requests": 0, "bytes_out": 0})
        if self.open() and 0 <= index < lib.EDGE_ROUTE_SLOTS:
            place = self._header.route_cells_offset
            for cell in self._cells("edge_route_cell", place, lib.EDGE_ROUTE_SLOTS, index, generation):
                _add(result, cell)
        return result

    def upstream(self, index: int, generation: int) -> CellTotals:
        """Sum the cells of an upstream's slot."""
        result = CellTotals(dict.fromkeys(_UPSTREAM_SUMMED, 0))
        if self.open() and 0 <= index < lib.EDGE_UPSTREAM_SLOTS:
            place = self._header.upstream_cells_offset
            for cell in self._cells("edge_upstream_cell", place, lib.EDGE_UPSTREAM_SLOTS, index, generation):
                _add(result, cell)
        return result


def _add(result: CellTotals, cell: Any) -> None:
    for name in result.values:
        result.values[name] += getattr(cell, name)
    for index in range(5):
        result.status[index] += cell.status[index]
