"""Raw objects as last seen, by kind, namespace and name; unjudged.

Written by the controller's loop task alone (sources only send events), read by edge/model. Never
judges an object: a wrong one is kept as it came, so that the model can say what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edge.resources import kinds

Key = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True, slots=True)
class ResourceEvent:
    """One change. ``raw``: the whole object as parsed JSON, None when it was deleted."""

    kind: str
    namespace: str
    name: str
    raw: Mapping[str, Any] | None

    @property
    def key(self) -> Key:
        """Identity of the object in the store."""
        return (self.kind, self.namespace, self.name)


class ResourceStore:
    """What the sources have said so far."""

    def __init__(self, events: Iterable[ResourceEvent] = ()) -> None:
        self._objects: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
        self._typed: dict[Key, kinds.Struct | kinds.Problem] = {}
        self.apply(events)

    def apply(self, events: Iterable[ResourceEvent]) -> frozenset[Key]:
        """Take in a batch.

        Shape: the keys whose object is another one now than before the batch.
        """
        before: dict[Key, Mapping[str, Any] | None] = {}
        for event in events:
            objects = self._objects.setdefault(event.kind, {})
            place = (event.namespace, event.name)
            before.setdefault(event.key, objects.get(place))
            self._typed.pop(event.key, None)
            if event.raw is None:
                objects.pop(place, None)
            else:
                objects[place] = event.raw
        return frozenset(key for key, old in before.items() if self.get(*key) != old)

    def get(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return one raw object, None when it is not there."""
        return self._objects.get(kind, {}).get((namespace, name))

    def of_kind(self, kind: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Shape: (namespace, name, raw), by namespace and name."""
        for (namespace, name), raw in sorted(self._objects.get(kind, {}).items(), key=lambda item: item[0]):
            yield namespace, name, raw

    def typed(self, kind: str) -> Iterator[tuple[str, str, kinds.Struct | kinds.Problem]]:
        """Shape: (namespace, name, struct of kinds.py or what is wrong), decoded once for each change."""
        for namespace, name, raw in self.of_kind(kind):
            key = (kind, namespace, name)
            found = self._typed.get(key)
            if found is None:
                found = self._typed[key] = kinds.decode(kind, raw)
            yield namespace, name, found

    def kinds(self) -> tuple[str, ...]:
        """Shape: the kinds that have objects, in order."""
        return tuple(sorted(kind for kind, objects in self._objects.items() if objects))

    def __len__(self) -> int:
        return sum(len(objects) for objects in self._objects.values())
