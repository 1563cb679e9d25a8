"""What a data plane does when it may have no more: descriptors, memory. New work waits or is refused
with a counter, nothing spins, nothing crashes, no answer is wrong, and all is well when there is room again.
"""

from __future__ import annotations

import os
import resource
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.plane import DEADLINE_S, Plane, Reader, Server, World, listener, named
from tests.e2e.test_dataplane import balanced, until

pytestmark = pytest.mark.slow

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
MIB = 1 << 20
SLOW = 2000


@pytest.fixture(params=["epoll", "uring"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def one_route(port: int) -> World:
    world = World([listener(head_ms=60_000, idle_ms=60_000)])
    world.route("a.test", "/", world.upstream("a", [port], read_ms=60_000))
    return world


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    """The test's own limit must not be the one that is met."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def answering() -> Iterator[Server]:
    server = Server(named("a"))
    try:
        yield server
    finally:
        server.close()


def processor_s(pid: int) -> float:
    """Time that all threads of a process have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quiet(pid: int) -> bool:
    """Does it use next to nothing while it can do nothing?"""
    before = processor_s(pid)
    time.sleep(1.0)  # what is measured is a rate
    return processor_s(pid) - before < 0.1


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def allow_files(pid: int, count: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))


def test_connections_wait_while_there_is_no_descriptor(loop: str) -> None:
    limits = {resource.RLIMIT_NOFILE: 4000}  # so few that connections are accepted one by one
    with (
        answering() as server,
        Plane(one_route(server.port), loop=loop, limits=limits) as plane,
        ExitStack() as stack,
    ):
        pid = plane.process.pid
        allow_files(pid, descriptors(pid) + 10)
        clients = [stack.enter_context(plane.connect()) for _ in range(40)]
        until(lambda: plane.lane_sums()["accept_errors"] > 1)
        assert plane.lane_sums()["connections_open"] <= 12
        assert quiet(pid)
        for client in clients:
            client.sendall(GET)
        until(lambda: plane.lane_sums()["connect_limits"] > 0)
        assert quiet(pid)
        allow_files(pid, 4000)
        statuses = [Reader(client).message().status for client in clients]
        assert set(statuses) == {200, 503}
        assert statuses.count(503) <= 12
        assert plane.get("a.test").status == 200
        balanced(plane)


def test_descriptors_that_others_give_back_are_enough(loop: str) -> None:
    limits = {resource.RLIMIT_NOFILE: 4000}
    with answering() as server, Plane(one_route(server.port), loop=loop, limits=limits) as plane:
        pid = plane.process.pid
        allow_files(pid, descriptors(pid) + 10)
        first = [plane.connect() for _ in range(20)]
        until(lambda: plane.lane_sums()["accept_errors"] > 1)
        for client in first:
            client.close()
        until(lambda: plane.lane_sums()["connections_open"] == 0)
        for _ in range(20):
            assert plane.get("a.test").status == 200


def test_half_of_the_descriptors_is_for_endpoints(loop: str) -> None:
    """Whoever is connected is served, however many wait to be."""
    limits = {resource.RLIMIT_NOFILE: 200}
    with (
        answering() as server,
        Plane(one_route(server.port), loop=loop, workers=1, limits=limits) as plane,
        ExitStack() as stack,
    ):
        share = (200 - 50) // 2
        clients = [stack.enter_context(plane.connect()) for _ in range(share + 30)]
        for client in clients:
            client.sendall(GET)
        for client in clients[:share]:
            assert Reader(client).message().status == 200
        sums = plane.lane_sums()
        assert sums["connections_open"] == share
        assert (sums["accept_errors"], sums["connect_limits"]) == (1, 0)
        assert quiet(plane.process.pid)
        for client in clients[:share]:
            client.close()
        for client in clients[share:]:
            assert Reader(client).message().status == 200


class Bulk:
    """An endpoint with one thread for thousands of connections: 1 MiB for each request."""

    def __init__(self) -> None:
        self.body = bytes(range(256)) * (MIB // 256)
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MIB + self.body
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.listening.setblocking(False)
        self.port: int = self.listening.getsockname()[1]
        self.left: dict[socket.socket, int] = {}  # bytes still to be sent
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listening, selectors.EVENT_READ)
        self.wake, self.woken = socket.socketpair()
        self.selector.register(self.woken, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while True:
            for key, events in self.selector.select():
                if key.fileobj is self.woken:
                    return
                if key.fileobj is self.listening:
                    with suppress(BlockingIOError):
                        connection, _ = self.listening.accept()
                        connection.setblocking(False)
                        connection.setsockopt(
                            socket.SOL_SOCKET, socket.SO_SNDBUF, 65536
                        )  # the kernel has a limit too
                        self.left[connection] = 0
                        self.selector.register(connection, selectors.EVENT_READ)
                    continue
                assert isinstance(key.fileobj, socket.socket)
                try:
                    self._serve(key.fileobj, events)
                except OSError:
                    self._drop(key.fileobj)

    def _serve(self, connection: socket.socket, events: int) -> None:
        if events & selectors.EVENT_READ:
            data = connection.recv(65536)
            if not data:
                self._drop(connection)
                return
            self.left[connection] += data.count(b"\r\n\r\n") * len(self.answer)
        with suppress(BlockingIOError):
            while left := self.left[connection]:
                at = -left % len(self.answer)
                self.left[connection] -= connection.send(memoryview(self.answer)[at:])
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.left[connection] else 0)
        self.selector.modify(connection, wanted)

    def _drop(self, connection: socket.socket) -> None:
        self.selector.unregister(connection)
        del self.left[connection]
        connection.close()

    def close(self) -> None:
        self.wake.send(b"x")
        self.thread.join(DEADLINE_S)
        self.selector.close()
        for one in (*self.left, self.listening, self.wake, self.woken):
            one.close()


@contextmanager
def bulk() -> Iterator[Bulk]:
    endpoint = Bulk()
    try:
        yield endpoint
    finally:
        endpoint.close()


def slow_client(plane: Plane) -> socket.socket:
    """A client that asks for 1 MiB and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(DEADLINE_S)
    client.connect(("127.0.0.1", plane.ports[0]))
    client.sendall(GET)
    return client


def data_bytes(pid: int) -> int:
    """What RLIMIT_DATA counts."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmData:")[2].split()[0]) * 1024


def judged(endpoint: Bulk, client: socket.socket) -> str:
    """Shape: what a client got: whole, refused, a part (the kernel's zero windows take their time)."""
    reader = Reader(client)
    client.settimeout(0.5)
    try:
        head = reader.until(b"\r\n\r\n")
        if b" 503 " in head.splitlines()[0]:
            return "refused"
        assert head.startswith(b"HTTP/1.1 200 ")
        with suppress(EOFError, ConnectionResetError, TimeoutError):
            while len(reader.data) < MIB:
                reader._more()
    except (EOFError, ConnectionResetError):
        return "broken" if reader.data else "nothing"
    assert reader.data == endpoint.body[: len(reader.data)]
    return "whole" if len(reader.data) == MIB else "part"


@pytest.mark.parametrize("known", [True, False])
def test_two_thousand_slow_clients_within_the_memory_limit(loop: str, known: bool) -> None:
    """Known from the start, the bound is on buffers; lowered while it runs, allocations fail."""
    limits = {resource.RLIMIT_DATA: 256 * MIB} if known else {}
    with bulk() as endpoint, Plane(one_route(endpoint.port), loop=loop, limits=limits) as plane:
        pid = plane.process.pid
        if not known:
            limit = data_bytes(pid) + 24 * MIB
            resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))
        clients = [slow_client(plane) for _ in range(SLOW)]
        until(lambda: plane.lane_sums()["memory_errors"] > 10)
        if known:
            assert plane.get("none.test").status in (404, 503)
        until(lambda: quiet(pid))
        seen = [judged(endpoint, client) for client in clients[:: SLOW // 40]]
        assert seen.count("whole") > 0
        assert "broken" not in seen
        for client in clients:
            client.close()
        until(lambda: plane.lane_sums()["connections_open"] == 0)
        with plane.connect() as client:
            client.sendall(GET)
            assert Reader(client).message().body == endpoint.body
        assert balanced(plane)["ok"] > 0
