"""The objects of all files as one set: who has an object that stands in several, and what changed.

Called by files.py alone. A file's objects come as a tuple of pairs; a pair that did not change is the same
pair, so one changed object among many costs its own work and one look at the others' addresses.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.ordered import alike
from edge.resources.kinds import Raw
from edge.resources.store import Key, ResourceEvent

Pair = tuple[Key, Raw]


class Merge:
    """What every file says. ``origins``: the file of each object that is used."""

    def __init__(self) -> None:
        self.origins: dict[Key, str] = {}
        self._told: dict[str, tuple[Pair, ...]] = {}
        self._holders: dict[Key, tuple[tuple[str, Pair], ...]] = {}  # by file name, then place in it
        self._sent: dict[Key, Raw] = {}
        self._touched: dict[Key, None] = {}  # in order
        self._twice: dict[Key, tuple[Diagnostic, ...]] = {}

    def names(self) -> Iterable[str]:
        """Shape: the files that hold something."""
        return self._told.keys()

    def put(self, name: str, pairs: tuple[Pair, ...]) -> None:
        """Replace what a file says; `changes` tells what became of it."""
        old = self._told.get(name, ())
        if old is pairs:
            return
        if pairs:
            self._told[name] = pairs
        else:
            self._told.pop(name, None)
        head, tail = alike(old, pairs)
        gone, come = old[head : len(old) - tail], pairs[head : len(pairs) - tail]
        touched = dict.fromkeys([pair[0] for pair in (*gone, *come)])
        fresh: dict[Key, list[tuple[str, Pair]]] = {key: [] for key in touched}
        # An object that stands twice in this file may stand outside of what changed, too.
        held = sum(one[0] == name for key in touched for one in self._holders.get(key, ()))
        for pair in come if held == len(gone) else pairs:
            found = fresh.get(pair[0])
            if found is not None:
                found.append((name, pair))
        for key, own in fresh.items():
            others = tuple(one for one in self._holders.get(key, ()) if one[0] != name)
            holders = tuple(sorted((*others, *own), key=lambda one: one[0])) if others else tuple(own)
            if holders:
                self._holders[key] = holders
            else:
                self._holders.pop(key, None)
        self._touched |= touched

    def changes(self) -> list[ResourceEvent]:
        """Shape: the events against what was sent before: what is gone, then the rest in order."""
        gone, events = [], []
        for key in self._touched:
            holders = self._holders.get(key, ())
            self._note_twice(key, holders)
            if not holders:
                self.origins.pop(key, None)
                if self._sent.pop(key, None) is not None:
                    gone.append(key)
                continue
            name, (_, raw) = holders[0]
            self.origins[key] = name
            old = self._sent.get(key)
            if old is not raw:
                self._sent[key] = raw
                if old != raw:
                    events.append(ResourceEvent(*key, raw))
        self._touched = {}
        return [*(ResourceEvent(*key, None) for key in sorted(gone)), *events]

    def _note_twice(self, key: Key, holders: tuple[tuple[str, Pair], ...]) -> None:
        if len(holders) < 2:
            self._twice.pop(key, None)
            return
        first = holders[0][0]
        others = sorted({name for name, _ in holders[1:]})
        self._twice[key] = tuple(
            Diagnostic(
                ObjectRef(*key), "", "Duplicate", f"stands in {first!a} and in {name!a}; the first is used"
            )
            for name in others
        )

    def duplicates(self) -> Iterable[Diagnostic]:
        """Give the findings about objects that stand twice."""
        return (finding for found in self._twice.values() for finding in found)
