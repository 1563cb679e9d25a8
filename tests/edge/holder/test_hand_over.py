"""The old holder's side of a take-over: whoever goes away or is silent, one holder goes on."""

from __future__ import annotations

import signal
import socket

import pytest

from edge.holder import hand_over
from edge.holder.control import Client
from edge.holder.hand_over import HandOver, refusal
from edge.holder.record import pid_namespace
from edge.messages import Message, decode, receive, send
from tests.edge.holder.world import World


class Attempt:
    """A hand-over under way, and the successor's end of it."""

    def __init__(self, world: World, pidns: int = 0) -> None:
        self.world, self.results = world, []  # type: tuple[World, list[bool]]
        question = decode(f"take-over protocol=1 pidns={pidns or pid_namespace()}".encode())

        def begin(client: Client, _message: Message) -> None:
            self.hand_over = HandOver(world, client, question, self.results.append)

        world.control._verbs = {"take-over": begin}
        self.end = world.connect()
        send(self.end, "take-over")
        self.end.setblocking(False)
        self.verbs: list[str] = []
        self.words: list[Message] = []

    def hears(self, verb: str) -> Message:
        """Turn the loop until the successor hears a verb; shape: that message."""
        self.world.until(lambda: self._hears(verb))
        return self.words[-1]

    def _hears(self, verb: str) -> bool:
        while not self.words or self.words[-1].verb != verb:
            try:
                message = receive(self.end)
            except BlockingIOError:
                return False
            assert message is not None
            message.close()
            self.words.append(message)
        return True


def is_holder_again(world: World) -> bool:
    """Say whether messages of both children are heard, and the control socket answers."""
    world.data_planes[-1].says("drain-progress", open=3, tunnels=4)
    world.controllers[-1].says("unlisten", slot=9)
    world.until(lambda: world.data.current is not None and world.data.current.tunnels == 4)
    assert not world.data.stopping and not world.controller.stopping
    asked: list[Client] = []
    world.control._verbs = {"status": lambda client, _message: asked.append(client)}
    with world.connect() as end:
        send(end, "status")
        world.until(lambda: asked)
    world.until(lambda: not world.control.clients)
    return True


def test_taken_and_left(world: World) -> None:
    attempt = Attempt(world)
    assert attempt.hears("handed").fields["children"] == "come"
    parts = [one.fields["part"] for one in attempt.words if one.fields.get("what") == "child"]
    assert parts == ["data", "controller"]
    world.data_planes[0].says("serving", version=1)  # waits for the successor
    send(attempt.end, "taken")
    attempt.hears("left")
    assert attempt.results == [True]
    attempt.end.close()


def test_a_silent_successor_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand_over, "SILENT_S", 0.02)
    attempt = Attempt(world)
    assert attempt.hears("kept").fields["reason"] == "the successor is silent"
    assert attempt.results == [False] and is_holder_again(world)
    attempt.end.close()


@pytest.mark.parametrize("after", ["", "handed"])
def test_a_successor_that_goes_away_is_forgotten(world: World, after: str) -> None:
    attempt = Attempt(world)
    if after:
        attempt.hears(after)
    attempt.end.close()
    world.until(lambda: attempt.results or not world.control.clients)
    if attempt.results:
        assert attempt.results == [False]
    assert is_holder_again(world)


def test_a_successor_that_dies_after_taken_leaves_us_the_holder(world: World) -> None:
    attempt = Attempt(world)
    attempt.hears("handed")
    send(attempt.end, "taken")
    attempt.end.close()
    world.until(lambda: attempt.results)
    assert attempt.results == [False] and is_holder_again(world)


def test_a_child_that_does_not_read_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in our queue would be lost: the successor gets the channel, not the queue."""
    monkeypatch.setattr(hand_over, "READ_PATIENCE_S", 0.05)
    child = world.children()[0]
    while not child.channel.waiting:
        child.send("commit", version=1)
    attempt = Attempt(world)
    assert "does not read" in attempt.hears("kept").fields["reason"]
    assert attempt.results == [False]
    attempt.end.close()
    world.until(lambda: not world.control.clients)
    attempt = Attempt(world)  # and one that reads a little later is no reason
    world.until(lambda: attempt.world.data.stopping)
    world.data_planes[0].heard()
    attempt.hears("handed")
    attempt.end.close()
    world.until(lambda: attempt.results)


def test_apart_the_controller_ends_first_and_comes_back(world: World) -> None:
    """A successor of another PID namespace starts its own; if it dies before it serves, so do we again."""
    attempt = Attempt(world, pidns=1)
    world.until(lambda: signal.SIGTERM in world.controllers[0].child.signals)
    assert not [one for one in attempt.words if one.verb == "handed"]
    world.controllers[0].dies()
    assert attempt.hears("handed").fields["children"] == "stay"
    assert not [one for one in attempt.words if one.fields.get("what") == "child"]
    assert [one.number("first") for one in attempt.words if one.fields.get("what") == "lanes"] == [0]
    send(attempt.end, "taken")
    attempt.hears("left")
    assert not attempt.results
    attempt.end.close()
    world.until(lambda: attempt.results)
    assert attempt.results == [False] and len(world.controllers) == 2
    assert is_holder_again(world)


def test_apart_the_end_comes_when_the_successor_serves(world: World) -> None:
    attempt = Attempt(world, pidns=1)
    world.until(lambda: world.controllers[0].child.signals)
    world.controllers[0].dies()
    attempt.hears("handed")
    send(attempt.end, "serving", version=1)  # too early: it has not taken anything
    send(attempt.end, "taken")
    attempt.hears("left")
    assert not attempt.results
    send(attempt.end, "serving", version=1)
    world.until(lambda: attempt.results)
    assert attempt.results == [True]
    attempt.end.close()


def test_apart_who_must_stop_leaves_it_to_the_successor(world: World) -> None:
    for left in (False, True):
        attempt = Attempt(world, pidns=1)
        controller = world.controllers[-1]
        world.until(lambda: controller.child.signals)  # noqa: B023
        controller.dies()
        attempt.hears("handed")
        if left:
            send(attempt.end, "taken")
            attempt.hears("left")
        assert attempt.hand_over.conclude() is left
        assert attempt.results == ([] if left else [False])
        assert len(world.controllers) == 2
        attempt.end.close()


def test_apart_a_successor_that_goes_while_the_controller_ends(world: World) -> None:
    attempt = Attempt(world, pidns=1)
    world.until(lambda: world.controllers[0].child.signals)
    attempt.end.close()
    world.until(lambda: attempt.results)
    assert len(world.controllers) == 1
    world.controllers[0].dies()
    world.until(lambda: len(world.controllers) == 2)
    assert is_holder_again(world)


def test_what_cannot_be_handed_over(world: World) -> None:
    here = pid_namespace()
    ask = lambda text: refusal(decode(f"take-over {text}".encode()), world.data)  # noqa: E731
    assert not ask(f"protocol=1 pidns={here}") and not ask("protocol=1 pidns=1")
    assert "protocol 2" in ask(f"protocol=2 pidns={here}")
    world.data.begin_coming("python")
    assert "no lanes" in ask("protocol=1 pidns=1")


def test_who_may_not_ask_is_not_heard(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.holder.control.may_ask", lambda _peer: False)
    with world.connect() as end:
        world.until(lambda: _is_closed(end))
    assert not world.control.clients


def _is_closed(end: socket.socket) -> bool:
    try:
        return end.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
