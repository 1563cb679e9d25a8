"""Patches upon an image: when a whole image is due, and when it is sent whoever waits."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from edge.controller import publish
from edge.controller.loop import Controller
from edge.controller.publish import PATCHES_DUE, PATCHES_MAX, Publisher
from edge.dataplane.tables import sealed_memfd
from edge.snapshot.diff import Change, ChangeKind


class Tables:
    """Encodes to so many bytes."""

    def __init__(self, full: int, patch: int) -> None:
        self.bytes, self.patched = full, b"p" * patch

    def full_memory(self, _snapshot: object) -> tuple[int, int]:
        return sealed_memfd("image", b"image"), self.bytes

    def patch(self, _old: object, _new: object) -> bytes:
        return self.patched


class Publishing:
    """A publisher that publishes changed endpoints."""

    def __init__(self, full: int, patch: int) -> None:
        async def prepare(*_arguments: object) -> None:
            return None

        link: Any = SimpleNamespace(prepare=prepare, commit=lambda version: None)
        tables: Any = Tables(full, patch)
        self.publisher = Publisher(link, tables)
        self.version = 0

    async def once(self) -> str:
        """Shape: what was sent."""
        self.version += 1
        snapshot: Any = SimpleNamespace(version=self.version, policies=())

        async def nothing() -> None:
            return None

        change = Change(ChangeKind.ENDPOINTS if self.publisher.running else ChangeKind.FULL)
        return (await self.publisher.publish(snapshot, change, nothing)).kind

    def times(self, count: int) -> list[str]:
        async def run() -> list[str]:
            return [await self.once() for _ in range(count)]

        return asyncio.run(run())


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "secrets", lambda _snapshot: b"")


def test_a_whole_image_is_due_after_many_patches_and_comes_at_last() -> None:
    it = Publishing(full=1_000_000, patch=10)
    assert it.times(PATCHES_DUE) == ["full"] + ["patch"] * (PATCHES_DUE - 1)
    assert not it.publisher.whole_due
    assert it.times(1) == ["patch"]
    assert it.publisher.whole_due
    assert it.times(PATCHES_MAX - PATCHES_DUE + 1) == ["patch"] * (PATCHES_MAX - PATCHES_DUE) + ["full"]
    assert not it.publisher.whole_due


def test_large_patches_count_by_their_size() -> None:
    it = Publishing(full=1000, patch=130)
    assert it.times(2) == ["full", "patch"]
    assert not it.publisher.whole_due
    assert it.times(1) == ["patch"]
    assert it.publisher.whole_due
    assert it.times(2) == ["patch", "full"]


def test_a_patch_as_large_as_its_image_is_one_patch() -> None:
    it = Publishing(full=100, patch=90)
    assert it.times(2) == ["full", "patch"]
    assert not it.publisher.whole_due
    assert it.times(1) == ["full"]


@pytest.mark.slow
def test_what_is_due_is_sent_when_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.controller.loop.LULL_S", 0.05)
    it = Publishing(full=1_000_000, patch=10)
    kinds: list[str] = []

    async def publish_once() -> None:
        kinds.append(await it.once())
        if it.publisher.whole_due:
            controller._patched.set()

    controller: Any = SimpleNamespace(
        _patched=asyncio.Event(),
        _busy=asyncio.Lock(),
        _publisher=it.publisher,
        _link=SimpleNamespace(state=SimpleNamespace(up=True, draining=False)),
        _publish=publish_once,
    )

    async def story() -> None:
        task = asyncio.create_task(Controller._tidy(controller))
        for _ in range(PATCHES_DUE + 20):  # without a pause
            await publish_once()
            await asyncio.sleep(0)
        assert kinds == ["full"] + ["patch"] * (PATCHES_DUE + 19)
        async with asyncio.timeout(10):
            while kinds[-1] != "full":
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.12)
        task.cancel()

    asyncio.run(story())
    assert kinds.count("full") == 2  # and no more
