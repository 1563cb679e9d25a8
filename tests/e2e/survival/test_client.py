"""The client of the survival program names each failure right: against a server that fails on order.

On loopback, without edge: what is measured by must be known to measure.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.lab import wait_for
from tests.e2e.survival.traffic import Client, Event, Seen

pytestmark = pytest.mark.slow

BODY = b"x" * 128
PATTERN = b"0123456789abcdef" * 65536
RATES = (200, 40, 20)
Failure = Callable[[socket.socket], object]


def answer(body: bytes, *lines: bytes) -> bytes:
    fields = b"".join(line + b"\r\n" for line in lines)
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), fields, body)


def reset(channel: socket.socket) -> None:
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    channel.close()


class Server:
    """Answers as the pods do; `fail` is called once in place of the next answer of `path`."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self.listening.getsockname()[1])
        self.path = b""
        self.fail: Failure | None = None
        self.lock = threading.Lock()
        self.open: list[socket.socket] = []
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def order(self, path: bytes, fail: Failure) -> None:
        with self.lock:
            self.path, self.fail = path, fail

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                channel, _ = self.listening.accept()
                channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.open.append(channel)
                self.threads.append(threading.Thread(target=self.serve, args=(channel,)))
                self.threads[-1].start()

    def serve(self, channel: socket.socket) -> None:
        with channel, contextlib.suppress(OSError):
            data = b""
            while got := channel.recv(65536):
                data += got
                while b"\r\n\r\n" in data:
                    head, _, data = data.partition(b"\r\n\r\n")
                    path = head.split(b" ")[1].partition(b"?")[0]
                    body, data = (data[:20], data[20:]) if path == b"/echo" else (b"", data)
                    if not self.one(channel, path, head, body):
                        return

    def one(self, channel: socket.socket, path: bytes, head: bytes, body: bytes) -> bool:
        with self.lock:
            fail = self.fail if path == self.path else None
            self.fail = None if fail else self.fail
        if fail:
            fail(channel)
            return False
        if path == b"/tunnel":
            channel.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: numbers\r\n\r\n")
            while got := channel.recv(65536):
                with self.lock:
                    fail = self.fail if self.path == b"tunnel" else None
                    self.fail = None if fail else self.fail
                if fail:
                    fail(channel)
                    return False
                channel.sendall(got)
            return False
        last = b"Connection: close" in head
        content = {b"/echo": body, b"/bytes": PATTERN}.get(path, BODY)
        channel.sendall(answer(content, *([b"Connection: close"] if last else [])))
        if last:
            channel.close()
        return not last

    def close(self) -> None:
        for channel in [self.listening, *self.open]:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)  # wakes who waits on it
        self.listening.close()

    def join(self) -> None:
        self.close()
        self.threads[0].join(10)
        self.close()  # what was accepted meanwhile
        for thread in self.threads:
            thread.join(10)


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.join()


def seen_with(server: Server, path: bytes, fail: Failure, timeout_s: float = 5) -> Seen:
    with Client(None, "127.0.0.1", server.port, rates=RATES, timeout_s=timeout_s) as client:
        client.wait_ready()
        server.order(path, fail)
        wait_for("the failure", lambda: server.fail is None, 10)
        return client.finish()


def sends(*parts: bytes) -> Failure:
    def fail(channel: socket.socket) -> None:
        for part in parts:
            channel.sendall(part)
        channel.close()

    return fail


def half_and_reset(channel: socket.socket) -> None:
    channel.sendall(answer(BODY)[:60])
    reset(channel)


HALF_DOWNLOAD = answer(PATTERN)[: 1 << 19]
CASES: dict[str, tuple[bytes, Failure, str, str, int]] = {
    "closed before a byte": (b"/", sends(), "closed-before", "", 0),
    "reset before a byte": (b"/", reset, "reset-before", "", 0),
    "closed in the head": (b"/", sends(b"HTTP/1.1 2"), "closed-within", "", 0),
    "closed in the body": (b"/", sends(answer(BODY)[:-1]), "closed-within", "", 0),
    "reset in the body": (b"/", half_and_reset, "reset-within", "", 0),
    "wrong bytes": (b"/", sends(answer(b"y" * 128)), "wrong", "", 200),
    "another length": (b"/", sends(answer(b"x" * 127)), "wrong", "", 200),
    "an answer too many": (b"/echo", sends(answer(b"0" * 20)), "wrong", "echo", 200),
    "no HTTP": (b"/", sends(b"SSH-2.0-nothing\r\n\r\n"), "wrong", "", 0),
    "a status": (b"/", sends(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), "status", "", 503),
    "half a download": (b"/bytes", sends(HALF_DOWNLOAD), "closed-within", "download", 0),
    "a tunnel closed": (b"tunnel", sends(), "closed-within", "tunnel", 0),
    "a tunnel reset": (b"tunnel", reset, "reset-within", "tunnel", 0),
    "a tunnel with other bytes": (b"tunnel", sends(b"\xff" * 8), "wrong", "tunnel", 0),
    "a tunnel refused": (b"tunnel", lambda channel: channel.close(), "closed-within", "tunnel", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_a_failure_is_named(server: Server, case: str) -> None:
    path, fail, what, kind, status = CASES[case]
    seen = seen_with(server, path, fail)
    assert [(event.what, event.status) for event in seen.events] == [(what, status)], seen.events
    event: Event = seen.events[0]
    assert event.failed and event.in_flight and seen.began < event.sent <= event.at < seen.ended
    assert not kind or event.kind == kind
    assert sum(seen.asked.values()) == sum(seen.answered.values()) + (kind != "tunnel")


def test_what_hangs_is_a_failure(server: Server) -> None:
    over = threading.Event()
    try:
        seen = seen_with(server, b"/", lambda _channel: bool(over.wait(10)), timeout_s=0.5)
    finally:
        over.set()
    assert [event.what for event in seen.events] == ["timeout-before"]
    assert seen.slowest_ms < 500


def test_refused_connections_are_counted_apart(server: Server) -> None:
    with Client(None, "127.0.0.1", server.port, rates=RATES) as client:
        client.wait_ready()
        server.join()  # with what it was accepting
        time.sleep(0.5)  # how long it shall be refused, nothing is waited for
        seen = client.finish()
    assert seen.refused > 20 and seen.refused_first <= seen.refused_last
    assert seen.gap()[0] > 0.3
    assert {event.kind for event in seen.events} <= {"kept", "echo", "tunnel", "fresh"}
