"""Where connections end, or must not: quiet tunnels, endpoints that only announce, slots used anew."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress

import pytest

from edge import messages
from tests.e2e.plane import DEADLINE_S, Plane, Reader, Server, World, listener, named

pytestmark = pytest.mark.slow

UPGRADE = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


@pytest.fixture(params=["epoll", "uring"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def one_route(server: Server, *, idle_ms: int = 60_000, **upstream: int) -> World:
    world = World([listener(idle_ms=idle_ms)])
    world.route("a.test", "/", world.upstream("a", [server.port], **upstream))
    return world


def test_quiet_tunnel_outlives_the_idle_time_of_its_listener(loop: str) -> None:
    """idle_ms is for requests that do not come; a tunnel has its upstream's read_ms."""

    def push_then_echo(connection: socket.socket) -> None:
        Reader(connection).message()
        connection.sendall(SWITCHED + b"push")
        while data := connection.recv(1 << 16):
            connection.sendall(data)

    server = Server(push_then_echo)
    try:
        with (
            Plane(one_route(server, idle_ms=200, read_ms=30_000), loop=loop) as plane,
            plane.connect() as client,
        ):
            client.sendall(UPGRADE)
            reader = Reader(client)
            assert reader.message().status == 101
            assert reader.exactly(4) == b"push"
            client.settimeout(0.8)
            with suppress(TimeoutError):
                assert client.recv(1) == b"nothing may come, not even the end"
            client.settimeout(DEADLINE_S)
            client.sendall(b"still there")
            assert reader.exactly(11) == b"still there"
    finally:
        server.close()


def test_endless_interim_answers_are_an_error(loop: str) -> None:
    """Nothing asks for interim answers, so nothing but their number bounds them."""

    def announce(connection: socket.socket) -> None:
        Reader(connection).message()
        with suppress(OSError):
            while True:
                connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100)

    server = Server(announce)
    try:
        with Plane(one_route(server, read_ms=3_000), loop=loop) as plane, plane.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            reader = Reader(client)
            statuses = []
            while not statuses or statuses[-1] == 103:
                statuses.append(reader.message().status)
                assert len(statuses) < 10_000
            assert statuses[-1] == 502
    finally:
        server.close()


def test_slot_that_is_left_and_taken_anew_is_served(loop: str) -> None:
    """A worker that sleeps over "unlisten" and "listen" must not take the new socket for the old."""
    server = Server(named("a"))
    try:
        with Plane(one_route(server), loop=loop, workers=1) as plane:
            for _ in range(20):
                members = plane._members()
                os.kill(plane.process.pid, signal.SIGSTOP)
                messages.send(plane.control, "unlisten", slot=0)
                messages.send(plane.control, "listen", [members[0].fileno()], slot=0, first_member=0)
                os.kill(plane.process.pid, signal.SIGCONT)
                for old in plane.sockets[0]:
                    old.close()
                plane.sockets[0] = members
                plane.ports[0] = members[0].getsockname()[1]
                assert plane.get("a.test").body == b"a"
    finally:
        server.close()
