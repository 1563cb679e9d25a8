"""The data plane as a process, over both loops: requests in, answers out, nothing of Kubernetes."""

from __future__ import annotations

import datetime
import hashlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from csrc import build_native
from edge import messages
from edge.model.diagnostics import ObjectRef
from edge.model.types import Certificate
from tests.e2e.plane import DEADLINE_S, Plane, Reader, Server, World, dump, listener, named, reply

pytestmark = pytest.mark.slow

Start = Callable[..., Plane]
Serve = Callable[[Callable[[socket.socket], None]], Server]


@pytest.fixture(params=["epoll", "uring"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def sanitized_library() -> Path:
    return build_native.sanitized()


@pytest.fixture(params=["", "sanitized"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every story runs twice: as built for use, and under sanitizers."""
    if request.param:
        monkeypatch.setattr(Plane, "library", request.getfixturevalue("sanitized_library"))


@pytest.fixture
def stack(library: None) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def serve(stack: ExitStack) -> Serve:
    def start(handler: Callable[[socket.socket], None]) -> Server:
        server = Server(handler)
        stack.callback(server.close)
        return server

    return start


@pytest.fixture
def start(stack: ExitStack, loop: str) -> Start:
    def run(world: World, **options: object) -> Plane:
        plane = stack.enter_context(Plane(world, loop=loop, **options))  # type: ignore[arg-type]
        assert plane.ready.fields["loop"] == loop
        return plane

    return run


def one_route(server: Server | None, **upstream: int) -> World:
    world = World([listener()])
    world.route("a.test", "/", world.upstream("a", [server.port] if server else [], **upstream))
    return world


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def balanced(plane: Plane) -> dict[str, int]:
    """Counters when nothing is in flight: requests are the sum of their outcomes."""
    until(lambda: plane.lane_sums()["in_flight"] == 0)
    sums = plane.lane_sums()
    outcomes = ("ok", "local", "client_abort", "upstream_abort", "tunnel", "lost")
    assert sums["requests"] == sum(sums[name] for name in outcomes), sums
    return sums


def test_routes_by_host_and_path(start: Start, serve: Serve) -> None:
    a, b, c = (serve(named(name)) for name in "abc")
    world = World([listener()])
    world.route("a.test", "/", world.upstream("a", [a.port]))
    world.route("a.test", "/b", world.upstream("b", [b.port]))
    world.route(".wild.test", "/", world.upstream("c", [c.port]))
    plane = start(world)
    assert plane.get("a.test", "/").body == b"a"
    assert plane.get("A.TEST:80", "/b/x?q").body == b"b"
    assert plane.get("a.test", "/bx").body == b"a"
    assert plane.get("x.wild.test").body == b"c"
    assert plane.get("none.test").status == 404
    assert plane.get("a.test", method="HEAD").status == 200
    assert balanced(plane)["local"] == 1


def test_kept_and_pipelined_requests(start: Start, serve: Serve) -> None:
    server = serve(named("a"))
    plane = start(one_route(server), workers=1)
    request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
    with plane.connect() as client:
        reader = Reader(client)
        for _ in range(20):
            client.sendall(request)
            assert reader.message().body == b"a"
        client.sendall(request * 50)
        for _ in range(50):
            assert reader.message().body == b"a"
        client.sendall(request[:-2] + b"Connection: close\r\n\r\n")
        last = reader.message()
        assert last.get("connection") == "close"
        assert reader.rest() == b""
    assert server.accepted == 1
    assert balanced(plane)["ok"] == 71


def test_bodies_both_ways(start: Start, serve: Serve) -> None:
    body = os.urandom(1 << 20)

    def echo(connection: socket.socket) -> None:
        reader = Reader(connection)
        try:
            while True:
                request = reader.message()
                if "/chunked" in request.first:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for at in range(0, len(request.body), 10_000):
                        part = request.body[at : at + 10_000]
                        connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
                    connection.sendall(b"0\r\n\r\n")
                elif "/close" in request.first:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + request.body)
                    return
                else:
                    reply(connection, request.body)
        except EOFError:
            return

    plane = start(one_route(serve(echo)))
    digest = hashlib.sha256(body).digest()
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(part), part)
        for part in (body[i : i + 7777] for i in range(0, len(body), 7777))
    )
    for path in ("/", "/chunked", "/close"):
        answer = plane.get("a.test", path, method="POST", extra=f"Content-Length: {len(body)}\r\n", body=body)
        assert hashlib.sha256(answer.body).digest() == digest, path
        answer = plane.get(
            "a.test", path, method="POST", extra="Transfer-Encoding: chunked\r\n", body=chunks + b"0\r\n\r\n"
        )
        assert hashlib.sha256(answer.body).digest() == digest, path
    assert balanced(plane)["ok"] == 6


def test_answers_expect_continue(start: Start, serve: Serve) -> None:
    plane = start(one_route(serve(dump)))
    with plane.connect() as client:
        reader = Reader(client)
        client.sendall(
            b"POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        )
        assert reader.message().status == 100
        client.sendall(b"abc")
        assert b"body: 3" in reader.message().body


def test_slow_reader_stops_the_endpoint(start: Start, serve: Serve) -> None:
    sent = 0

    def pour(connection: socket.socket) -> None:
        nonlocal sent
        Reader(connection).message()
        size = 64 << 20
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        part = bytes(1 << 16)
        for _ in range(size >> 16):
            connection.sendall(part)
            sent += len(part)

    plane = start(one_route(serve(pour)))
    with plane.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        until(lambda: sent > 0)
        before = -1
        while before != sent:
            before = sent
            time.sleep(0.2)
        assert sent < 48 << 20
        with plane.connect() as other:
            other.sendall(b"GET / HTTP/1.1\r\nHost: none.test\r\n\r\n")
            assert Reader(other).message().status == 404
    assert balanced(plane)["client_abort"] == 1


def test_statuses_of_failures(start: Start, serve: Serve) -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    refused = closed.getsockname()[1]
    closed.close()
    silent = serve(lambda connection: Reader(connection).until(b"never"))
    broken = serve(lambda connection: connection.sendall(b"no http\r\n\r\n"))
    good = serve(named("good"))
    world = World([listener(target_bytes_max=1000, head_bytes_max=4000)])
    world.route("refused.test", "/", world.upstream("refused", [refused]))
    world.route("some.test", "/", world.upstream("some", [refused, good.port]))
    world.route("none.test", "/", world.upstream("none", []))
    world.route("silent.test", "/", world.upstream("silent", [silent.port], read_ms=100))
    world.route("broken.test", "/", world.upstream("broken", [broken.port]))
    world.route("small.test", "/", world.upstream("small", [good.port]), body_bytes_max=10)
    plane = start(world)
    assert plane.get("refused.test").status == 502
    for _ in range(4):
        assert plane.get("some.test").body == b"good"
    assert plane.get("none.test").status == 503
    assert plane.get("silent.test").status == 504
    assert plane.get("broken.test").status == 502
    length = plane.get("small.test", method="POST", extra="Content-Length: 11\r\n", body=b"x" * 11)
    assert length.status == 413
    chunked = plane.get(
        "small.test",
        method="POST",
        extra="Transfer-Encoding: chunked\r\n",
        body=b"b\r\n01234567890\r\n0\r\n\r\n",
    )
    assert chunked.status == 413
    assert plane.get("x.test", "/" + "a" * 2000).status == 414
    assert plane.get("x.test", extra="A: " + "a" * 5000 + "\r\n").status == 431
    assert plane.get("x.test", method="CONNECT").status in (400, 501)
    assert plane.get("x.test", extra="Transfer-Encoding: gzip\r\n").status == 501
    with plane.connect() as client:
        client.sendall(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n")
        assert Reader(client).message().status == 505
    with plane.connect() as client:
        client.sendall(b"GET /\r\n\r\n")
        assert Reader(client).message().status == 400
    balanced(plane)


def test_head_timeout(start: Start, serve: Serve) -> None:
    world = World([listener(head_ms=100, idle_ms=100)])
    world.route("a.test", "/", world.upstream("a", [serve(named("a")).port]))
    plane = start(world)
    with plane.connect() as client:
        client.sendall(b"GET / HT")
        assert Reader(client).message().status == 408
    with plane.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        reader = Reader(client)
        assert reader.message().body == b"a"
        assert reader.rest() == b""


def test_upgrade_becomes_a_tunnel(start: Start, serve: Serve) -> None:
    def upgrade(connection: socket.socket) -> None:
        reader = Reader(connection)
        request = reader.message()
        assert request.get("upgrade") == "echo"
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        while data := reader.data or connection.recv(1 << 16):
            reader.data = b""
            connection.sendall(data)

    plane = start(one_route(serve(upgrade)))
    with plane.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        reader = Reader(client)
        answer = reader.message()
        assert (answer.status, answer.get("upgrade")) == (101, "echo")
        payload = os.urandom(300_000)
        writer = threading.Thread(target=client.sendall, args=(payload,))
        writer.start()
        assert reader.exactly(len(payload)) == payload
        writer.join()
        client.shutdown(socket.SHUT_WR)
        assert reader.rest() == b""
    assert balanced(plane)["tunnel"] == 1


def test_forwarding_fields(start: Start, serve: Serve) -> None:
    world = World([listener(), listener(trusted="127.0.0.0/8")])
    world.route("a.test", "/", world.upstream("a", [serve(dump).port]))
    plane = start(world)
    spoofed = (
        "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n"
        "X-Request-Id: mine\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nX-Real-IP: 6.6.6.6\r\n"
    )
    seen = plane.get("a.test", extra=spoofed).body.decode()
    lines = dict(line.split(": ", 1) for line in seen.split("\n")[1:])
    assert lines["x-forwarded-for"] == "127.0.0.1"
    assert lines["x-forwarded-proto"] == "http"
    assert lines["x-forwarded-host"] == "a.test"
    assert lines["x-real-ip"] == "127.0.0.1"
    assert len(lines["x-request-id"]) == 32 and lines["x-request-id"] != "mine"
    assert "x-hop" not in lines and "keep-alive" not in lines
    with plane.connect(1) as client:
        client.sendall(f"GET / HTTP/1.1\r\nHost: a.test\r\n{spoofed}\r\n".encode())
        seen = Reader(client).message().body.decode()
    lines = dict(line.split(": ", 1) for line in seen.split("\n")[1:])
    assert lines["x-forwarded-for"] == "1.2.3.4, 127.0.0.1"
    assert lines["x-forwarded-proto"] == "https"
    assert lines["x-forwarded-host"] == "evil"
    assert lines["x-request-id"] == "mine"


def test_delay_filter(start: Start, serve: Serve) -> None:
    world = World([listener()])
    key = world.upstream("a", [serve(dump).port])
    world.route("a.test", "/", key, delay_ms=150)
    world.route("b.test", "/", key)
    plane = start(world, workers=1)
    with plane.connect() as client:
        began = time.monotonic()
        client.sendall(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nbody")
        assert plane.get("b.test").status == 200
        assert time.monotonic() - began < 0.15
        assert b"body: 4" in Reader(client).message().body
        assert time.monotonic() - began >= 0.149


def test_stale_connection_is_replaced(start: Start, serve: Serve) -> None:
    server = serve(named("a"))
    plane = start(one_route(server), workers=1)
    for _ in range(10):
        assert plane.get("a.test").body == b"a"
        server.drop_connections()
    assert balanced(plane)["ok"] == 10


def test_redirect_to_https(start: Start, serve: Serve) -> None:
    world = World([listener()])
    world.route("a.test", "/", world.upstream("a", [serve(named("a")).port]), redirect_https=True)
    answer = start(world).get("a.test:8080", "/x?y=1")
    assert (answer.status, answer.get("location")) == (308, "https://a.test/x?y=1")


def test_publish_keeps_connections(start: Start, serve: Serve) -> None:
    a, b = serve(named("a")), serve(named("b"))
    world = one_route(a)
    plane = start(world)
    request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
    with plane.connect() as client:
        reader = Reader(client)
        client.sendall(request)
        assert reader.message().body == b"a"
        key = next(iter(world.upstreams))
        upstream, endpoints = world.upstreams[key]
        world.upstreams[key] = (upstream, (type(endpoints[0])(endpoints[0].address, b.port),))
        plane.publish(patch=True)
        client.sendall(request)
        assert reader.message().body == b"b"
        world.route("new.test", "/", world.upstream("new", [a.port]))
        plane.publish()
        client.sendall(request.replace(b"a.test", b"new.test"))
        assert reader.message().body == b"a"


def test_drain_finishes_what_is_open(start: Start, serve: Serve, loop: str) -> None:
    go = threading.Event()

    def slow(connection: socket.socket) -> None:
        Reader(connection).message()
        go.wait(DEADLINE_S)
        reply(connection, b"late")

    server = serve(slow)
    plane = Plane(one_route(server), loop=loop)
    with plane.connect() as idle, plane.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        until(lambda: server.accepted == 1)
        messages.send(plane.control, "drain", grace_ms=5000)
        assert Reader(idle).rest() == b""
        go.set()
        answer = Reader(client).message()
        assert (answer.body, answer.get("connection")) == (b"late", "close")
    plane.expect("drained")
    assert plane.process.wait(DEADLINE_S) == 0
    plane.release()


def test_killed_process_loses_only_its_own(start: Start, serve: Serve, loop: str) -> None:
    silent = serve(lambda connection: Reader(connection).until(b"never"))
    world = one_route(silent)
    world.route("b.test", "/", world.upstream("b", [serve(named("b")).port]))
    with Plane(world, loop=loop) as plane:
        assert plane.get("b.test").body == b"b"
        with plane.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            until(lambda: silent.accepted == 1)
            plane.process.kill()
            plane.process.wait()
            with plane.connect() as waiting:
                waiting.sendall(b"GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
                plane.control.close()
                plane.start()
                plane.publish()
                assert Reader(waiting).message().body == b"b"
        sums = balanced(plane)
        assert (sums["lost"], sums["ok"]) == (1, 2)


def test_access_log_has_every_request(start: Start, serve: Serve, loop: str, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with Plane(one_route(serve(named("a"))), loop=loop, log=path) as plane:
        for number in range(50):
            plane.get("a.test", f"/{number}", extra='User-Agent: a"b\r\n')
    lines = path.read_text().splitlines()
    assert sorted(line.split('"')[1] for line in lines) == sorted(f"GET /{i} HTTP/1.1" for i in range(50))
    assert all("a\\x22b" in line for line in lines)


def certificate(name: str, *, default: bool = False) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .sign(key, hashes.SHA256())
    )
    chain = signed.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    digest = hashlib.sha256(chain + secret).digest()
    return Certificate(ObjectRef("Secret", "test", name), digest, chain, secret, (name,), default)


def test_tls_chooses_by_server_name(start: Start, serve: Serve) -> None:
    world = World([listener(tls=True)])
    world.route("a.test", "/", world.upstream("a", [serve(dump).port]))
    world.certificates += [certificate("a.test"), certificate("default.test", default=True)]
    plane = start(world)
    body = os.urandom(300_000)
    head = f"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, shown in (("a.test", b"a.test"), ("other.test", b"default.test")):
        with plane.connect() as raw, context.wrap_socket(raw, server_hostname=name) as client:
            der = client.getpeercert(binary_form=True)
            assert der is not None and shown in der
            reader = Reader(client)
            for _ in range(3):
                client.sendall(head + body)
                seen = reader.message().body
                assert b"x-forwarded-proto: https" in seen
                assert b"body: 300000" in seen
            plane.publish()
            client.sendall(head + body)
            assert reader.message().status == 200
    assert balanced(plane)["ok"] == 8
    assert (balanced(plane)["tls_handshakes"], balanced(plane)["tls_errors"]) == (2, 0)
    with plane.connect() as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        Reader(raw).rest()
    until(lambda: plane.lane_sums()["tls_errors"] == 1)
    with plane.connect() as raw:
        raw.sendall(b"\x16\x03\x01")
    until(lambda: plane.lane_sums()["tls_errors"] == 2)
    assert plane.lane_sums()["tls_handshakes"] == 2
