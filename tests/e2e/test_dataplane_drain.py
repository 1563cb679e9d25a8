"""How a data plane leaves: closing, drain, a successor on the same sockets, no holder, SIGTERM."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edge import messages
from edge.dataplane import tables
from edge.dataplane.stats import Statistics
from edge.native import lib
from tests.e2e.plane import DEADLINE_S, Plane, Reader, Server, World, listener, named
from tests.e2e.test_dataplane import balanced, certificate, until
from tests.e2e.test_dataplane_ends import SWITCHED, UPGRADE

pytestmark = pytest.mark.slow

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.fixture(params=["epoll", "uring"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], Server]]:
    with ExitStack() as stack:

        def make(handler: Callable[[socket.socket], None]) -> Server:
            server = Server(handler)
            stack.callback(server.close)
            return server

        yield make


Serve = Callable[[Callable[[socket.socket], None]], Server]


def one_route(server: Server, *, tls: bool = False, **upstream: int) -> World:
    world = World([listener(tls=tls)])
    world.route("a.test", "/", world.upstream("a", [server.port], **upstream))
    if tls:
        world.certificates.append(certificate("a.test", default=True))
    return world


def drain(plane: Plane, *, grace_ms: int, idle_ms: int) -> None:
    messages.send(plane.control, "drain", grace_ms=grace_ms, idle_ms=idle_ms)


def ended(plane: Plane) -> None:
    plane.expect("drained")
    assert plane.process.wait(DEADLINE_S) == 0
    plane.release()


def ask(client: socket.socket) -> str | None:
    """One request on a kept connection. Shape: the answer's Connection field."""
    client.sendall(GET)
    message = Reader(client).message()
    assert message.status == 200
    return message.get("connection")


def test_closing_ends_connections_after_their_answers_and_accepts_on(serve: Serve, loop: str) -> None:
    with Plane(one_route(serve(named("a"))), loop=loop) as plane, plane.connect() as kept:
        assert ask(kept) is None
        messages.send(plane.control, "closing")
        until(lambda: plane.get("a.test").get("connection") == "close")
        assert ask(kept) == "close"
        assert kept.recv(1) == b""
        with plane.connect() as fresh:
            assert ask(fresh) == "close"


@pytest.mark.parametrize("tls", [False, True])
def test_kept_connection_is_served_until_the_idle_time_of_a_drain(serve: Serve, loop: str, tls: bool) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    plane = Plane(one_route(serve(named("a")), tls=tls), loop=loop)
    with plane.connect() as used, plane.connect() as unused:
        if tls:
            used, unused = (context.wrap_socket(one, server_hostname="a.test") for one in (used, unused))
        assert ask(used) is None
        assert ask(unused) is None
        began = time.monotonic()
        drain(plane, grace_ms=20_000, idle_ms=1500)
        plane.expect("drain-progress")
        assert ask(used) == "close"
        assert used.recv(1) == b""
        assert unused.recv(1) == b""
        assert time.monotonic() - began >= 1.5
        unused.sendall(GET)  # it crossed our end: forgotten, never answered by a reset
        unused.close()
        used.close()
    ended(plane)
    assert balanced(plane)["requests"] == 3


def test_request_that_crosses_the_end_meets_no_reset(serve: Serve, loop: str) -> None:
    plane = Plane(one_route(serve(named("a"))), loop=loop)
    clients = [plane.connect() for _ in range(20)]
    for client in clients:
        assert ask(client) is None
    drain(plane, grace_ms=20_000, idle_ms=0)
    for client in clients:
        try:
            client.sendall(GET)
            client.sendall(GET)
        except BrokenPipeError:
            pytest.fail("reset")
        answer = Reader(client).rest()
        assert answer == b"" or answer.endswith(b"a")
        client.close()
    ended(plane)


def test_tunnel_ends_with_the_grace_period_and_is_told_about(serve: Serve, loop: str) -> None:
    def echo(connection: socket.socket) -> None:
        Reader(connection).message()
        connection.sendall(SWITCHED)
        while data := connection.recv(1 << 16):
            connection.sendall(data)

    plane = Plane(one_route(serve(echo)), loop=loop)
    with plane.connect() as client:
        client.sendall(UPGRADE)
        reader = Reader(client)
        assert reader.message().status == 101
        began = time.monotonic()
        drain(plane, grace_ms=4000, idle_ms=100)
        progress = plane.expect("drain-progress")
        assert (progress.number("open"), progress.number("tunnels")) == (0, 1)
        client.sendall(b"on")
        assert reader.exactly(2) == b"on"
        until(lambda: time.monotonic() - began > 3.3)  # the other worker is long done
        assert Statistics(plane.stats_fd).totals().stalled == 0
        assert client.recv(1) == b""
        assert time.monotonic() - began >= 4
    ended(plane)
    assert balanced(plane)["tunnel"] == 1


def test_busy_tunnel_ends_with_the_grace_period_and_no_reset(serve: Serve, loop: str) -> None:
    """What its client still sends is read away: a close with unread bytes would be a reset."""

    def echo(connection: socket.socket) -> None:
        Reader(connection).message()
        connection.sendall(SWITCHED)
        while data := connection.recv(1 << 16):
            connection.sendall(data)

    plane = Plane(one_route(serve(echo)), loop=loop)
    with ExitStack() as stack:
        clients = [stack.enter_context(plane.connect()) for _ in range(8)]
        for client in clients:
            client.sendall(UPGRADE)
            assert Reader(client).message().status == 101
        drain(plane, grace_ms=200, idle_ms=0)
        left = set(clients)
        until = time.monotonic() + DEADLINE_S
        while left and time.monotonic() < until:
            for client in list(left):
                client.sendall(b"still here")
                if client.recv(1 << 16) == b"":
                    left.discard(client)
        assert not left
    ended(plane)
    assert balanced(plane)["tunnel"] == len(clients)


def test_exchange_that_outlives_the_grace_is_cut_and_counted_as_lost(serve: Serve, loop: str) -> None:
    silent = serve(lambda connection: Reader(connection).until(b"never"))
    plane = Plane(one_route(silent), loop=loop)
    with plane.connect() as client:
        client.sendall(GET)
        until(lambda: silent.accepted == 1)
        drain(plane, grace_ms=200, idle_ms=0)
        ended(plane)
    sums = balanced(plane)
    assert (sums["requests"], sums["lost"], sums["connections_open"]) == (1, 1, 0)


def test_queue_of_a_socket_that_nobody_else_has_is_served_before_it_closes(serve: Serve, loop: str) -> None:
    plane = Plane(one_route(serve(named("a"))), loop=loop)
    os.kill(plane.process.pid, signal.SIGSTOP)
    clients = [plane.connect() for _ in range(200)]
    for client in clients:
        client.sendall(GET)
    for members in plane.sockets:
        for member in members:
            member.close()
    drain(plane, grace_ms=20_000, idle_ms=1000)
    os.kill(plane.process.pid, signal.SIGCONT)
    for client in clients:
        message = Reader(client).message()
        assert (message.body, message.get("connection")) == (b"a", "close")
        client.close()
    with pytest.raises(ConnectionRefusedError):
        plane.connect()
    ended(plane)


class Load:
    """Threads that open connections, each with one or two requests, until told to stop."""

    def __init__(self, plane: Plane, threads: int = 4) -> None:
        self.plane = plane
        self.done = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]
        for thread in self.threads:
            thread.start()

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                with self.plane.connect() as client:
                    for _ in range(1 + number % 2):
                        if ask(client) == "close":
                            break
                        self.done += 1
            except (OSError, EOFError, AssertionError) as error:
                self.wrong.append(repr(error))
                return

    def passes(self, count: int) -> None:
        """Wait until so many more requests were answered."""
        goal = self.done + count
        until(lambda: self.done >= goal or bool(self.wrong))

    def stop(self) -> None:
        self._stop.set()
        for thread in self.threads:
            thread.join(DEADLINE_S)
        assert not self.wrong, self.wrong


def test_successors_accept_on_the_same_sockets_without_a_lost_request(serve: Serve, loop: str) -> None:
    with Plane(one_route(serve(named("a"))), loop=loop) as plane:
        load = Load(plane)
        for _ in range(4):
            load.passes(50)
            old = plane.succeed()
            load.passes(50)
            old.drain(grace_ms=10_000, idle_ms=10_000)
            assert old.end() == 0
            sums = plane.lane_sums()
            assert sums["lost"] == 0
        load.stop()
        sums = balanced(plane)
        assert sums["ok"] == sums["requests"]


def test_orphan_serves_on_until_sigterm(serve: Serve, loop: str) -> None:
    plane = Plane(one_route(serve(named("a"))), loop=loop)
    plane.control.close()
    with plane.connect() as kept:
        for _ in range(3):
            assert ask(kept) is None
            assert plane.get("a.test").body == b"a"
        assert plane.process.poll() is None
        plane.process.send_signal(signal.SIGTERM)
        until(lambda: ask(kept) == "close")
        assert kept.recv(1) == b""
    assert plane.process.wait(DEADLINE_S) == 0
    plane.release()
    assert balanced(plane)["lost"] == 0


def test_sigterm_drains_also_under_a_holder(serve: Serve, loop: str) -> None:
    plane = Plane(one_route(serve(named("a"))), loop=loop)
    plane.process.send_signal(signal.SIGTERM)
    ended(plane)


def test_commit_whose_message_was_lost_is_read_from_the_page(serve: Serve, loop: str) -> None:
    with Plane(one_route(serve(named("a"))), loop=loop) as plane:
        for version in (2, 3):
            image = plane.tables.full(plane.world.snapshot(version))
            descriptor = tables.sealed_memfd("image", image)
            messages.send(plane.control, "image", [descriptor], version=version, kind=1)
            os.close(descriptor)
            plane.expect("prepared")
        plane.version = 3
        with mmap.mmap(plane.commit_fd, 4096) as page:
            page[:16] = struct.pack("=QQ", lib.EDGE_COMMIT_MAGIC, 2)
        plane.control.close()
        until(lambda: set(versions(plane)) == {2})
        assert plane.get("a.test").body == b"a"
        plane.process.send_signal(signal.SIGTERM)
        assert plane.process.wait(DEADLINE_S) == 0


def open_in(plane: Plane, pid: int) -> int:
    """Connections that a process has."""
    return sum(int(lane.connections_open) for lane in plane.lane_views() if lane.pid == pid)


def versions(plane: Plane) -> list[int]:
    """What each worker of the present process serves."""
    return [int(lane.version) for lane in plane.lane_views() if lane.pid]


PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17


@contextmanager
def stopped_thread(pid: int, name: str) -> Iterator[None]:
    """Hold one thread of a process still."""
    tasks = Path(f"/proc/{pid}/task")
    tid = next(int(task.name) for task in tasks.iterdir() if (task / "comm").read_text().strip() == name)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(PTRACE_SEIZE, tid, 0, 0) == 0, os.strerror(ctypes.get_errno())
    assert libc.ptrace(PTRACE_INTERRUPT, tid, 0, 0) == 0
    os.waitpid(tid, 0x40000000)  # __WALL
    try:
        yield
    finally:
        assert libc.ptrace(PTRACE_DETACH, tid, 0, 0) == 0


def test_stalled_worker_is_told_and_the_heartbeat_stops(serve: Serve, loop: str) -> None:
    page = os.memfd_create("heartbeat")
    os.ftruncate(page, 4096)
    with Plane(one_route(serve(named("a"))), loop=loop) as plane, mmap.mmap(page, 4096) as beat:
        messages.send(plane.control, "heartbeat", [page])
        os.close(page)
        until(lambda: any(beat[:]))
        assert plane.expect("alive").number("stalled") == 0
        with stopped_thread(plane.process.pid, "edge-w1"):
            until(lambda: plane.expect("alive").number("stalled") == 1)
            stamped = beat[:]
            plane.expect("alive")
            assert beat[:] == stamped
        until(lambda: plane.expect("alive").number("stalled") == 0)
        until(lambda: beat[:] != stamped)
        for _ in range(8):
            assert plane.get("a.test").body == b"a"


class Books:
    """Reads all counters as fast as it can: balanced in each lane, and none ever goes back."""

    GAUGES = ("in_flight", "connections_open", "tunnels")

    def __init__(self, plane: Plane) -> None:
        self.statistics = Statistics(plane.stats_fd)
        self.wrong: list[str] = []
        self.reads = 0
        self._before: dict[str, int] = {}
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self._stop.is_set() and not self.wrong:
            totals = self.statistics.totals()
            self.reads += 1
            ended = sum(totals.outcomes.values())
            if totals.values["requests"] != ended + totals.values["in_flight"]:
                self.wrong.append(f"{totals}")
            counters = {k: v for k, v in totals.values.items() if k not in self.GAUGES} | totals.outcomes
            self.wrong += [k for k, v in counters.items() if v < self._before.get(k, 0)]
            self._before = counters

    def stop(self) -> None:
        self._stop.set()
        self.thread.join(DEADLINE_S)
        assert not self.wrong, self.wrong
        assert self.reads > 10


def test_books_balance_while_planes_drain_and_die(serve: Serve, loop: str) -> None:
    """A predecessor that is killed in its drain has nobody else who counts what was open in it."""
    silent = serve(lambda connection: Reader(connection).until(b"never"))
    world = one_route(serve(named("a")))
    world.route("silent.test", "/", world.upstream("silent", [silent.port]))
    with Plane(world, loop=loop) as plane, ExitStack() as stack:
        books = Books(plane)
        load = Load(plane)
        for turn in range(1, 4):
            client = stack.enter_context(plane.connect())
            client.sendall(GET.replace(b"a.test", b"silent.test"))
            until(lambda turn=turn: silent.accepted == turn)
            load.passes(30)
            old = plane.succeed()
            load.passes(30)
            old.drain(grace_ms=60_000, idle_ms=60_000)
            load.passes(30)
            until(lambda old=old: open_in(plane, old.process.pid) == 1)
            old.process.kill()
            old.end()
            until(lambda turn=turn: plane.lane_sums()["lost"] >= turn)
        load.stop()
        books.stop()
        assert balanced(plane)["lost"] == 3
