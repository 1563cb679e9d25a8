"""Raw objects as last seen, by kind, namespace and name; unjudged.

Written by the controller's loop task alone (sources only send events), read by edge/model. Never
judges an object: a wrong one is kept as it came, so that the model can say what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edge.resources import kinds
from edge.resources.kinds import Raw

Key = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True, slots=True)
class ResourceEvent:
    """One change. ``raw``: the whole object as JSON (see `kinds.Raw`), None when it was deleted.

    ``quiet``: against the last one of this object only status and version differ: nothing that is served.
    """

    kind: str
    namespace: str
    name: str
    raw: Raw | None
    quiet: bool = False

    @property
    def key(self) -> Key:
        """Identity of the object in the store."""
        return (self.kind, self.namespace, self.name)


class ResourceStore:
    """What the sources have said so far."""

    def __init__(self, events: Iterable[ResourceEvent] = ()) -> None:
        self._objects: dict[str, dict[tuple[str, str], Raw]] = {}
        self._typed: dict[Key, kinds.Struct | kinds.Problem] = {}
        self.apply(events)

    def apply(self, events: Iterable[ResourceEvent]) -> frozenset[Key]:
        """Take in a batch.

        Shape: the keys whose object is another one now than before the batch, not only quietly.
        """
        before: dict[Key, Raw | None] = {}
        for event in events:
            objects = self._objects.setdefault(event.kind, {})
            place = (event.namespace, event.name)
            if event.quiet and event.raw is not None and place in objects:
                objects[place] = event.raw
                continue
            before.setdefault(event.key, objects.get(place))
            self._typed.pop(event.key, None)
            if event.raw is None:
                objects.pop(place, None)
            else:
                objects[place] = event.raw
        return frozenset(key for key, old in before.items() if self.get(*key) != old)

    def get(self, kind: str, namespace: str, name: str) -> Raw | None:
        """Return one raw object, None when it is not there."""
        return self._objects.get(kind, {}).get((namespace, name))

    def objects(self) -> list[tuple[Key, Raw]]:
        """Shape: every object with its key, in no order."""
        return [
            ((kind, *place), raw) for kind, objects in self._objects.items() for place, raw in objects.items()
        ]

    def of_kind(self, kind: str) -> Iterator[tuple[str, str, Raw]]:
        """Shape: (namespace, name, raw), by namespace and name."""
        for (namespace, name), raw in sorted(self._objects.get(kind, {}).items(), key=lambda item: item[0]):
            yield namespace, name, raw

    def typed(self, kind: str) -> Iterator[tuple[str, str, kinds.Struct | kinds.Problem]]:
        """Shape: (namespace, name, struct of kinds.py or what is wrong), decoded once for each change."""
        for namespace, name, _ in self.of_kind(kind):
            found = self.decoded(kind, namespace, name)
            if found is not None:
                yield namespace, name, found

    def decoded(self, kind: str, namespace: str, name: str) -> kinds.Struct | kinds.Problem | None:
        """Return one object as its struct, or what is wrong with it; None when it is not there."""
        key = (kind, namespace, name)
        found = self._typed.get(key)
        if found is None:
            raw = self._objects.get(kind, {}).get((namespace, name))
            if raw is None:
                return None
            found = self._typed[key] = kinds.decode(kind, raw)
        return found

    def forget_decoded(self, kind: str, namespace: str, name: str) -> None:
        """Drop the struct of an object that was read and is kept in another form."""
        self._typed.pop((kind, namespace, name), None)

    def all_keys(self) -> Iterator[Key]:
        """Shape: the key of every object, in no order."""
        for kind, objects in self._objects.items():
            for namespace, name in objects:
                yield (kind, namespace, name)

    def kinds(self) -> tuple[str, ...]:
        """Shape: the kinds that have objects, in order."""
        return tuple(sorted(kind for kind, objects in self._objects.items() if objects))

    def __len__(self) -> int:
        return sum(len(objects) for objects in self._objects.values())
