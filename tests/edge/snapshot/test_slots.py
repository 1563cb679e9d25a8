"""Slots: stable, kept, reused only after every reader has left, with a new generation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.snapshot.slots import LISTENER_SLOTS, ROUTE_SLOTS, UPSTREAM_SLOTS, SlotTable, SlotTables
from edge.snapshot.types import Slot

A, B, C = ("a",), ("b",), ("c",)


def test_limits_are_those_of_the_header() -> None:
    folder = Path(__file__).parents[3] / "csrc/include"
    header = "".join((folder / name).read_text() for name in ("edge.h", "edge_image.h"))
    found = dict(re.findall(r"#define EDGE_(ROUTE|UPSTREAM|LISTENER)_SLOTS (\d+)", header))
    assert found == {
        "ROUTE": str(ROUTE_SLOTS),
        "UPSTREAM": str(UPSTREAM_SLOTS),
        "LISTENER": str(LISTENER_SLOTS),
    }


def test_a_slot_stays_with_its_key() -> None:
    table = SlotTable(8)
    assert table.place([B, A], 1) == {A: Slot(0, 1), B: Slot(1, 1)}
    assert table.place([C, B, A], 2) == {A: Slot(0, 1), B: Slot(1, 1), C: Slot(2, 1)}


def test_reused_only_after_release_with_a_new_generation() -> None:
    table = SlotTable(2)
    table.place([A, B], 1)
    assert table.place([B], 2) == {B: Slot(1, 1)}
    assert table.place([B, C], 3) == {B: Slot(1, 1)}  # a reader may still hold version 1
    table.release(1)
    assert table.place([B, C], 4) == {B: Slot(1, 1)}
    table.release(2)
    assert table.place([B, C], 5) == {B: Slot(1, 1), C: Slot(0, 2)}


def test_a_key_that_comes_back_in_time_goes_on() -> None:
    table = SlotTable(2)
    table.place([A], 1)
    table.place([], 2)
    assert table.place([A], 3) == {A: Slot(0, 1)}
    table.release(3)
    assert table.place([A], 4) == {A: Slot(0, 1)}


def test_kept_over_a_restart() -> None:
    tables = SlotTables()
    tables.routes.place([("r", "1"), ("r", "2")], 1)
    tables.routes.place([("r", "2")], 2)
    tables.upstreams.place([("u",)], 1)
    text = tables.to_json()
    again = SlotTables.from_json(text)
    assert again.to_json() == text
    assert again.routes.place([("r", "2"), ("r", "3")], 3) == {
        ("r", "2"): Slot(1, 1),
        ("r", "3"): Slot(2, 1),
    }
    again.release(3)
    assert again.routes.place([("r", "2"), ("r", "4")], 4)["r", "4"] == Slot(0, 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format":1,"versions_below":0,"routes":{"used":[],"retired":[],"generations":[]},'
        '"upstreams":{"used":[],"retired":[],"generations":[]}}',
        '{"format":2}',
        '{"format":1,"versions_below":1,"routes":{"used":[[["a"],0]],"retired":[],"generations":[]},"upstreams":{}}',
        '{"format":1,"versions_below":1,"routes":{"used":[[["a"],0],[["b"],0]],"retired":[],"generations":[1]},"upstreams":{}}',
        '{"format":1,"versions_below":1,"routes":{"used":[],"retired":[],"generations":[0]},"upstreams":{}}',
        '{"format":1,"versions_below":1,"routes":{"used":[],"retired":[],"generations":["x"]},"upstreams":{}}',
    ],
)
def test_a_file_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a slot file"):
        SlotTables.from_json(text)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sets(st.sampled_from("abcdef"), max_size=5), st.booleans()), max_size=20))
def test_no_slot_and_generation_ever_means_two_keys(steps: list[tuple[set[str], bool]]) -> None:
    table = SlotTable(6)
    owner: dict[Slot, tuple[str, ...]] = {}
    for version, (names, released) in enumerate(steps, 1):
        placed = table.place([(name,) for name in names], version)
        assert len({slot.index for slot in placed.values()}) == len(placed)
        for key, slot in placed.items():
            assert owner.setdefault(slot, key) == key
        if released:
            table.release(version)
        table = SlotTable.from_plain(6, json.loads(table.to_json()))


def test_versions_are_reserved_ahead_and_read_back() -> None:
    tables = SlotTables()
    tables.reserve(1)
    below, changes = tables.versions_below, tables.changes
    for version in range(2, below):
        tables.reserve(version)
    assert tables.changes == changes
    tables.reserve(below)
    assert tables.changes != changes
    assert SlotTables.from_json(tables.to_json()).versions_below > below


def test_changes_grow_only_with_what_is_written() -> None:
    tables = SlotTables()
    seen = [tables.changes]

    def grew() -> bool:
        seen.append(tables.changes)
        return seen[-1] > seen[-2]

    tables.routes.place([A, B], 1)
    assert grew()
    tables.routes.place([A, B], 2)
    assert not grew()
    tables.routes.place([A], 3)
    assert grew()
    tables.release(2)
    assert not grew()
    tables.routes.place([A, B], 4)  # revived
    assert grew()
    tables.routes.place([A], 5)
    tables.release(5)
    assert grew()
