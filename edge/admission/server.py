"""The webhook's HTTPS server: connections, limits, who may ask, status codes. What is asked: review.py.

Started by the controller's process on the socket that the holder opened, so that its queue outlives a
controller. Whoever reaches the port can cost one of a fixed number of connections for seconds: the path holds
a token that only the API server is told, it is looked at before a body is read, and strangers make way.
Errors that a caller makes are answered in words; nothing that it sends ends us.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import h11

from edge.admission import review
from edge.controller.log import say
from edge.controller.view import Admission, View
from edge.model.reasons import sentence
from edge.resources.kinds import shown

PATH = "/validate"
CONNECTIONS_MAX = 128  # asyncio's TLS takes 300 kB for each
# What strangers may cost of the loop that publishes: a handshake takes 1.4 ms of it.
ACCEPTED_A_SECOND = 100
ACCEPTED_AT_ONCE = 100
HEAD_BYTES_MAX = 16384
BODY_BYTES_MAX = 8 << 20  # an object and what it was, of 3 MiB each at most, and some
HELD_BYTES_MAX = 64 << 20  # bodies of all connections together
LARGE_BYTES = 32768  # what is longer is read in a thread
LARGE_AT_ONCE = 2
READ_BYTES = 65536
HANDSHAKE_S = 5.0
FIRST_S = 5.0  # for the head of a stranger's first request
IDLE_S = 120.0  # between two requests; the API server lets go after 90
BODY_S = 10.0
WRITE_S = 10.0
LINGER_S = 0.5  # at the end of the process; the holder has a second's patience
SWEEP_S = 0.5  # between two looks at who has taken too long: a timer for each step would cost more than h11
MODEL_S = 4.0  # for a model that is being made of many changes

T = TypeVar("T")
Answer = tuple[int, bytes]
_TEXT, _JSON = b"text/plain; charset=utf-8", b"application/json"


@dataclass(frozen=True, slots=True)
class Serving:
    """What to serve with: chain and key as PEM; ``tokens`` of the path, none: whoever comes is answered."""

    chain: bytes
    key: bytes
    tokens: tuple[str, ...] = ()


class Refused(Exception):
    """A call that is answered by its head, or by what is the matter with us."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(eq=False, slots=True)
class _Caller:
    """One connection. ``known``: it has made a call that was answered; ``busy``: it is making one.

    ``until``: when it is dropped; seconds of the loop's clock.
    """

    end: socket.socket
    until: float
    known: bool = False
    busy: bool = False
    held: int = 0
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Pace:
    """How fast connections are accepted: so many at once, then so many a second; the others queue."""

    def __init__(self, rate: float, at_once: int, now: float) -> None:
        self._rate, self._at_once = rate, at_once
        self._left, self._at = float(at_once), now

    def take(self, now: float) -> float:
        """Count one. Shape: for how long it has to wait first; it is counted all the same. Units: seconds."""
        self._left = min(self._at_once, self._left + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._left / self._rate)


def server_context(client_ca: str = "") -> ssl.SSLContext:
    """Make a context without a certificate. ``client_ca``: a file; who shows no certificate of it gets 401.

    Errors: OSError where the file cannot be read; ssl.SSLError where it holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # API servers keep their connections
    if client_ca:
        context.load_verify_locations(cafile=client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def load(context: ssl.SSLContext, serving: Serving) -> None:
    """Have new connections meet this certificate. Errors: ssl.SSLError, and the context is as before.

    The key is read from memory: it is never in a file.
    """
    for target in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
        memory = os.memfd_create("edge-webhook-certificate", os.MFD_CLOEXEC)
        try:
            os.write(memory, serving.chain + b"\n" + serving.key)
            target.load_cert_chain(f"/proc/self/fd/{memory}")
        finally:
            os.close(memory)


class Webhook:
    """The listening webhook of one controller."""

    def __init__(self, view: View, scope: review.Scope, client_ca: str = "") -> None:
        self._view = view
        self._scope = scope
        self._counts: Admission = view.admission
        self._context = server_context(client_ca)
        self._asks_client = bool(client_ca)
        self._tokens: tuple[str, ...] = ()
        self._callers: dict[_Caller, None] = {}  # the one that came first stands first
        self._held = 0
        self._left = asyncio.Event()  # somebody went, or finished a call
        self._accepting: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._closing = False
        self._threads = ThreadPoolExecutor(LARGE_AT_ONCE, "edge-review")

    # ---- listening -----------------------------------------------------------------------

    def use(self, serving: Serving) -> None:
        """Serve with another certificate from now on; calls under way go on. Errors: ssl.SSLError."""
        load(self._context, serving)
        self._tokens = serving.tokens

    def start(self, listening: socket.socket) -> None:
        """Accept on the holder's socket from now on; `use` comes before."""
        listening.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(listening))
        self._accepting.add_done_callback(lambda _: listening.close())
        self._sweeping = asyncio.create_task(self._sweep())

    def stop(self) -> None:
        """Accept no more. Each connection is answered once more, and told that it ends.

        None is closed that an API server may be writing to: it would not try that call again.
        """
        self._closing = True
        if self._accepting is not None:
            self._accepting.cancel()

    async def close(self) -> None:
        """Stop, answer for a moment what still comes, and end."""
        self.stop()
        tasks = [task for task in (self._accepting, *(one.task for one in self._callers)) if task]
        if tasks:
            await asyncio.wait(tasks, timeout=LINGER_S)
        last = [one.task for one in list(self._callers) if one.task]
        for caller in list(self._callers):
            self._drop(caller)
        if last:
            await asyncio.wait(last, timeout=LINGER_S)
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = asyncio.get_running_loop().time()
            for caller in [one for one in self._callers if one.until < now]:
                self._drop(caller)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        pace = Pace(ACCEPTED_A_SECOND, ACCEPTED_AT_ONCE, loop.time())
        while True:
            await asyncio.sleep(pace.take(loop.time()))
            while not self._room():
                self._left.clear()
                await self._left.wait()
            try:
                end, _ = await loop.sock_accept(listening)
            except OSError as error:  # no descriptor left, or a client that is gone already
                say(f"admission: {error}")
                await asyncio.sleep(0.1)
                continue
            caller = _Caller(end, loop.time() + HANDSHAKE_S)
            self._callers[caller] = None
            caller.task = asyncio.create_task(self._serve(caller))

    def _room(self) -> bool:
        """Say whether one more may come; who has never made a call makes way, and then who makes none now."""
        if len(self._callers) < CONNECTIONS_MAX:
            return True
        idle = [caller for caller in self._callers if not caller.busy]
        for caller in sorted(idle, key=lambda one: one.known)[:1]:
            self._drop(caller)
            return True
        return False

    def _drop(self, caller: _Caller) -> None:
        self._callers.pop(caller, None)
        if caller.task is not None:
            caller.task.cancel()

    # ---- one connection ------------------------------------------------------------------

    async def _serve(self, caller: _Caller) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport: asyncio.BaseTransport | None = None
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, caller.end, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S
            )
            assert isinstance(transport, asyncio.Transport)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            await self._converse(caller, reader, writer)
            caller.until = loop.time() + WRITE_S
            writer.close()
            await writer.wait_closed()
        except (OSError, h11.ProtocolError, ssl.SSLError):
            pass  # a client's business
        finally:
            if isinstance(transport, asyncio.Transport):
                transport.abort()
            else:
                caller.end.close()
            self._hold(caller, 0)
            self._callers.pop(caller, None)
            self._left.set()

    async def _converse(
        self, caller: _Caller, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        time_of_loop = asyncio.get_running_loop().time
        while True:
            answer: Answer
            try:
                caller.until = time_of_loop() + (IDLE_S if caller.known else FIRST_S)
                request = await _event(connection, reader)
                if not isinstance(request, h11.Request):
                    return
                caller.busy = True
                caller.until = time_of_loop() + BODY_S
                length = self._admit(request, writer)
                self._hold(caller, length)
                body = await self._body(caller, connection, reader, writer)
                caller.until = float("inf")  # ours to end
                answer = (200, await self._answer(body))
                caller.known = True
            except h11.RemoteProtocolError as error:
                if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                    return
                answer = (error.error_status_hint, _text(str(error)))
            except Refused as refused:
                answer = (refused.status, _text(str(refused)))
            except review.Malformed as error:
                answer = (400, _text(str(error)))
            if answer[0] != 200:
                self._counts.errors[answer[0]] += 1
            caller.until = time_of_loop() + WRITE_S
            await self._write(connection, writer, answer)
            self._hold(caller, 0)
            caller.busy = False
            self._left.set()
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    def _admit(self, request: h11.Request, writer: asyncio.StreamWriter) -> int:
        """Judge a call by its head. Shape: its body's length, 0 where unknown. Errors: Refused."""
        path, _, token = request.target.decode("ascii", "replace").partition("?")[0].rpartition("/")
        if not self._tokens:
            path, token = f"{path}/{token}", ""
        if path != PATH:
            raise Refused(404, f"nothing here; the API server calls {PATH} with its token")
        if self._tokens and not _known(token, self._tokens):
            raise Refused(401, "the path ends in no token of this webhook")
        if self._asks_client and not writer.get_extra_info("peercert"):
            raise Refused(401, "a client certificate is asked for, and none was shown")
        if request.method != b"POST":
            raise Refused(405, "POST an AdmissionReview")
        headers = dict(request.headers)
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != _JSON:
            raise Refused(415, "an AdmissionReview comes as application/json")
        length = int(headers.get(b"content-length", b"0"))
        if length > BODY_BYTES_MAX:
            raise Refused(413, f"the body is longer than {BODY_BYTES_MAX} bytes")
        return length

    def _hold(self, caller: _Caller, length: int) -> None:
        """Count what a connection keeps in memory. Errors: Refused when it would be too much."""
        if length and self._held - caller.held + length > HELD_BYTES_MAX:
            raise Refused(503, "too many calls with large objects; try again")
        self._held += length - caller.held
        caller.held = length

    async def _body(
        self,
        caller: _Caller,
        connection: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bytes:
        """Errors: Refused, ConnectionError."""
        parts: list[bytes] = []
        size = 0
        if connection.they_are_waiting_for_100_continue:
            writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        while True:
            event = await _event(connection, reader)
            if isinstance(event, h11.EndOfMessage):
                return parts[0] if len(parts) == 1 else b"".join(parts)
            if not isinstance(event, h11.Data):
                raise ConnectionError("the caller went away")
            size += len(event.data)
            if size > BODY_BYTES_MAX:
                raise Refused(413, f"the body is longer than {BODY_BYTES_MAX} bytes")
            if size > caller.held:
                self._hold(caller, size)
            parts.append(bytes(event.data))

    async def _write(self, connection: h11.Connection, writer: asyncio.StreamWriter, answer: Answer) -> None:
        status, content = answer
        headers = [
            (b"Content-Type", _JSON if status == 200 else _TEXT),
            (b"Content-Length", b"%d" % len(content)),
        ]
        if status == 405:
            headers.append((b"Allow", b"POST"))
        if status == 503:
            headers.append((b"Retry-After", b"1"))
        if self._closing or connection.their_state is not h11.DONE:
            headers.append((b"Connection", b"close"))
        data = connection.send(h11.Response(status_code=status, headers=headers)) or b""
        data += connection.send(h11.Data(data=content)) or b""
        writer.write(data + (connection.send(h11.EndOfMessage()) or b""))
        await writer.drain()

    # ---- one call ------------------------------------------------------------------------

    async def _answer(self, body: bytes) -> bytes:
        """Judge a review. Errors: Malformed, Refused."""
        began = time.perf_counter()
        large = len(body) > LARGE_BYTES
        question = await self._apart(review.read, body, self._scope) if large else self._read(body)
        answer = review.Answer("passed")
        if question.key is not None or question.problem is not None:
            try:
                answer = await self._judge(question, large)
            except Refused:
                raise
            except Exception as error:
                # A judge that fails must not end the controller; the operator sees why here.
                say(f"admission: {question.kind} {question.uid[:40]!a} could not be judged: {error!r}")
                raise Refused(500, "the object could not be judged, see the log") from error
        kind = question.kind if question.kind in review.KINDS_JUDGED else "other"
        self._counts.reviews[kind, answer.verdict] += 1
        self._counts.took(time.perf_counter() - began)
        if answer.refused:
            _log(question, answer)
        return review.render(question, answer)

    async def _apart(self, work: Callable[..., T], *arguments: object) -> T:
        """Run what takes long in a thread; not in asyncio's own, which compile what is published."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _read(self, body: bytes) -> review.Question:
        return review.read(body, self._scope)

    async def _judge(self, question: review.Question, large: bool) -> review.Answer:
        view = self._view
        judge = view.judge
        if judge is None:
            raise Refused(503, "the objects that are there are not read yet")
        if view.lost_since is not None:
            raise Refused(503, "the source of objects is away, and what is known of them may be old")
        read = None
        if large and question.key is not None:
            read = await self._apart(review.drafts, judge, question)
        if not view.model_rests.is_set():
            try:
                await asyncio.wait_for(view.model_rests.wait(), MODEL_S)
            except TimeoutError as error:
                raise Refused(503, "many objects have changed and are being read; try again") from error
        return review.decide(judge, question, read)


async def _event(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    """Wait for the next event of a connection. Errors: h11.RemoteProtocolError."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(READ_BYTES))
    return event


def _known(token: str, tokens: Iterable[str]) -> bool:
    given = token.encode()
    return any([hmac.compare_digest(given, one.encode()) for one in tokens])


def _text(text: str) -> bytes:
    return text.encode("ascii", "backslashreplace") + b"\n"


def _log(question: review.Question, answer: review.Answer) -> None:
    dry = " (dry run)" if question.dry_run else ""
    user = shown(question.user)
    for one in answer.refused[: review.REFUSALS_SHOWN]:
        say(review.plain(f"admission: {question.operation} by {user}{dry} refused: {sentence(one)}"))
