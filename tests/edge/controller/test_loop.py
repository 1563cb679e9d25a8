"""The controller's loop where it could hold up others: what a thread does, and what a long wait leaves."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edge.controller import loop
from edge.controller.loop import LARGE, Controller, takes_long
from edge.model.build import ModelBuilder, ModelSettings
from edge.options import CONTROLLER_CLASS
from edge.resources.store import Key, ResourceEvent, ResourceStore


def keys(kind: str, count: int) -> set[Key]:
    return {(kind, "default", f"one-{number}") for number in range(count)}


def test_many_changes_are_a_threads_and_so_is_one_class() -> None:
    builder = ModelBuilder(ModelSettings())
    assert takes_long(None, keys("Ingress", 1))
    assert not takes_long(builder, keys("Ingress", LARGE))
    assert takes_long(builder, keys("Ingress", LARGE + 1))
    assert takes_long(builder, keys("Ingress", 1) | keys("IngressClass", 1))


def test_settings_of_a_class_are_a_threads_and_of_no_class_are_not() -> None:
    parameters = {"kind": "ConfigMap", "scope": "Namespace", "namespace": "default", "name": "one-0"}
    spec = {"controller": CONTROLLER_CLASS, "parameters": parameters}
    raw = {"metadata": {"name": "edge"}, "spec": spec}
    store, builder = ResourceStore(), ModelBuilder(ModelSettings())
    builder.update(store, store.apply([ResourceEvent("IngressClass", "", "edge", raw)]))
    assert takes_long(builder, keys("ConfigMap", 1))
    assert not takes_long(builder, keys("ConfigMap", 2) - keys("ConfigMap", 1))


class Failure:
    """What a request that fails leaves: something that names itself."""

    def __init__(self) -> None:
        self.context = self


def test_a_wait_for_the_source_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "WAITING_S", 0.01)
    gone = threading.Event()

    def load() -> list[ResourceEvent]:
        left = weakref.ref(Failure(), lambda _: gone.set())
        deadline = time.monotonic() + 10
        while left() is not None and time.monotonic() < deadline:
            gone.wait(0.01)
        return []

    async def wait() -> None:
        link = SimpleNamespace(gone=asyncio.get_running_loop().create_future())
        source = SimpleNamespace(load=load, diagnostics=(), name="an API server")
        waiting: Any = SimpleNamespace(_source=source, _link=link)
        assert await Controller._loaded(cast(Controller, waiting)) == []

    gc.disable()
    try:
        asyncio.run(wait())
    finally:
        gc.enable()
    assert gone.is_set()


def test_what_the_source_says_of_itself_is_published_with_a_quiet_change_too() -> None:
    lost, back, well = (("lost",), 5.0), ((), 5.0), ((), None)
    quiet = ResourceEvent("Node", "", "n1", {}, quiet=True)
    told: list[tuple[Any, list[ResourceEvent]]] = [
        (lost, []),
        (lost, [quiet]),
        (back, [quiet]),
        (back, [quiet]),
        (well, []),
        (well, [quiet]),
    ]
    seen: list[Any] = []

    async def watch() -> AsyncIterator[list[ResourceEvent]]:
        for (source.diagnostics, source.lost_since), batch in told:
            yield batch

    async def publish() -> None:
        seen.append((source.diagnostics, source.lost_since))

    source: Any = SimpleNamespace(watch=watch, diagnostics=(), lost_since=None)
    controller: Any = SimpleNamespace(
        _source=source,
        _busy=asyncio.Lock(),
        _store=SimpleNamespace(apply=lambda batch: frozenset(event.key for event in batch)),
        _take=lambda changed: None,
        _reporter=None,
        _link=SimpleNamespace(state=SimpleNamespace(draining=False)),
        _publish=publish,
    )
    asyncio.run(Controller._watch(cast(Controller, controller)))
    assert seen == [lost, back, well]
