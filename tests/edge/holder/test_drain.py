"""The stop of an instance: what is said when, and new connections that are dropped, not reset."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from edge.holder import drain
from edge.holder.drain import Drain
from edge.holder.sockets import drop_new_connections, open_members
from edge.holdings import Listener
from edge.options import Options
from tests.edge.holder.fakes import Peer
from tests.edge.holder.world import World


def verbs(peer: Peer) -> list[str]:
    return [message.verb for message in peer.heard()]


def listen(world: World) -> tuple[str, int]:
    """Give the world a listener."""
    (member,) = open_members("127.0.0.1", 0, 1)
    place: tuple[str, int] = member.getsockname()
    world.holdings.listeners[0] = Listener(0, *place, [member.detach()])
    return place


def ask(place: tuple[str, int]) -> socket.socket:
    """Send a SYN, and do not wait."""
    client = socket.socket()
    client.setblocking(False)
    assert client.connect_ex(place) == errno.EINPROGRESS
    return client


def test_the_moments_of_a_stop(world: World) -> None:
    world.options = Options(drain_delay=0.05, grace_period=0.05)
    place = listen(world)
    done: list[bool] = []
    controller, data = world.controllers[0], world.data_planes[0]
    Drain(world, shared=False, done=lambda: done.append(True))
    assert verbs(controller) == ["drain"] and verbs(data) == ["closing"]
    served = socket.create_connection(place)  # still taken: the delay is for who looks at readiness
    world.until(lambda: drop_is_set(world))
    assert "drain" not in verbs(data)  # handshakes under way have their time
    heard: list[str] = []
    world.until(lambda: heard.extend(verbs(data)) or "drain" in heard)
    assert not world.holdings.listeners and not done
    data.dies()
    world.until(lambda: done)
    assert len(world.data_planes) == 1
    served.close()


def drop_is_set(world: World) -> bool:
    """Say whether a new connection is dropped."""
    listener = world.holdings.listeners[0]
    with ask((listener.address, listener.port)) as client:
        return client.connect_ex((listener.address, listener.port)) == errno.EALREADY


def test_sockets_that_another_holder_has_are_left_alone(world: World) -> None:
    place = listen(world)
    copy = os.dup(world.holdings.listeners[0].members[0])
    Drain(world, shared=True, done=lambda: None)
    heard: list[str] = []
    world.until(lambda: heard.extend(verbs(world.data_planes[0])) or "drain" in heard)
    socket.create_connection(place, 5).close()
    os.close(copy)


def test_patience_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "KILL_AFTER_S", 0.02)
    done: list[bool] = []
    Drain(world, shared=False, done=lambda: done.append(True))
    world.until(lambda: done)
    assert len(world.data.everyone()) == 1  # whom the holder's end kills


def test_the_filter_drops_syns_and_nothing_else() -> None:
    """What has been accepted, waits in the queue or is in its handshake is as before."""
    members = open_members("127.0.0.1", 0, 2)
    place = members[0].getsockname()
    waiting = [socket.create_connection(place) for _ in range(8)]
    for member in members:
        drop_new_connections(member.fileno())
    late = ask(place)
    served = 0
    for member in members:
        while True:
            try:
                accepted, _ = member.accept()
            except BlockingIOError:
                break
            with accepted:
                accepted.sendall(b"x")
                served += 1
    assert served == len(waiting)
    assert all(client.recv(2) == b"x" for client in waiting)
    assert late.connect_ex(place) == errno.EALREADY  # neither refused nor reset: it is sent again
    for end in (*waiting, *members, late):
        end.close()
