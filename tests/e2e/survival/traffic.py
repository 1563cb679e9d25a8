"""What the survival program sends and what came of it: the client, the denied source, the tap behind XDP.

Used by chaos.py and faults.py on a Stage. client.c and denied.c do the work; here they are started in
their namespaces, ended, and read. A failure is never dropped and never judged here, only dated.
"""

from __future__ import annotations

import contextlib
import json
import select
import selectors
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from bench.proxy import processes
from tests.e2e.lab import ADDRESS, Lab
from tests.fakes.client import Client as RawClient
from tests.fakes.client import Closed

HERE = Path(__file__).parent
HOST: Final = "a.example.com"
PORT: Final = 80
TLS_PORT: Final = 443
TLS_EVERY_S = 0.1
DENIED: Final = "198.18.2.66"
CLIENT_ROLE, DENIED_ROLE = "client1", "client2"
KEPT = 32  # connections
RATES = (1500, 450, 50)  # requests a second: kept, fresh, echo
DENIED_RATE = 100
TIMEOUT_S = 10
SECONDS_MAX = 1800

SO_TIMESTAMPNS = 35
SO_RCVBUFFORCE = 33
SO_ATTACH_FILTER = 26
ETH_P_ALL = 0x0003
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_DUMP_REQUEST = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
HELD_STATES = 0b1011_0011_0110  # ESTABLISHED, SYN_SENT, FIN_WAIT1 and 2, CLOSE_WAIT, LAST_ACK, CLOSING
LISTENING = 1 << 10


@dataclass(slots=True, frozen=True)
class Event:
    """A failed request, or a reset of an idle connection (`idle-reset`). Units: seconds, monotonic."""

    kind: str
    what: str
    status: int
    port: int
    in_flight: int
    at: float
    opened: float
    sent: float
    answers: int
    bytes: int

    @property
    def failed(self) -> bool:
        """Tell whether a request was lost by it."""
        return self.what != "idle-reset"

    @property
    def reset(self) -> bool:
        """Tell whether the connection ended by RST."""
        return "reset" in self.what

    def describe(self) -> str:
        """Shape: one line for the reader of a bad table."""
        status = f" {self.status}" if self.status else ""
        return (
            f"{self.kind} {self.what}{status} at {self.at:.3f}, port {self.port}, opened "
            f"{self.at - self.opened:.3f} s and asked {self.at - self.sent:.3f} s before, "
            f"{self.answers} answers, {self.bytes} bytes"
        )


@dataclass(slots=True)
class Seen:
    """What the client saw from its start to its end. Units: seconds, monotonic."""

    began: float
    ended: float
    asked: dict[str, int]
    answered: dict[str, int]
    refused: int
    refused_first: float
    refused_last: float
    late: int
    idle_closed: int
    slowest_ms: float
    lag_ms: float
    gaps: list[tuple[float, float, float]]
    events: list[Event]
    denied: dict[str, Any] = field(default_factory=dict)
    passed: list[float] = field(default_factory=list)  # denied packets behind XDP

    @property
    def requests(self) -> int:
        """Return how many requests were sent."""
        return sum(self.asked.values())

    def gap(self) -> tuple[float, float]:
        """Return the longest time without any answer, and how much of it the client itself did not run."""
        longest = max(self.gaps, key=lambda gap: gap[1] - gap[0], default=(0.0, 0.0, 0.0))
        return longest[1] - longest[0], longest[2]


class Network(Protocol):
    """A Lab, or what has client1, client2 and node as one has."""

    def inside(self, role: str) -> contextlib.AbstractContextManager[None]:
        """Run a block in a role's namespace."""


class Client:
    """The client at work; a context manager that ends it, whatever happened."""

    def __init__(
        self,
        lab: Network | None,
        address: str = ADDRESS,
        port: int = PORT,
        *,
        rates: tuple[int, int, int] = RATES,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        tool = processes.compile_tool("client", HERE)
        words = [tool, address, port, HOST, KEPT, *rates, timeout_s, SECONDS_MAX]
        with lab.inside(CLIENT_ROLE) if lab else contextlib.nullcontext():
            self.process = subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_reason: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_ready(self, seconds: float = 20) -> None:
        """Wait until every kind of traffic has had an answer. Errors: AssertionError."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(seconds), f"no traffic within {seconds} s"
        line = self.process.stdout.readline()
        assert line == "ready\n", f"the client said {line!r}"

    def finish(self) -> Seen:
        """Have it end its exchanges, and read what it saw."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, f"the client ended with {self.process.returncode}"
        data = json.loads(output)
        assert data["event_count"] == len(data["events"]), f"{data['event_count']} failures: too many to keep"
        names = set(Seen.__dataclass_fields__) & set(data)
        seen = Seen(
            **{name: data[name] for name in names if name not in ("events", "gaps")}, gaps=[], events=[]
        )
        seen.gaps = [(gap[0], gap[1], gap[2]) for gap in data["gaps"]]
        seen.events = [Event(**event) for event in data["events"]]
        return seen


class TlsClient(threading.Thread):
    """A request a time over TLS, one kept connection and fresh ones in turn; secrets travel too."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        self._lab = lab
        self._over = threading.Event()
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self.asked = self.answered = self.refused = 0
        self.events: list[Event] = []

    def run(self) -> None:
        """Be the thread."""
        kept: RawClient | None = None
        since = 0.0
        while not self._over.wait(TLS_EVERY_S):
            kept, since = self._ask(kept, since)
            fresh, _since = self._ask(None, 0.0)
            if fresh:
                fresh.close()
        if kept:
            kept.close()

    def _ask(self, client: RawClient | None, opened: float) -> tuple[RawClient | None, float]:
        """Ask once; return the connection while it may be kept, and when it was opened."""
        if client is not None and select.select([client.socket], [], [], 0)[0]:
            client.close()  # its end has come, and nothing else can have: it was idle
            client = None
        sent = time.monotonic()
        port, answers = 0, int(client is not None)
        if client is None:
            opened = sent
        try:
            if client is None:
                with self._lab.inside(CLIENT_ROLE):
                    client = RawClient(ADDRESS, TLS_PORT, timeout=TIMEOUT_S)
                port = client.socket.getsockname()[1]
                client.socket = self._context.wrap_socket(client.socket, server_hostname=HOST)
            port = client.socket.getsockname()[1]
            sent = time.monotonic()
            self.asked += 1
            answer = client.ask(HOST)
            what = "" if answer.status == 200 and answer.body == b"x" * 128 else "wrong"
        except ConnectionRefusedError:
            self.refused += 1
            return None, 0.0
        except (OSError, Closed) as error:
            what = "reset-before" if isinstance(error, ConnectionResetError) else f"{error!r}"
            answer = None
        if not what and answer is not None:
            self.answered += 1
            if answer.headers.get("connection") != "close":
                return client, opened
        else:
            status = answer.status if answer else 0
            now = time.monotonic()
            self.events.append(Event("tls", what, status, port, 1, now, opened, sent, answers, 0))
        if client is not None:
            client.close()
        return None, 0.0

    def __enter__(self) -> TlsClient:
        self.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self.end()

    def end(self) -> None:
        """Finish the request under way."""
        self._over.set()
        self.join(TIMEOUT_S * 3)


class DeniedSource:
    """A source that an EdgePolicy denies, connecting all the time; a context manager."""

    def __init__(self, lab: Network, source: str = DENIED, address: str = ADDRESS) -> None:
        tool = processes.compile_tool("denied", HERE)
        words = [str(tool), address, str(PORT), source, str(DENIED_RATE)]
        with lab.inside(DENIED_ROLE):
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> DeniedSource:
        return self

    def __exit__(self, *_reason: object) -> None:
        self.process.kill()
        self.process.communicate()

    def finish(self) -> dict[str, Any]:
        """Shape: attempts, accepted, refused (by whom ever: it has passed XDP), failed, first, last."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=10)
        return dict(json.loads(output))


class Tap:
    """Every packet of one source that the node's stack gets: those that native XDP let through."""

    def __init__(self, lab: Network, source: str = DENIED) -> None:
        wanted = struct.unpack("!I", socket.inet_aton(source))[0]
        code = (
            (0x28, 0, 0, 12),  # the type of the frame
            (0x15, 0, 3, 0x0800),
            (0x20, 0, 0, 26),  # the source of an IPv4 packet
            (0x15, 0, 1, wanted),
            (0x06, 0, 0, 64),
            (0x06, 0, 0, 0),
        )
        words = b"".join(struct.pack("HBBI", *one) for one in code)
        with lab.inside("node"):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        with copied(words) as place:
            program = struct.pack("HL", len(code), place)
            self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.setblocking(False)
        self.read()  # what came before the filter

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_reason: object) -> None:
        self.socket.close()

    def read(self) -> list[float]:
        """Return when packets came since the last call. Units: seconds, monotonic."""
        offset = time.monotonic() - time.time()
        moments = []
        with contextlib.suppress(BlockingIOError):
            while True:
                _data, extra, _flags, _address = self.socket.recvmsg(64, socket.CMSG_SPACE(16))
                stamp = next(data for level, kind, data in extra if kind == SO_TIMESTAMPNS)
                seconds, nanoseconds = struct.unpack("ll", stamp)
                moments.append(seconds + nanoseconds / 1e9 + offset)
        return moments


@contextlib.contextmanager
def copied(data: bytes) -> Iterator[int]:
    """Yield the address of a copy of `data`."""
    import ctypes

    buffer = ctypes.create_string_buffer(data, len(data))
    yield ctypes.addressof(buffer)


class Traffic:
    """All of it at once: from ready() to finish(); a context manager."""

    def __init__(self, lab: Lab) -> None:
        self._stack = contextlib.ExitStack()
        self._lab = lab

    def __enter__(self) -> Traffic:
        with contextlib.ExitStack() as stack:
            self.tap = stack.enter_context(Tap(self._lab))
            self.denied = stack.enter_context(DeniedSource(self._lab))
            self.client = stack.enter_context(Client(self._lab))
            self.client.wait_ready()
            self.tls = stack.enter_context(TlsClient(self._lab))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._stack.close()

    def finish(self) -> Seen:
        """End it and return everything that was seen."""
        self.tls.end()
        seen = self.client.finish()
        seen.events += self.tls.events
        seen.asked["tls"], seen.answered["tls"] = self.tls.asked, self.tls.answered
        seen.refused += self.tls.refused
        seen.denied = self.denied.finish()
        seen.passed = self.tap.read()
        return seen


@dataclass(slots=True, frozen=True)
class Connection:
    """One TCP connection of the node, as its kernel shows it; inode 0: no process has accepted it yet."""

    own: int
    peer: int
    inode: int


def connections_of_node(lab: Lab, states: int = HELD_STATES) -> list[Connection]:
    """Return the node's connections that a process may hold: neither listening nor in TIME_WAIT."""
    found: list[Connection] = []
    with lab.inside("node"), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as channel:
        request = struct.pack("=BBBxI48x", socket.AF_INET, socket.IPPROTO_TCP, 0, states)
        header = struct.pack("=IHHII", 16 + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_DUMP_REQUEST, 1, 0)
        channel.sendall(header + request)
        while True:
            data = channel.recv(1 << 18)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    return found
                own, peer = struct.unpack_from("!HH", data, 20)
                (inode,) = struct.unpack_from("=I", data, 16 + 68)
                found.append(Connection(own, peer, inode))
                data = data[(length + 3) & ~3 :]
