"""The controller as its holder sees it: one that stands still is replaced, a successor must publish."""

from __future__ import annotations

import os
import signal

import pytest

from edge.holder import controller_side
from edge.holder.controller_side import SILENT_BEATS
from edge.holdings import IMAGE_FULL, Stored
from tests.edge.holder.world import World


def beat(world: World, times: int = 1) -> None:
    for _ in range(times):
        world.controller.watch()


def test_one_that_stands_still_is_killed_and_counted(world: World) -> None:
    [peer] = world.controllers
    beat(world, SILENT_BEATS)
    assert not peer.child.signals, "it never said that it is alive: of another version"
    peer.says("alive")
    beat(world, SILENT_BEATS - 1)
    peer.says("alive")
    beat(world, SILENT_BEATS - 1)
    assert not peer.child.signals
    beat(world, 2)
    assert peer.child.signals == [signal.SIGKILL]
    assert world.holdings.counts["watchdog_kills"] == 1
    beat(world, SILENT_BEATS)
    assert len(peer.child.signals) == 1, "once"


def test_a_debugger_may_hold_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_side, "is_traced", lambda _pid: True)
    [peer] = world.controllers
    peer.says("alive")
    beat(world, SILENT_BEATS * 2)
    assert not peer.child.signals


@pytest.mark.parametrize("published", [False, True])
def test_only_the_first_of_a_holder_must_publish_to_be_ready(world: World, published: bool) -> None:
    first = world.controllers[0]
    if published:
        world.holdings.store.stage(Stored(2, IMAGE_FULL, (os.memfd_create("i"), os.memfd_create("k"))))
        first.says("commit", version=2)
    first.dies()
    world.until(lambda: len(world.controllers) == 2)
    setup = next(one for one in world.controllers[1].heard() if one.verb == "setup")
    assert setup.number("settled", -1) == int(published)
