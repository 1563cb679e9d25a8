"""The writer of status: what it asks for, what it leaves, and how it gives way to who undoes its work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from edge.controller.status_writer import QUARREL, TRIES, StatusWriter, Wanted
from edge.controller.work_queue import WorkQueue
from edge.errors import ApiError
from edge.resources.store import ResourceEvent, ResourceStore
from tests.fakes.virtual_time import run

KEY = ("Ingress", "shop", "web")
PLACE = "198.18.0.1"
Object = dict[str, Any]


class Stage:
    """One Ingress on a server, in a store that follows it at once, and an instance that wants PLACE in it."""

    def __init__(self, undo: bool = False, always_conflict: bool = False) -> None:
        self.undo, self.always_conflict = undo, always_conflict
        self.version = 0
        self.entries: list[Object] = []
        self.written: list[float] = []
        self.allowed = True
        self.store = ResourceStore()
        self.serves: bool | None = True
        wanted = Wanted(lambda *_: self.serves, lambda _: (), (PLACE,), frozenset({PLACE}))
        clock = asyncio.get_running_loop().time
        queue: WorkQueue[Any] = WorkQueue(100.0, 100, clock, lambda: 0.5)
        self.writer = StatusWriter(self, self.store, wanted, lambda: self.allowed, "we", queue)  # type: ignore[arg-type]
        self.put([])
        self.task = asyncio.create_task(self.writer.run())

    def object(self) -> bytes:
        metadata = {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": str(self.version)}
        status = {"loadBalancer": {"ingress": self.entries}}
        return json.dumps({"metadata": metadata, "spec": {}, "status": status}).encode()

    def put(self, entries: list[Object]) -> None:
        self.version += 1
        self.entries = entries
        self.store.apply([ResourceEvent(*KEY, self.object())])
        self.writer.consider(KEY)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "",
        timeout: float = 0.0,
        allowed: Callable[[], bool] | None = None,
    ) -> bytes:
        assert allowed is not None
        if not allowed():
            raise ApiError(0, "NotLeading", "")
        if method == "GET":
            return self.object()
        assert path.endswith("/ingresses/web/status") and query == {"fieldManager": "we"}
        data = json.loads(body or b"")
        self.written.append(asyncio.get_running_loop().time())
        if self.always_conflict or data["metadata"]["resourceVersion"] != str(self.version):
            raise ApiError(409, "Conflict", "")
        self.put(data["status"]["loadBalancer"]["ingress"])
        if self.undo:
            asyncio.get_running_loop().call_later(0.1, self.put, [])
        return self.object()

    async def end(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


def test_it_writes_once() -> None:
    async def story() -> None:
        stage = Stage()
        await asyncio.sleep(100)
        assert stage.entries == [{"ip": PLACE}] and len(stage.written) == 1
        stage.serves = False
        stage.writer.consider(KEY)
        await asyncio.sleep(1)
        assert stage.entries == [] and stage.writer.counts.written == 2
        await stage.end()

    run(story())


def test_it_gives_way_to_who_undoes_it() -> None:
    async def story() -> None:
        stage = Stage(undo=True)
        await asyncio.sleep(500)
        gaps = [after - before for before, after in zip(stage.written, stage.written[1:], strict=False)]
        assert len(stage.written) < QUARREL + 8, stage.written
        assert max(gaps[: QUARREL - 1]) < 1 and gaps[-1] > 60
        await stage.end()

    run(story())


def test_an_object_that_others_write_all_the_time_waits() -> None:
    async def story() -> None:
        stage = Stage(always_conflict=True)
        await asyncio.sleep(0.5)
        assert len(stage.written) == TRIES and stage.writer.counts.conflict == TRIES
        await asyncio.sleep(60)
        assert len(stage.written) <= 7 * TRIES
        stage.always_conflict = False
        await asyncio.sleep(120)
        assert stage.entries == [{"ip": PLACE}]
        await stage.end()

    run(story())


def test_who_does_not_lead_writes_nothing_and_forgets_nothing() -> None:
    async def story() -> None:
        stage = Stage()
        stage.allowed = False
        await asyncio.sleep(100)
        assert not stage.written
        stage.allowed = True
        await asyncio.sleep(60)
        assert stage.entries == [{"ip": PLACE}]
        await stage.end()

    run(story())


def test_an_object_that_goes_is_forgotten() -> None:
    async def story() -> None:
        stage = Stage()
        stage.store.apply([ResourceEvent(*KEY, None)])
        await asyncio.sleep(1)
        assert not stage.written and len(stage.writer.queue) == 0
        await stage.end()

    run(story())
