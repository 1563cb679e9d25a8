"""The store: what changed, and decoding once for each change."""

from __future__ import annotations

from edge.resources.kinds import Problem, Service
from edge.resources.store import ResourceEvent, ResourceStore


def put(name: str, port: object = 80) -> ResourceEvent:
    raw = {"metadata": {"name": name}, "spec": {"ports": [{"port": port}]}}
    return ResourceEvent("Service", "default", name, raw)


def test_apply_names_what_is_another_one_now() -> None:
    store = ResourceStore([put("a")])
    gone = ResourceEvent("Service", "default", "a", None)
    assert store.apply([put("a")]) == frozenset()
    assert store.apply([put("a", 81), put("b")]) == {("Service", "default", "a"), ("Service", "default", "b")}
    assert store.apply([gone, put("a", 81)]) == frozenset()
    assert store.apply([gone, gone]) == {("Service", "default", "a")}
    assert [name for _, name, _ in store.of_kind("Service")] == ["b"]
    assert (len(store), store.kinds()) == (1, ("Service",))


def test_typed_is_kept_until_the_object_changes() -> None:
    store = ResourceStore([put("a"), put("b", "many")])
    first = {name: found for _, name, found in store.typed("Service")}
    assert isinstance(first["a"], Service)
    assert isinstance(first["b"], Problem)
    store.apply([put("b")])
    second = {name: found for _, name, found in store.typed("Service")}
    assert second["a"] is first["a"]
    assert isinstance(second["b"], Service)
