"""Upgrades of data plane and controller, and what is left of those that fail; the watchdog."""

from __future__ import annotations

import os
import signal

import pytest

from edge.errors import HolderError
from edge.holder import controller_side, data_plane, data_planes
from edge.holder.upgrade import follow_options
from edge.options import Options
from tests.edge.holder.fakes import Peer
from tests.edge.holder.world import World


class Said:
    """What was said of an upgrade."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.texts: list[str] = []

    def __call__(self, state: str, text: str) -> None:
        self.states.append(state)
        self.texts.append(text)


def verbs(peer: Peer) -> list[str]:
    return [message.verb for message in peer.heard()]


# ---- data plane ------------------------------------------------------------------------------


def test_the_second_serves_before_the_first_drains(world: World) -> None:
    said = Said()
    world.data.upgrade("/new", said)
    old, new = world.data_planes
    first = new.heard()
    assert [one.verb for one in first] == ["setup", "image"]
    assert first[0].number("lane_first") == 2 and said.states == ["starting"]
    with pytest.raises(HolderError, match="under way"):
        world.data.upgrade("/new", said)
    world.publish(2)  # meanwhile: both get it
    assert verbs(old) == ["image"]
    world.serve(new, 1)  # it has still to prepare 2
    assert said.states == ["starting"] and "drain" not in verbs(old)
    old.says("prepared", version=2)
    old.says("serving", version=2)
    world.serve(new, 2)
    assert said.states == ["starting", "ready", "draining"]
    assert world.data.current and world.data.current.child is new.child
    (drain,) = [one for one in old.heard() if one.verb == "drain"]
    assert drain.number("idle_ms") == drain.number("grace_ms") == 50  # nobody waits
    world.publish(3)  # who leaves is still asked, and must not see old routes
    assert "image" in verbs(old)
    old.dies()
    world.until(lambda: said.states[-1] == "done")
    assert world.holdings.counts["upgrades"] == 1 and world.data.program.executable == "/new"
    assert world.holdings.counts["data_restarts"] == 0


def test_one_that_does_not_serve_in_time_is_killed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_planes, "UPGRADE_PATIENCE_S", 0.02)
    said = Said()
    world.data.upgrade("/new", said)
    world.data_planes[1].says("ready", loop="epoll", workers=2)
    world.until(lambda: said.states[-1] == "failed")
    new = world.data_planes[1]
    assert "does not serve" in said.texts[-1] and signal.SIGKILL in new.child.signals
    new.dies()
    world.until(lambda: len(world.data.everyone()) == 1)
    assert world.data.current and world.data.current.child is world.data_planes[0].child
    assert "drain" not in verbs(world.data_planes[0])
    assert world.data.program.executable != "/new" and not world.data.upgrading


@pytest.mark.parametrize("how", ["dies", "refuses"])
def test_one_that_ends_or_refuses_changes_nothing(world: World, how: str) -> None:
    said = Said()
    world.data.upgrade("/new", said)
    new = world.data_planes[1]
    if how == "dies":
        new.dies()
    else:
        new.says("refused", version=1, reason="of another ABI")
    world.until(lambda: said.states[-1] == "failed")
    assert world.holdings.counts == dict.fromkeys(world.holdings.counts, 0)
    assert world.holdings.store.committed == 1
    assert not [one for one in world.controllers[0].heard() if one.verb in ("refused", "serving")]


@pytest.mark.parametrize("serves", [True, False])
def test_the_first_dies_while_the_second_starts(world: World, serves: bool) -> None:
    """The second follows it; if it does not serve either, the old executable comes back."""
    said = Said()
    world.data.upgrade("/new", said)
    world.data_planes[0].dies()
    world.until(lambda: world.data.coming is None)
    new = world.data_planes[1]
    assert world.data.current and world.data.current.child is new.child and len(world.data_planes) == 2
    if serves:
        world.serve(new, 1)
        assert said.states == ["starting", "ready", "done"]
        return
    new.dies()
    world.until(lambda: said.states[-1] == "failed" and len(world.data_planes) == 3)
    assert world.data_planes[2].child.executable != "/new"


def test_an_upgrade_waits_for_lanes(world: World) -> None:
    first, second = Said(), Said()
    world.data.upgrade("/new", first)
    world.serve(world.data_planes[1], 1)
    assert first.states[-1] == "draining"
    world.data_planes[0].dies()
    world.until(lambda: first.states[-1] == "done")
    world.data.upgrade("/newer", second)
    assert second.states == ["starting"] and len(world.data_planes) == 3
    lanes = [one.lane_first for one in world.data.everyone()]
    assert sorted(lanes) == [0, 2]


def test_who_drains_too_long_is_cut(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_planes, "KILL_AFTER_S", 0.0)
    world.data.upgrade("/new", Said())
    world.serve(world.data_planes[1], 1)
    old = world.data_planes[0]
    world.until(lambda: old.child.signals == [signal.SIGKILL])


# ---- controller ------------------------------------------------------------------------------


def commit(peer: Peer, world: World, version: int) -> None:
    """Publish as a controller does."""
    image = [os.memfd_create("i"), os.memfd_create("k")]
    peer.says("image", tuple(image), version=version, kind=1)
    peer.says("commit", version=version)
    for number in image:
        os.close(number)


def test_a_controller_is_upgraded_when_the_new_one_publishes(world: World) -> None:
    said = Said()
    old = world.controllers[0]
    world.controller.upgrade("/new", said, {"EDGE_CONFIG": "other"})
    assert old.child.signals == [signal.SIGTERM]
    commit(old, world, 5)  # what the old one says to the last is heard, and is not the new one's
    world.until(lambda: world.holdings.store.committed == 5)
    assert said.states == ["starting"]
    old.dies()
    world.until(lambda: len(world.controllers) == 2)
    new = world.controllers[1]
    assert new.child.executable == "/new"
    assert [one.verb for one in new.heard()][:1] == ["setup"]
    commit(new, world, 6)
    world.until(lambda: said.states[-1] == "done")
    assert world.holdings.counts["upgrades"] == 1 and world.holdings.counts["controller_restarts"] == 0
    assert world.controller.program.environment["EDGE_CONFIG"] == "other"


def test_a_controller_that_publishes_nothing_is_replaced_by_the_old_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_side, "UPGRADE_PATIENCE_S", 0.02)
    monkeypatch.setattr(controller_side, "END_S", 0.02)
    said = Said()
    before = world.controller.program.executable
    world.controller.upgrade("/new", said, {"EDGE_CONFIG": "other"})
    world.until(lambda: signal.SIGKILL in world.controllers[0].child.signals)  # it does not end by itself
    world.controllers[0].dies()
    world.until(lambda: said.states[-1] == "failed")
    assert "published nothing" in said.texts[-1]
    world.controllers[1].dies()
    world.until(lambda: len(world.controllers) == 3)
    assert world.controllers[2].child.executable == before
    assert "EDGE_CONFIG" not in world.controller.program.environment or (
        world.controller.program.environment["EDGE_CONFIG"] != "other"
    )
    assert not world.controller.upgrading


def test_a_controller_that_ends_is_replaced_by_the_old_one(world: World) -> None:
    said = Said()
    world.controller.upgrade("/new", said)
    world.controllers[0].dies()
    world.until(lambda: len(world.controllers) == 2)
    world.controllers[1].dies()
    world.until(lambda: len(world.controllers) == 3)
    assert said.states[-1] == "failed" and world.controllers[2].child.executable != "/new"


# ---- other options ---------------------------------------------------------------------------


def test_other_options_replace_what_they_are_for(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    before = world.options.to_environment()
    same = Options.from_environment({**before, "EDGE_TAKE_OVER": "1", "EDGE_WORKERS": "9"})
    follow_options(before, same, world.controller, world.data, world.holdings)
    assert not world.controller.upgrading and not world.data.upgrading
    other = Options.from_environment({**before, "EDGE_LOG_FORMAT": "json", "EDGE_CONFIG": "there"})
    follow_options(before, other, world.controller, world.data, world.holdings)
    assert "other options than before: --config, --log-format" in capfd.readouterr().err
    assert world.controller.upgrading and not world.data.upgrading
    assert world.holdings.options["EDGE_CONFIG"] == ""  # until the others are followed
    world.controllers[0].dies()
    world.until(lambda: len(world.controllers) == 2)
    commit(world.controllers[1], world, 2)
    world.until(lambda: world.data.upgrading)
    assert len(world.data_planes) == 2 and world.holdings.options["EDGE_CONFIG"] == "there"


# ---- watchdog --------------------------------------------------------------------------------


def test_silent_and_stalled_data_planes_are_killed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(data_plane.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(world.loop, "_timeout", lambda: 5.0)
    peer = world.data_planes[0]
    one = world.data.current
    assert one is not None

    def alive(stalled: int, tunnels: int) -> None:
        peer.says("alive", stalled=stalled)
        peer.says("drain-progress", open=0, tunnels=tunnels)
        while one.tunnels != tunnels:
            world.loop.turn()

    now[0] += 100
    assert not one.stuck()  # it has never said that it lives: it is not watched
    alive(0, 1)
    now[0] += data_plane.SILENT_S - 1
    assert not one.stuck()
    now[0] += 1
    assert "silent" in one.stuck()
    alive(1, 2)
    for second in range(3, 12):
        now[0] += 1
        alive(1, second)
        assert not one.stuck()
    alive(0, 12)  # it has come round
    for second in range(13, 23):
        alive(2, second)
        now[0] += 1
    assert "has not come round" in one.stuck()
    world.data.watch()
    assert peer.child.signals == [signal.SIGKILL]
    assert world.holdings.counts["watchdog_kills"] == 1
    assert world.holdings.events[-1].kind == "watchdog"
