"""Stable slots: small integers that counters, logs, limits and tables agree on.

Given by key, never by position, kept over restarts through the state file, advanced by compile.py
alone. A slot whose key left is given out again only after every reader passed the version that
dropped it (`release`), and then with a new generation, so that no counter is ever continued by
another object (design page §2). Does no I/O: the controller writes the text.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable
from typing import Any

from edge.model.types import RouteKey, UpstreamKey
from edge.snapshot.types import Slot

# The sizes of csrc/include/edge.h §4; tests/edge/snapshot/test_slots.py compares them.
ROUTE_SLOTS = 131_072
UPSTREAM_SLOTS = 32_768
LISTENER_SLOTS = 64
VERSIONS_AHEAD = 1000  # of a 64 bit number, at each start and after so many publishes


class SlotTable:
    """Slots of one kind of thing, by the words of its key."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.changes = 0  # grows with every change that a successor must know
        self._used: dict[tuple[str, ...], Slot] = {}
        self._retired: dict[tuple[str, ...], tuple[Slot, int]] = {}  # version that dropped it
        self._generations: list[int] = []  # of the newest holder, by index
        self._reused: dict[int, int] = {}  # those of _generations that are not 1
        self._rows: dict[tuple[str, ...], str] = {}  # of _used, as to_json writes them
        self._unwritten: list[tuple[str, ...]] = []  # keys without a row
        self._free: list[int] = []  # a heap: the lowest index first keeps the counters dense

    def place(self, keys: Iterable[tuple[str, ...]], version: int) -> dict[tuple[str, ...], Slot]:
        """Give every key its slot in ``version``; keys that are not named any more retire.

        Shape: one entry for each key; the ones over the limit are missing.
        """
        return self.change(None, keys, version)

    def change(
        self, gone: Iterable[tuple[str, ...]] | None, keys: Iterable[tuple[str, ...]], version: int
    ) -> dict[tuple[str, ...], Slot]:
        """Give ``keys`` their slots in ``version``, while those of ``gone`` retire; None: all but ``keys``.

        Shape: as of `place`. A key that goes and comes at once keeps its slot.
        """
        wanted = sorted(set(keys))
        kept = set(wanted)
        leaving = self._used.keys() - kept if gone is None else set(gone) - kept
        for key in sorted(leaving):
            slot = self._used.pop(key, None)
            if slot is not None:
                self._rows.pop(key, None)
                self._retired[key] = (slot, version)
                self.changes += 1
        result: dict[tuple[str, ...], Slot] = {}
        for key in wanted:
            slot = self._used.get(key) or self._revive(key) or self._allocate()
            if slot is not None:
                if key not in self._used:
                    self.changes += 1
                    self._used[key] = slot
                    self._unwritten.append(key)
                result[key] = slot
        return result

    def release(self, version: int) -> None:
        """Free what versions up to ``version`` dropped: every reader serves it or a later one."""
        for key in [key for key, (_, dropped) in self._retired.items() if dropped <= version]:
            slot, _ = self._retired.pop(key)
            heapq.heappush(self._free, slot.index)
            self.changes += 1

    def _revive(self, key: tuple[str, ...]) -> Slot | None:
        """A key that comes back before its slot was freed goes on with its counters."""
        slot, _ = self._retired.pop(key, (None, 0))
        return slot

    def _allocate(self) -> Slot | None:
        if self._free:
            index = heapq.heappop(self._free)
            self._generations[index] += 1
            self._reused[index] = self._generations[index]
        elif len(self._generations) < self.limit:
            index = len(self._generations)
            self._generations.append(1)
        else:
            return None
        return Slot(index, self._generations[index])

    def to_json(self) -> str:
        """Shape: what `from_plain` takes, as text. Retired slots are written as such."""
        for key in self._unwritten:
            slot = self._used.get(key)
            if slot is not None:
                self._rows[key] = json.dumps([key, slot.index], separators=(",", ":"))
        self._unwritten.clear()
        rest = json.dumps(
            {
                "retired": [
                    [key, slot.index, dropped] for key, (slot, dropped) in sorted(self._retired.items())
                ],
                "count": len(self._generations),
                "reused": sorted(self._reused.items()),
            },
            separators=(",", ":"),
        )
        return "".join(('{"used":[', ",".join(self._rows.values()), "],", rest[1:]))

    @classmethod
    def from_plain(cls, limit: int, plain: Any) -> SlotTable:
        """Errors: KeyError, TypeError, ValueError for what `to_json` cannot have written."""
        table = cls(limit)
        count = int(plain["count"])
        if not 0 <= count <= limit:
            raise ValueError("count out of range")
        table._generations = [1] * count
        for index, generation in plain["reused"]:
            if not 0 <= int(index) < count or not 1 < int(generation) < 2**32:
                raise ValueError("generations out of range")
            table._generations[int(index)] = table._reused[int(index)] = int(generation)
        taken: set[int] = set()

        def take(index: Any) -> Slot:
            if not isinstance(index, int) or not 0 <= index < len(table._generations) or index in taken:
                raise ValueError(f"slot {index!r} is out of range or given twice")
            taken.add(index)
            return Slot(index, table._generations[index])

        for words, index in plain["used"]:
            key = tuple(map(str, words))
            table._used[key] = take(index)
            table._unwritten.append(key)
        for words, index, dropped in plain["retired"]:
            table._retired[tuple(map(str, words))] = (take(index), int(dropped))
        table._free = [index for index in range(len(table._generations)) if index not in taken]
        return table


class SlotTables:
    """The slot tables of an instance: routes and upstreams."""

    def __init__(self) -> None:
        self.routes = SlotTable(ROUTE_SLOTS)
        self.upstreams = SlotTable(UPSTREAM_SLOTS)
        self.versions_below = 1  # what was written down: no version from here on was ever given

    @property
    def changes(self) -> int:
        """Return a number that grows with every change; `to_json` is the same while it stays."""
        return self.routes.changes + self.upstreams.changes + self.versions_below

    def reserve(self, version: int) -> None:
        """Cover ``version`` and the next ones, so that not every publish has to be written down."""
        if version >= self.versions_below:
            self.versions_below = version + VERSIONS_AHEAD

    def release(self, version: int) -> None:
        """Free slots that versions up to ``version`` dropped: every reader serves it or a later one."""
        self.routes.release(version)
        self.upstreams.release(version)

    def to_json(self) -> str:
        """Shape: the text of the state file."""
        head = f'{{"format":2,"versions_below":{self.versions_below}'
        routes, upstreams = self.routes.to_json(), self.upstreams.to_json()
        return "".join((head, ',"routes":', routes, ',"upstreams":', upstreams, "}"))

    @classmethod
    def from_json(cls, text: str) -> SlotTables:
        """Read a state file back.

        Errors: ValueError when it is none; the caller then starts with `SlotTables()` and says so.
        """
        tables = cls()
        try:
            plain = json.loads(text)
            if plain["format"] != 2:
                raise ValueError(f"unknown format {plain['format']!r}")
            below = plain["versions_below"]
            if not isinstance(below, int) or not 0 < below < 2**63:
                raise ValueError(f"versions_below {below!r} is out of range")
            tables.versions_below = below
            tables.routes = SlotTable.from_plain(ROUTE_SLOTS, plain["routes"])
            tables.upstreams = SlotTable.from_plain(UPSTREAM_SLOTS, plain["upstreams"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a slot file: {error}") from error
        return tables


def route_words(key: RouteKey) -> tuple[str, ...]:
    """Shape: a route's key as the slot table takes it."""
    return (key.kind, key.namespace, key.name, key.host, key.path_type, key.path, key.matches)


def upstream_words(key: UpstreamKey) -> tuple[str, ...]:
    """Shape: an upstream's key as the slot table takes it."""
    return (key.namespace, key.service, key.port, key.policy)
