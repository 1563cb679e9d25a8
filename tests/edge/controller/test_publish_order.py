"""The order of a commit: packets are judged by the new version before any socket opens."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from edge.controller import publish
from edge.controller.publish import Publisher
from edge.dataplane.tables import sealed_memfd
from edge.snapshot.diff import Change, ChangeKind


class Recorder:
    """Link, tables and plane at once: writes down who is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def full_memory(self, _snapshot: object) -> tuple[int, int]:
        return sealed_memfd("image", b"image"), 5

    async def prepare_link(self, *_arguments: object) -> None:
        self.calls.append("data plane prepared")

    def step(self, name: str) -> Any:
        return lambda *_arguments: self.calls.append(name)


def test_sockets_open_after_xdp_and_before_the_data_plane_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "secrets", lambda _snapshot: b"")
    recorder = Recorder()
    link = SimpleNamespace(
        prepare=recorder.prepare_link,
        commit=recorder.step("data plane commits"),
        heartbeat=recorder.step("the other page is stamped"),
    )
    publisher = Publisher(link, recorder)  # type: ignore[arg-type]
    publisher.plane = SimpleNamespace(
        prepare=recorder.step("xdp prepared"),
        commit=recorder.step("xdp commits"),
        moved_heartbeat=lambda: 7,
        retire=recorder.step("xdp retires"),
    )

    async def open_sockets() -> None:
        recorder.calls.append("sockets open")

    snapshot: Any = SimpleNamespace(version=1, policies=())
    change = Change(ChangeKind.FULL)
    asyncio.run(publisher.publish(snapshot, change, open_sockets))
    assert set(recorder.calls[:2]) == {"data plane prepared", "xdp prepared"}
    assert recorder.calls[2:] == [
        "xdp commits",
        "the other page is stamped",
        "sockets open",
        "data plane commits",
        "xdp retires",
    ]
