"""Counters read from a memory whose writers are believed only as numbers."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from edge.dataplane.stats import OUTCOMES, Statistics, ensure_formatted
from edge.native import ffi, lib, stats_bytes

LANES = 2


@pytest.fixture
def memory() -> Iterator[int]:
    number = os.memfd_create("stats")
    yield number
    os.close(number)


class Writer:
    """A worker's view of the memory."""

    def __init__(self, descriptor: int) -> None:
        self.map = mmap.mmap(descriptor, stats_bytes(LANES))
        self.base = ffi.from_buffer("uint8_t[]", self.map)
        self.header = ffi.cast("struct edge_stats_header *", self.base)

    def lane(self, number: int) -> Any:
        return ffi.cast("struct edge_lane *", self.base + self.header.lanes_offset)[number]

    def route(self, lane: int, slot: int) -> Any:
        cells = ffi.cast("struct edge_route_cell *", self.base + self.header.route_cells_offset)
        return cells[lane * lib.EDGE_ROUTE_SLOTS + slot]


def test_nothing_is_counted_before_a_data_plane_was_there(memory: int) -> None:
    totals = Statistics(memory).totals()
    assert not any(totals.values.values()) and not any(totals.outcomes.values())
    assert Statistics(memory).route(0, 1).values["requests"] == 0


def test_formatted_once(memory: int) -> None:
    ensure_formatted(memory, LANES)
    writer = Writer(memory)
    writer.lane(0).requests = 5
    ensure_formatted(memory, LANES)
    assert writer.lane(0).requests == 5


def test_lanes_are_summed(memory: int) -> None:
    ensure_formatted(memory, LANES)
    writer = Writer(memory)
    for number in range(LANES):
        lane = writer.lane(number)
        lane.requests, lane.in_flight, lane.pid, lane.version = 10, 2, 100 + number, 7
        lane.outcomes[0] = 8
        lane.latency[3] = 8
    totals = Statistics(memory).totals()
    assert (totals.values["requests"], totals.values["in_flight"]) == (20, 4)
    assert totals.outcomes[OUTCOMES[0]] == 16
    assert totals.latency[3] == 16
    assert totals.versions == [7, 7]


def test_a_lane_that_never_balances_is_read_all_the_same(memory: int) -> None:
    """Its worker was interrupted between two stores: what has no outcome is in flight."""
    ensure_formatted(memory, LANES)
    writer = Writer(memory)
    writer.lane(0).requests = 3
    totals = Statistics(memory).totals()
    assert (totals.values["requests"], totals.values["in_flight"]) == (3, 3)


def test_workers_that_do_not_come_round_are_counted(memory: int) -> None:
    ensure_formatted(memory, LANES)
    writer = Writer(memory)
    writer.lane(0).loop_ns = writer.lane(1).loop_ns = 1
    writer.lane(1).pid = 7
    assert Statistics(memory).totals().stalled == 1
    writer.lane(1).loop_ns = time.monotonic_ns()
    assert Statistics(memory).totals().stalled == 0


def test_cells_of_another_generation_are_not_counted(memory: int) -> None:
    ensure_formatted(memory, LANES)
    writer, statistics = Writer(memory), Statistics(memory)
    for lane, generation, requests in ((0, 1, 5), (1, 2, 7)):
        cell = writer.route(lane, 9)
        cell.generation, cell.requests = generation, requests
        cell.status[1] = requests
    assert statistics.route(9, 1).values["requests"] == 5
    assert statistics.route(9, 2).values["requests"] == 7
    assert statistics.route(9, 2).status == [0, 7, 0, 0, 0]
    assert statistics.route(9, 3).values["requests"] == 0
    for slot in (-1, lib.EDGE_ROUTE_SLOTS):
        assert statistics.route(slot, 1).values["requests"] == 0
    for slot in (-1, lib.EDGE_UPSTREAM_SLOTS):
        assert statistics.upstream(slot, 1).values["requests"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("magic", 1),
        ("layout", 999),
        ("lane_count", 1 << 30),
        ("lanes_offset", 1 << 40),
        ("lanes_offset", 4),
        ("route_cells_offset", 1 << 63),
        ("upstream_cells_offset", (1 << 64) - 8),
    ],
)
def test_a_header_that_makes_no_sense_is_not_followed(memory: int, field: str, value: int) -> None:
    ensure_formatted(memory, LANES)
    writer = Writer(memory)
    setattr(writer.header, field, value)
    statistics = Statistics(memory)
    assert not statistics.open()
    assert statistics.totals().values["requests"] == 0


def test_a_memory_that_an_earlier_version_laid_out_is_followed(memory: int) -> None:
    """Source: the number that version 2 of the ABI wrote there; instances of then still run."""
    ensure_formatted(memory, LANES)
    writer = Writer(memory)
    assert (writer.header.layout, writer.header.lanes_offset) == (2, 4096)
    assert Statistics(memory).open()


def test_a_memory_that_was_cut_is_not_followed(memory: int) -> None:
    ensure_formatted(memory, LANES)
    os.ftruncate(memory, 8192)
    assert not Statistics(memory).open()
