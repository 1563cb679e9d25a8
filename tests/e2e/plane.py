"""A data plane without a holder: sockets, memory and messages of its own, for tests.

Plays the holder over a socket pair as edge.holder would, with snapshots built from a few lines.
Upstream servers are threads on 127.0.0.1 that do what a handler function says.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import TracebackType
from typing import Any

from edge import messages
from edge.dataplane import tables
from edge.model.types import (
    Certificate,
    Delay,
    Endpoint,
    Listener,
    PathType,
    Route,
    RouteKey,
    Transport,
    Upstream,
    UpstreamKey,
)
from edge.native import ffi, lib
from edge.snapshot.types import PlacedListener, PlacedRoute, PlacedUpstream, Slot, Snapshot
from tests.e2e import sanitized

DEADLINE_S = 10.0
COUNTERS = (
    "requests", "in_flight", "connections", "connections_open", "tls_handshakes", "tls_errors", "log_lines",
    "log_dropped", "accept_errors", "connect_limits", "memory_errors", "tunnels",
)  # fmt: skip
PULSE = ("alive", "drain-progress")
ROOT = Path(__file__).resolve().parents[2]


class Server:
    """A TCP server on 127.0.0.1: `handler` runs in a thread for each connection."""

    def __init__(self, handler: Callable[[socket.socket], None]) -> None:
        self.handler = handler
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.accepted = 0
        self.connections: list[socket.socket] = []
        self.threads: list[threading.Thread] = []
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.accepted += 1
            self.connections.append(connection)
            thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.handler(connection)
            except (OSError, EOFError):
                return

    def drop_connections(self) -> None:
        """End every open connection, as a restarting application does."""
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        """Stop accepting and end everything."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.drop_connections()
        self.thread.join(DEADLINE_S)
        for thread in self.threads:
            thread.join(DEADLINE_S)


class Reader:
    """Buffered reading of HTTP/1 from a socket, by hand: what arrived must be visible as bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.data = b""

    def until(self, mark: bytes) -> bytes:
        """Everything up to and with the mark; raises EOFError when the peer ends before."""
        while mark not in self.data:
            self._more()
        head, _, self.data = self.data.partition(mark)
        return head + mark

    def exactly(self, count: int) -> bytes:
        """So many bytes."""
        while len(self.data) < count:
            self._more()
        part, self.data = self.data[:count], self.data[count:]
        return part

    def rest(self) -> bytes:
        """Everything until the peer ends."""
        try:
            while True:
                self._more()
        except EOFError:
            part, self.data = self.data, b""
            return part

    def _more(self) -> None:
        part = self.connection.recv(1 << 16)
        if not part:
            raise EOFError
        self.data += part

    def message(self, *, head_only: bool = False) -> Message:
        """One request or response with its body."""
        head = self.until(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        message = Message(first, fields)
        bodiless = first.startswith(("HTTP/1.1 1", "HTTP/1.1 204", "HTTP/1.1 304"))
        if head_only or bodiless:
            return message
        if message.get("transfer-encoding") == "chunked":
            while size := int(self.until(b"\r\n").split(b";")[0], 16):
                message.body += self.exactly(size)
                self.exactly(2)
            self.until(b"\r\n")
        elif (length := message.get("content-length")) is not None:
            message.body = self.exactly(int(length))
        elif first.startswith("HTTP/"):
            message.body = self.rest()
        return message


@dataclass
class Message:
    """A parsed request or response."""

    first: str
    fields: list[tuple[str, str]]
    body: bytes = b""

    @property
    def status(self) -> int:
        """Of a response."""
        return int(self.first.split(" ")[1])

    def get(self, name: str) -> str | None:
        """The first field of that name."""
        return next((value for key, value in self.fields if key == name), None)

    def all(self, name: str) -> list[str]:
        """All fields of that name."""
        return [value for key, value in self.fields if key == name]


def reply(connection: socket.socket, body: bytes, status: str = "200 OK", extra: str = "") -> None:
    """Send an answer with a length."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    connection.sendall(head.encode() + body)


def named(name: str) -> Callable[[socket.socket], None]:
    """A handler that answers every request with its name, and keeps the connection."""

    def handler(connection: socket.socket) -> None:
        reader = Reader(connection)
        try:
            while True:
                reader.message()
                reply(connection, name.encode())
        except EOFError:
            return

    return handler


def dump(connection: socket.socket) -> None:
    """A handler that answers with the request's head and the size of its body."""
    reader = Reader(connection)
    try:
        while True:
            request = reader.message()
            lines = [request.first, *(f"{name}: {value}" for name, value in request.fields)]
            lines.append(f"body: {len(request.body)}")
            reply(connection, "\n".join(lines).encode())
    except EOFError:
        return


@dataclass
class World:
    """What a snapshot is made of; upstream N is reached by routes that name it."""

    listeners: list[Listener] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    upstreams: dict[UpstreamKey, tuple[Upstream, tuple[Endpoint, ...]]] = field(default_factory=dict)
    certificates: list[Certificate] = field(default_factory=list)

    def upstream(self, name: str, ports: list[int], **options: int) -> UpstreamKey:
        """Add an upstream on 127.0.0.1."""
        key = UpstreamKey("test", name, "80")
        endpoints = tuple(Endpoint(ip_address("127.0.0.1"), port) for port in ports)
        self.upstreams[key] = (Upstream(key, **options), endpoints)
        return key

    def route(
        self,
        host: str,
        path: str,
        key: UpstreamKey,
        *,
        delay_ms: int = 0,
        exact: bool = False,
        **options: int,
    ) -> None:
        """Add a route to an upstream."""
        kind = PathType.PREFIX
        self.routes.append(
            Route(
                key=RouteKey("Ingress", "test", f"r{len(self.routes)}", host, kind.name, path),
                host=host,
                path=path,
                path_type=kind,
                references=((key, 1),),
                filters=(Delay(delay_ms),) if delay_ms else (),
                **options,  # type: ignore[arg-type]
            )
        )

    def snapshot(self, version: int) -> Snapshot:
        """The same slots for the same order of things."""
        ordered = sorted(
            self.routes, key=lambda route: (route.path_type is not PathType.EXACT, -len(route.path))
        )
        return Snapshot(
            version=version,
            routes_digest=bytes(32),
            endpoints_digest=version.to_bytes(32, "little"),
            listeners=tuple(PlacedListener(Slot(i, 1), one) for i, one in enumerate(self.listeners)),
            routes=tuple(
                PlacedRoute(Slot(self.routes.index(route), 1), i, route) for i, route in enumerate(ordered)
            ),
            upstreams={
                key: PlacedUpstream(Slot(i, 1), upstream, endpoints)
                for i, (key, (upstream, endpoints)) in enumerate(self.upstreams.items())
            },
            certificates=tuple(self.certificates),
            policies=(),
            diagnostics=(),
        )


def listener(*, tls: bool = False, trusted: str = "", **options: int) -> Listener:
    """A listener record; its address does not matter to the data plane."""
    return Listener(
        ip_address("127.0.0.1"),
        1,
        Transport.TLS if tls else Transport.PLAIN,
        (ip_network(trusted),) if trusted else (),
        **options,
    )


@dataclass
class Predecessor:
    """A data plane that another one has taken over from."""

    process: subprocess.Popen[bytes]
    control: socket.socket

    def drain(self, *, grace_ms: int, idle_ms: int) -> None:
        """Tell it to finish; `end` waits."""
        messages.send(self.control, "drain", grace_ms=grace_ms, idle_ms=idle_ms)

    def end(self, timeout_s: float = DEADLINE_S) -> int:
        """Shape: its exit status."""
        try:
            return self.process.wait(timeout_s)
        finally:
            self.process.kill()
            self.process.wait()
            self.control.close()


class Plane:
    """A running data plane and what a holder would keep for it."""

    library: Path | None = None
    """The sanitized library that the process runs over, where a test says so."""

    def __init__(
        self,
        world: World,
        *,
        loop: str,
        workers: int = 2,
        log: Path | None = None,
        limits: Mapping[int, int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.world = world
        self.loop = loop
        self.workers = workers
        self.limits = limits or {}
        self.environment = environment or {}
        self.version = 0
        self.lanes = 2 * workers
        self.lane_first = 0
        size = lib.edge_stats_bytes(self.lanes)
        self.stats_fd = os.memfd_create("stats")
        os.ftruncate(self.stats_fd, size)
        self.stats = mmap.mmap(self.stats_fd, size)
        memory = ffi.from_buffer("uint8_t[]", self.stats, require_writable=True)
        assert lib.edge_stats_format(memory, size, self.lanes) == 0
        ffi.release(memory)
        self.commit_fd = os.memfd_create("commit")
        os.ftruncate(self.commit_fd, 4096)
        self.log = log.open("ab") if log else None
        self.complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.tables = tables.Tables()
        self.committed: Snapshot | None = None
        self.sockets = [self._members() for _ in world.listeners]
        self.ports = [members[0].getsockname()[1] for members in self.sockets]
        self.start()
        self.publish()

    def _members(self) -> list[socket.socket]:
        members: list[socket.socket] = []
        port = 0
        for _ in range(self.workers):
            member = socket.socket()
            member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            member.bind(("127.0.0.1", port))
            member.listen(1024)
            member.setblocking(False)
            port = member.getsockname()[1]
            members.append(member)
        return members

    def start(self) -> None:
        """Start the process, give it its sockets, wait until it is ready."""
        self.told: dict[str, messages.Message] = {}
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(DEADLINE_S)
        environment = {
            "PATH": os.environ["PATH"],
            "EDGE_CONTROL_FD": str(theirs.fileno()),
            **self.environment,
        }
        words = ["edge.dataplane"]
        if self.library:
            words = ["tests.e2e.sanitized", str(self.library)]
            environment |= sanitized.environment()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *words],
            pass_fds=[theirs.fileno()],
            env=environment,
            cwd=ROOT,
            stderr=self.complaints if self.library else None,
        )
        theirs.close()
        for kind, limit in self.limits.items():
            resource.prlimit(self.process.pid, kind, (limit, limit))
        descriptors = [self.stats_fd, self.commit_fd, *([self.log.fileno()] if self.log else [])]
        messages.send(
            self.control,
            "setup",
            descriptors,
            loop=self.loop,
            workers=self.workers,
            lane_first=self.lane_first,
            uid=0,
            gid=0,
            grace_ms=2000,
            log=int(self.log is not None),
            log_format=0,
        )
        self.ready = self.expect("ready")
        for slot, members in enumerate(self.sockets):
            messages.send(
                self.control, "listen", [one.fileno() for one in members], slot=slot, first_member=0
            )

    def succeed(self) -> Predecessor:
        """Start another process on the same sockets, with the other lanes; it serves when this returns."""
        old = Predecessor(self.process, self.control)
        self.lane_first = self.workers - self.lane_first
        self.start()
        self.publish()
        return old

    def expect(self, verb: str) -> messages.Message:
        """The next message, which must be that; what is told each second is kept in `told`."""
        while (message := messages.receive(self.control)) is not None and message.verb in PULSE:
            self.told[message.verb] = message
            if message.verb == verb:
                return message
        assert message is not None and message.verb == verb, message
        return message

    def publish(self, *, patch: bool = False) -> None:
        """Prepare and commit what the world is now, and wait until every worker serves it."""
        self.version += 1
        snapshot = self.world.snapshot(self.version)
        if patch:
            assert self.committed is not None
            image = self.tables.patch(self.committed, snapshot)
            assert image is not None
            descriptors = [tables.sealed_memfd("image", image)]
        else:
            image = self.tables.full(snapshot)
            secrets = tables.secrets(snapshot)
            descriptors = [tables.sealed_memfd("image", image), tables.sealed_memfd("secrets", secrets)]
        kind = 2 if patch else 1
        messages.send(self.control, "image", descriptors, version=self.version, kind=kind)
        for descriptor in descriptors:
            os.close(descriptor)
        self.expect("prepared")
        messages.send(self.control, "commit", version=self.version)
        assert self.expect("serving").number("version") == self.version
        self.committed = snapshot

    def connect(self, slot: int = 0) -> socket.socket:
        """A client's connection."""
        return socket.create_connection(("127.0.0.1", self.ports[slot]), timeout=DEADLINE_S)

    def get(
        self, host: str, path: str = "/", *, extra: str = "", method: str = "GET", body: bytes = b""
    ) -> Message:
        """One request on a connection of its own."""
        with self.connect() as connection:
            head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n"
            connection.sendall(head.encode() + body)
            return Reader(connection).message(head_only=method == "HEAD")

    def lane_views(self) -> list[Any]:
        """Each lane as cffi's struct edge_lane, live."""
        header = ffi.cast("struct edge_stats_header *", ffi.from_buffer(self.stats))
        lanes = ffi.cast("struct edge_lane *", ffi.cast("uint8_t *", header) + header.lanes_offset)
        return [lanes[i] for i in range(self.lanes)]

    def lane_sums(self) -> dict[str, int]:
        """Counters over all lanes: requests, in_flight, each outcome."""
        names = {name: number for number, name in ffi.typeof("enum edge_outcome").elements.items()}
        sums: dict[str, int] = {}
        for lane in self.lane_views():
            for key in COUNTERS:
                sums[key] = sums.get(key, 0) + int(getattr(lane, key))
            for name, number in names.items():
                if name != "EDGE_OUTCOME_COUNT":
                    short = name.removeprefix("EDGE_OUTCOME_").lower()
                    sums[short] = sums.get(short, 0) + int(lane.outcomes[number])
        return sums

    def close(self) -> int:
        """Drain, and return the exit status."""
        if self.process.poll() is None:
            messages.send(self.control, "drain", grace_ms=500)
            self.expect("drained")
        status = self.process.wait(DEADLINE_S)
        self.release()
        return status

    def release(self) -> None:
        """Close what the holder kept."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.control.close()
        for members in self.sockets:
            for member in members:
                member.close()
        os.close(self.stats_fd)
        os.close(self.commit_fd)
        if self.log:
            self.log.close()
        with self.complaints:
            self.complaints.seek(0)
            written = self.complaints.read()
        sys.stderr.write(written)
        report = sanitized.report(written)
        assert not report, report

    def __enter__(self) -> Plane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            assert self.close() == 0
        else:
            self.release()
