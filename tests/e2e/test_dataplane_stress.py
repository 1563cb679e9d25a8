"""Ten seconds of everything at once against a sanitized data plane: no report, no wrong byte.

Clients pipeline, break off at any byte, stop reading; endpoints break off at any byte of an answer
or answer nonsense; full images and patches are published meanwhile. What a client gets to its end
must be right, every request must be counted once, and at the end nothing may be open.
EDGE_SEED repeats a run's choices, EDGE_STRESS_S makes it longer.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from csrc import build_native
from edge import messages
from tests.e2e import sanitized
from tests.e2e.plane import DEADLINE_S, Message, Plane, Reader, Server, World, listener, reply
from tests.e2e.test_dataplane import balanced, certificate, until

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("EDGE_STRESS_S", "10"))
CLIENTS = 12
SIZES = (0, 1, 100, 4000, 16384, 70_000, 300_000)
BREAKS = (OSError, EOFError, ValueError, IndexError)


def body_of(size: int) -> bytes:
    """Bytes that show where a piece is missing or doubled."""
    return b"".join(b"%07d\n" % at for at in range(0, size, 8))[:size]


BODIES = {size: body_of(size) for size in SIZES}


def chunks(rng: random.Random, body: bytes) -> bytes:
    """A chunked body cut at random, at times with an extension and trailers."""
    out, at = [], 0
    while at < len(body):
        part = body[at : at + rng.choice((1, 100, 5000, 40_000))]
        out.append(b"%x%s\r\n%s\r\n" % (len(part), rng.choice((b"", b";x=1")), part))
        at += len(part)
    return b"".join(out) + b"0\r\n" + rng.choice((b"", b"T: 1\r\n")) + b"\r\n"


def answer(rng: random.Random, size: int) -> bytes:
    """A correct answer in one of the framings that keep a connection, or until it closes."""
    body = BODIES[size]
    if rng.random() < 0.5:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        return rng.choice((b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")) + head + chunks(rng, body)
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body


def reset(connection: socket.socket) -> None:
    """End a connection with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def endpoint(seed: int) -> Callable[[socket.socket], None]:
    """A handler that does what the request's path says; /cut breaks off at a random byte."""
    numbers = iter(range(seed, 1 << 60))

    def handle(connection: socket.socket) -> None:
        rng = random.Random(next(numbers))
        reader = Reader(connection)
        while True:
            request = reader.message()
            _, what, size = request.first.split(" ")[1].split("/")
            if what == "early":
                reply(connection, b"", "413 No")
                return
            data = answer(rng, int(size))
            if what == "nonsense":
                data = bytearray(data)
                data[rng.randrange(min(len(data), 300))] = rng.randrange(256)
                connection.sendall(data)
                return
            if what == "cut":
                connection.sendall(data[: rng.choice((rng.randrange(100), rng.randrange(len(data))))])
                if rng.random() < 0.5:
                    reset(connection)
                return
            if what == "drip":
                for at in range(0, min(len(data), 400)):
                    connection.sendall(data[at : at + 1])
                connection.sendall(data[min(len(data), 400) :])
            else:
                connection.sendall(data)
            if what == "tail":  # no answer: whose would it be, when it comes behind the next request?
                connection.sendall(b"unasked\r\n\r\n")
            if what in ("close", "tail"):
                return

    return handle


class Client:
    """One client's thread: a seeded sequence of connections, each with some requests."""

    WHATS = ("ok", "ok", "ok", "drip", "cut", "nonsense", "tail", "close", "early", "none")

    def __init__(self, plane: Plane, seed: int, end: float) -> None:
        self.plane = plane
        self.rng = random.Random(seed)
        self.end = end
        self.complete = self.tls = 0
        self.wrong: list[str] = []
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while time.monotonic() < self.end:
            with suppress(*BREAKS):
                self.connection()

    def connection(self) -> None:
        rng = self.rng
        slot = rng.choice((0, 0, 1))
        self.tls = slot
        with self.plane.connect(slot) as raw:
            raw.settimeout(3)
            if slot == 1 and rng.random() < 0.1:
                raw.sendall(rng.randbytes(rng.randrange(1, 200)))
                return
            channel = self.context.wrap_socket(raw, server_hostname="a.test") if slot else raw
            with channel:
                if rng.random() < 0.1:
                    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
                for _ in range(rng.randrange(1, 5)):
                    if not self.batch(channel):
                        return

    def batch(self, channel: socket.socket) -> bool:
        """Pipelined requests; False when the connection is not to be used again."""
        rng = self.rng
        plan = [
            (rng.choice(self.WHATS), rng.choice(SIZES))
            for _ in range(rng.choice((1, 1, 2, 8 - self.tls * 5)))
        ]
        data = b"".join(self.request(what, size) for what, size in plan)
        if rng.random() < 0.2:
            channel.sendall(data[: rng.randrange(len(data) + 1)])
            if rng.random() < 0.3:
                channel.recv(rng.choice((1, 5000)))
            if rng.random() < 0.5:
                reset(channel)
            return False
        sender = threading.Thread(target=self.send, args=(channel, data))
        sender.start()
        if isinstance(channel, ssl.SSLSocket):  # a session is one thread's
            sender.join()
        try:
            reader = Reader(channel)
            for what, size in plan:
                if rng.random() < 0.03:
                    return False
                message = reader.message()
                while message.status < 200:
                    message = reader.message()
                self.judge(what, size, message)
                if message.get("connection") == "close":
                    return False
        finally:
            with suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)
            sender.join(DEADLINE_S)
        return False

    def send(self, channel: socket.socket, data: bytes) -> None:
        with suppress(OSError):
            if len(data) < 600 and self.rng.random() < 0.2:
                for at in range(len(data)):
                    channel.sendall(data[at : at + 1])
            else:
                channel.sendall(data)

    def request(self, what: str, size: int) -> bytes:
        rng = self.rng
        host = "none.test" if what == "none" else rng.choice(("a.test", "a.test", "slow.test"))
        head = f"/{what}/{size} HTTP/1.1\r\nHost: {host}\r\n"
        kind = rng.choice(("get", "get", "length", "chunked", "broken"))
        body = BODIES[rng.choice(SIZES[:-1])]
        if kind == "get":
            return f"GET {head}\r\n".encode()
        method = rng.choice(("POST", "PUT"))
        if kind == "length":
            expect = rng.choice(("", "", "Expect: 100-continue\r\n"))
            return f"{method} {head}{expect}Content-Length: {len(body)}\r\n\r\n".encode() + body
        coded = chunks(rng, body)
        if kind == "broken" and rng.random() < 0.3:
            coded = coded[: len(coded) // 2] + b"zz" + coded[len(coded) // 2 :]
        return f"{method} {head}Transfer-Encoding: chunked\r\n\r\n".encode() + coded

    def judge(self, what: str, size: int, message: Message) -> None:
        self.complete += 1
        good = what in ("ok", "drip", "tail", "close") and message.status == 200
        if good and message.body != BODIES[size]:
            self.wrong.append(f"{what} {size}: {len(message.body)} bytes")


@dataclass
class Crowd:
    """What a story of everything may change while it runs."""

    plane: Plane
    world: World
    ports: list[int]
    rng: random.Random
    end: float


def publishes(plane: Plane, world: World, ports: list[int], rng: random.Random, end: float) -> int:
    """Patches and full images, at a pace; returns how many."""
    count = 0
    key = next(iter(world.upstreams))
    while time.monotonic() < end:
        upstream, endpoints = world.upstreams[key]
        chosen = rng.sample(ports, rng.randrange(1, len(ports) + 1))
        world.upstreams[key] = (upstream, tuple(type(endpoints[0])(endpoints[0].address, p) for p in chosen))
        patch = rng.random() < 0.5
        if not patch:
            del world.routes[2:]
            world.route(f"r{rng.randrange(100)}.test", "/", key)
        plane.publish(patch=patch)
        count += 1
        time.sleep(rng.choice((0.0, 0.01, 0.05)))
    return count


@contextmanager
def everything(loop: str, library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    """A plane over a library with clients of every kind; what they saw and the books are judged."""
    seed = int(os.environ.get("EDGE_SEED", "0")) or random.randrange(1 << 30)
    print(f"EDGE_SEED={seed}")
    monkeypatch.setattr(Plane, "library", library)
    with ExitStack() as stack:
        servers = [Server(endpoint(seed + i)) for i in range(3)]
        for server in servers:
            stack.callback(server.close)
        ports = [server.port for server in servers]
        world = World([listener(head_ms=1000, idle_ms=1000), listener(tls=True, head_ms=1000, idle_ms=1000)])
        world.certificates.append(certificate("a.test", default=True))
        key = world.upstream("a", ports, read_ms=2000, send_ms=2000)
        world.route("a.test", "/", key)
        world.route("slow.test", "/", key, delay_ms=5)
        plane = stack.enter_context(Plane(world, loop=loop))
        end = time.monotonic() + SECONDS / 2
        clients = [Client(plane, seed + i, end) for i in range(CLIENTS)]
        yield Crowd(plane, world, ports, random.Random(seed), end)
        for client in clients:
            client.thread.join(SECONDS + 2 * DEADLINE_S)
        assert plane.process.poll() is None
        assert not [wrong for client in clients for wrong in client.wrong]
        assert sum(client.complete for client in clients) > 100
        sums = balanced(plane)
        assert sums["requests"] > 100
        until(lambda: plane.lane_sums()["connections_open"] == 0)


@pytest.mark.parametrize("loop", ["epoll", "uring"])
def test_everything_at_once(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with everything(loop, build_native.sanitized(), monkeypatch) as crowd:
        assert publishes(crowd.plane, crowd.world, crowd.ports, crowd.rng, crowd.end) > 10


@pytest.mark.parametrize("loop", ["epoll", "uring"])
def test_everything_while_planes_succeed_each_other(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drains of every length under all of it: none is stuck, none crashes, and the books balance."""
    with everything(loop, build_native.sanitized(), monkeypatch) as crowd:
        rng, successions = crowd.rng, 0
        while time.monotonic() < crowd.end:
            old = crowd.plane.succeed()
            if rng.random() < 0.3:
                messages.send(old.control, "closing")
            grace_ms = rng.choice((0, 50, 500, 1500))
            old.drain(grace_ms=grace_ms, idle_ms=rng.choice((0, 20, grace_ms)))
            assert old.end() == 0
            successions += 1
        assert successions > 1


@pytest.mark.parametrize("loop", ["epoll", "uring"])
def test_everything_while_memory_fails(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place that allocates finds none at some time: an answer is right, or an error, or none."""
    header = Path(__file__).with_name("failing_memory.h")
    extra = ("-include", str(header), "-DEDGE_FAIL_ONE_IN=100")
    with everything(loop, build_native.sanitized("failing", extra), monkeypatch) as crowd:
        assert publishes(crowd.plane, crowd.world, crowd.ports, crowd.rng, crowd.end) > 10
    assert crowd.plane.lane_sums()["memory_errors"] > 10


def test_a_report_is_seen_and_named() -> None:
    library = build_native.sanitized()
    line = subprocess.run(["nm", library], check=True, capture_output=True, text=True).stdout
    address = next(row.split()[0] for row in line.splitlines() if row.endswith(" edge_data_run"))
    text = f"==1==ERROR: AddressSanitizer: heap-use-after-free\n #0 0x1 ({library}+0x{address})\n"
    assert "edge_data_run" in sanitized.report(text)
    assert sanitized.report("edge-data: nothing of note\n") == ""


@pytest.mark.parametrize("loop", ["epoll", "uring"])
def test_memory_does_not_grow_while_log_lines_go_round(loop: str, tmp_path: Path) -> None:
    def anonymous() -> int:
        status = Path(f"/proc/{plane.process.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0])

    def fill(lines: int) -> None:
        request = b"GET / HTTP/1.1\r\nHost: none.test\r\nUser-Agent: %s\r\n\r\n" % (b"a" * 240)
        with plane.connect() as client:
            reader = Reader(client)
            for _ in range(lines // 100):
                client.sendall(request * 100)
                for _ in range(100):
                    assert reader.message().status == 404

    world = World([listener()])
    with Plane(world, loop=loop, workers=1, log=tmp_path / "access.log") as plane:
        fill(100)
        before = anonymous()
        fill(4000)
        assert anonymous() - before < 512
