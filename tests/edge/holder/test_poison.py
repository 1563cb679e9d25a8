"""An image that kills whoever prepares it is refused, and does not kill one data plane after the other."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from edge.channel import Channel
from edge.holder.main import Holder
from edge.holder.store import IMAGE_FULL, IMAGE_PATCH, Stored
from edge.messages import Message, receive
from edge.options import Options

KILLED = 9  # wait status of a process that SIGKILL ended


@pytest.fixture
def holder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Holder]:
    made = Holder(Options(), 0, 0)
    monkeypatch.setattr(made, "_start_due", lambda: None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.controller.channel = Channel(ours)
    made._watch(made.controller.channel, lambda: None)
    theirs.setblocking(False)
    made.told = theirs  # type: ignore[attr-defined]
    yield made
    made._selector.close()
    made.controller.channel.close()
    theirs.close()
    for one in made.store.all():
        one.close()


def stage(holder: Holder, version: int, kind: int) -> Stored:
    stored = Stored(version, kind, tuple(os.memfd_create("x") for _ in range(3 - kind)))
    holder.store.stage(stored)
    return stored


def told(holder: Holder) -> list[Message]:
    """Shape: what the controller was told since the last call."""
    result = []
    while True:
        try:
            message = receive(holder.told)  # type: ignore[attr-defined]
        except BlockingIOError:
            return result
        assert message is not None
        result.append(message)


def test_refused_at_the_second_death(holder: Holder, capsys: pytest.CaptureFixture[str]) -> None:
    stage(holder, 1, IMAGE_FULL)
    holder.store.commit(1)
    staged = stage(holder, 2, IMAGE_PATCH)
    holder._data_plane_died(KILLED)
    assert [message.verb for message in told(holder)] == ["data"]
    holder._data.replay = [staged]  # the next one has it to prepare, what came before is done
    holder._data_plane_died(KILLED)
    assert [(one.verb, one.number("version")) for one in told(holder)] == [("data", 0), ("refused", 2)]
    assert holder.store.staged is None and holder.store.committed == 1
    capsys.readouterr()


def test_deaths_before_its_turn_are_not_its_own(holder: Holder, capsys: pytest.CaptureFixture[str]) -> None:
    stage(holder, 1, IMAGE_FULL)
    holder.store.commit(1)
    stage(holder, 2, IMAGE_PATCH)
    for _ in range(5):
        holder._data.replay = holder.store.all()
        holder._data_plane_died(KILLED)
    assert {message.verb for message in told(holder)} == {"data"}
    assert holder.store.staged is not None
    capsys.readouterr()
