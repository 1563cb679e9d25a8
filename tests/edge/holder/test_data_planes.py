"""Data planes as the holder sees them: what a fresh one gets, whom the holder blames for a death."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from edge.holder import data_planes
from edge.holder.chronicle import Chronicle
from edge.holder.data_plane import Setup
from edge.holder.data_planes import DataPlanes
from edge.holder.loop import Loop
from edge.holdings import IMAGE_FULL, IMAGE_PATCH, Holdings, Stored
from tests.edge.holder.fakes import Peer


class World:
    """Data planes that are channels; what the controller would be told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = Loop()
        self.holdings = Holdings(workers=2)
        self.holdings.statistics, self.holdings.commit_page = os.memfd_create("s"), os.memfd_create("c")
        self.told: list[tuple[str, dict[str, object]]] = []
        self.peers: list[Peer] = []
        setup = Setup(self.holdings.commit_page, "auto", 1, 1, 1000, "text")
        chronicle = Chronicle(self.holdings, lambda *_words, **_fields: None)
        self.data = DataPlanes(self.loop, self.holdings, setup, chronicle, self.tell)
        monkeypatch.setattr(self.data.program, "start", self.begin)

    def begin(self, loop: Loop, _executable: str) -> object:
        self.peers.append(Peer(loop, "data plane"))
        return self.peers[-1].child

    def tell(self, verb: str, _descriptors: object = (), **fields: object) -> None:
        if verb != "holding":
            self.told.append((verb, fields))

    def stage(self, version: int, kind: int) -> None:
        stored = Stored(version, kind, tuple(os.memfd_create("x") for _ in range(3 - kind)))
        self.holdings.store.stage(stored)
        self.data.stage(stored)

    def until(self, reached: Callable[[], object]) -> None:
        """Turn the loop until something is so."""
        self.loop.after(5, lambda: pytest.fail("it never came"))
        while not reached():
            self.loop.turn()

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.holdings.close()
        self.loop.close()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[World]:
    made = World(monkeypatch)
    yield made
    made.close()
    capfd.readouterr()


def test_a_fresh_one_gets_all_that_is_stored_in_order(world: World) -> None:
    for version, kind in ((1, IMAGE_FULL), (2, IMAGE_PATCH)):
        world.stage(version, kind)
        world.holdings.store.commit(version)
    world.data.start()
    peer = world.peers[0]
    first = peer.heard()
    assert [one.verb for one in first] == ["setup", "image"]
    assert first[0].number("lane_first") == 0 and len(first[0].descriptors) == 2
    peer.says("prepared", version=1)
    world.until(lambda: not world.data.current or len(world.data.current.owed) == 1)
    assert [(one.verb, one.number("version")) for one in peer.heard()] == [("commit", 1), ("image", 2)]
    peer.says("prepared", version=2)
    peer.says("serving", version=2)
    world.until(lambda: world.data.serving == 2)
    assert [(one.verb, one.number("version")) for one in peer.heard()] == [("commit", 2)]


def test_what_a_full_image_has_closed_is_not_sent_any_more(world: World) -> None:
    for version, kind in ((1, IMAGE_FULL), (2, IMAGE_PATCH), (3, IMAGE_PATCH)):
        world.stage(version, kind)
        world.holdings.store.commit(version)
    world.data.start()
    peer = world.peers[0]
    assert [one.number("version") for one in peer.heard() if one.verb == "image"] == [1]
    world.stage(4, IMAGE_FULL)
    world.holdings.store.commit(4)  # as prepared by another data plane
    world.data.commit(4)
    peer.says("prepared", version=1)
    world.until(lambda: world.data.current and len(world.data.current.owed) == 1)
    assert [(one.verb, one.number("version")) for one in peer.heard()] == [("commit", 1), ("image", 4)]
    peer.says("prepared", version=4)
    peer.says("serving", version=4)
    world.until(lambda: world.data.serving == 4)
    assert [(one.verb, one.number("version")) for one in peer.heard()] == [("commit", 4)]


def test_refused_at_the_second_death(world: World) -> None:
    world.stage(1, IMAGE_FULL)
    world.holdings.store.commit(1)
    world.data.start()
    world.peers[0].says("prepared", version=1)
    world.until(lambda: world.data.current and not world.data.current.owed)
    world.stage(2, IMAGE_PATCH)
    world.peers[0].dies()
    world.until(lambda: len(world.peers) == 2)
    assert world.told == [("data", {"state": "down", "pid": world.peers[0].child.pid})]
    assert world.holdings.store.staged is not None
    world.peers[1].says("prepared", version=1)  # what came before is done; the staged one is its next
    world.until(lambda: world.data.current and len(world.data.current.owed) == 1)
    world.peers[1].dies()
    world.until(lambda: len(world.told) == 3)
    assert world.told[2][0] == "refused" and world.told[2][1]["version"] == 2
    assert world.holdings.store.staged is None and world.holdings.store.committed == 1


def test_deaths_before_its_turn_are_not_its_own(world: World) -> None:
    world.stage(1, IMAGE_FULL)
    world.holdings.store.commit(1)
    world.stage(2, IMAGE_PATCH)
    world.data.start()
    for number in range(1, 3):
        world.peers[-1].dies()
        world.until(lambda: len(world.peers) == number + 1)  # noqa: B023
    assert {verb for verb, _ in world.told} == {"data"}
    assert world.holdings.store.staged is not None


def test_versions_that_it_was_not_given_are_ignored(world: World) -> None:
    world.stage(1, IMAGE_FULL)
    world.data.start()
    for verb in ("prepared", "refused", "serving"):
        world.peers[0].says(verb, version=9)
    world.peers[0].says("nonsense")
    world.peers[0].says("ready", loop="epoll", workers=2)
    world.until(lambda: world.told)
    assert [verb for verb, _ in world.told] == ["data"]


def test_it_is_lively_as_long_as_one_said_so_a_moment_ago(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder's stamp of the heartbeat hangs on it: a process that never serves is no sign of life."""
    world.data.start()
    assert not world.data.lively
    world.peers[0].says("alive", stalled=0)
    world.until(lambda: world.data.lively)
    world.peers[0].dies()
    world.until(lambda: len(world.peers) == 2)
    assert world.data.lively  # the restart is bridged
    monkeypatch.setattr(data_planes, "SILENT_S", 0)
    assert not world.data.lively
