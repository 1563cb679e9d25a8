"""A sorted collection that is changed a little and read as a whole.

Used by the model and the snapshot for routes, certificates and findings. One change costs a search and the
moving of pointers; many at once cost one sort. Keys are unique.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from operator import is_not
from typing import Any, Generic, TypeVar

V = TypeVar("V")
_FEW = 64  # changes, and a share of the row, that are put in one by one; more are sorted in
_SHARE = 64
_NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class Step(Generic[V]):
    """How a row came from the row before it."""

    before: tuple[V, ...]
    removed: tuple[V, ...]
    added: tuple[V, ...]


class Ordered(Generic[V]):
    """Values by their sorting key. ``step``: from the last row but one that `values` gave to the last."""

    def __init__(self) -> None:
        self._values: dict[Any, V] = {}
        self._changed: dict[Any, V] = {}  # what stood under keys that _keys and _row do not tell of yet
        self._keys: list[Any] = []
        self._row: list[V] = []
        self._tuple: tuple[V, ...] = ()
        self.step: Step[V] | None = None

    def put(self, key: Any, value: V) -> None:
        """Set the value of a key."""
        old = self._values.get(key, _NOTHING)
        if old is not value:
            self._values[key] = value
            self._changed.setdefault(key, old)

    def remove(self, key: Any) -> None:
        """Take a key out; nothing happens when it is not there."""
        old = self._values.pop(key, _NOTHING)
        if old is not _NOTHING:
            self._changed.setdefault(key, old)

    def get(self, key: Any) -> V | None:
        """Return the value of a key."""
        return self._values.get(key)

    def values(self) -> tuple[V, ...]:
        """Shape: all values in the order of their keys; the same tuple until something changes."""
        if self._changed:
            before, changed, now = self._tuple, self._changed, self._values
            self._settle()
            self._tuple = tuple(self._row)
            self.step = Step(
                before,
                tuple(old for old in changed.values() if old is not _NOTHING),
                tuple(now[key] for key in changed if key in now),
            )
            self._changed = {}
        return self._tuple

    def _settle(self) -> None:
        """Bring keys and row up to date."""
        if len(self._changed) > max(_FEW, len(self._keys) // _SHARE):
            self._keys = sorted(self._values)
            self._row = [self._values[key] for key in self._keys]
            return
        for key in self._changed:
            place = bisect_left(self._keys, key)
            there = place < len(self._keys) and self._keys[place] == key
            if key not in self._values:
                if there:
                    del self._keys[place], self._row[place]
            elif there:
                self._row[place] = self._values[key]
            else:
                self._keys.insert(place, key)
                self._row.insert(place, self._values[key])

    def __len__(self) -> int:
        return len(self._values)


def alike(old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[int, int]:
    """Shape: how many objects at the head, and then at the tail, are the same in both."""
    least = min(len(old), len(new))
    head = bisect_left(range(least), True, key=lambda at: any(map(is_not, old[: at + 1], new)))
    rest = least - head
    tail = bisect_left(
        range(rest), True, key=lambda at: any(map(is_not, old[len(old) - at - 1 :], new[len(new) - at - 1 :]))
    )
    return head, tail
