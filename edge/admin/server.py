"""The admin API over HTTP/1.1 (h11): /healthz /readyz /metrics /snapshot /diagnostics /xdp /image /explain.

Runs in the controller, on the socket that the holder opened, so that its queue outlives a controller.
Reads only. A client can cost a connection and a few kilobytes, for seconds; nothing it sends ends us.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

import h11

from edge.admin import dump, health, metrics
from edge.admin.explain import Objects, Question, QuestionError, explain
from edge.controller.listening import until_open
from edge.controller.log import say
from edge.controller.view import View
from edge.errors import NativeError

CONNECTIONS_MAX = 64
HEAD_BYTES_MAX = 16384
READ_S = 10.0  # for a request's head, or between two requests
WRITE_S = 10.0
TEXT = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
JSON = "application/json"

BYTES = "application/octet-stream"

Answer = tuple[int, str, str | bytes]  # status, content type, body


class AdminApi:
    """The listening admin API of one controller."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._open = 0
        self._listening: asyncio.Server | None = None
        self._late: asyncio.Task[None] | None = None  # waits for the address
        self._routes: Mapping[str, Callable[[], Answer]] = {
            "/healthz": lambda: _text(*health.alive()),
            "/readyz": lambda: _text(*health.ready(view.state, view.listeners_wanted)),
            "/metrics": lambda: (200, METRICS, metrics.render(view)),
            "/snapshot": lambda: _json(dump.snapshot(view)),
            "/diagnostics": lambda: _json(dump.diagnostics(view)),
            "/xdp": lambda: _json(dump.xdp(view)),
            "/image": lambda: _image(view),
            "/explain": lambda: _explain(view, self._query),
        }
        self._query = ""  # of the request that is answered now

    async def start(self, listening: socket.socket, place: str) -> None:
        """Accept on the holder's socket from now on, or as soon as its place (ADDR:PORT) is free."""
        if listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self._listening = await asyncio.start_server(self._serve, sock=listening, limit=HEAD_BYTES_MAX)
        else:
            self._late = asyncio.create_task(self._start_late(listening, place))

    async def _start_late(self, listening: socket.socket, place: str) -> None:
        if not await until_open(listening, place, "--admin", "the admin API"):
            return
        self._listening = await asyncio.start_server(self._serve, sock=listening, limit=HEAD_BYTES_MAX)
        say(f"the admin API is open on {place}")
        self._view.state.note("admin", f"the admin API is open on {place}, which was taken")

    async def close(self) -> None:
        """Stop accepting; the socket itself stays open in the holder."""
        if self._late:
            self._late.cancel()
        if self._listening:
            self._listening.close()

    def answer(self, method: str, target: str) -> Answer:
        """Answer one request; 404 and 405 in words."""
        path, _, self._query = target.partition("?")
        route = self._routes.get(path)
        if route is None:
            return 404, TEXT, f"nothing here; there are: {' '.join(self._routes)}\n"
        if method not in ("GET", "HEAD"):
            return 405, TEXT, "read only: GET or HEAD\n"
        try:
            return route()
        except Exception as error:
            # A page that cannot be made must not end the controller; the operator sees why here and there.
            say(f"{path} failed: {error!r}")
            return 500, TEXT, "this page failed, see the log\n"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_MAX:
                await self._converse(reader, writer)
        except (TimeoutError, ConnectionError, h11.ProtocolError):
            pass
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(ConnectionError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), WRITE_S)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        while True:
            try:
                request = await self._next_request(connection, reader)
            except h11.RemoteProtocolError as error:
                if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    await self._write(
                        connection, writer, (error.error_status_hint, TEXT, f"{error}\n"), "GET"
                    )
                return
            if request is None:
                return
            method = request.method.decode("ascii", "replace")
            answer = self.answer(method, request.target.decode("ascii", "replace"))
            await self._write(connection, writer, answer, method)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _next_request(
        self, connection: h11.Connection, reader: asyncio.StreamReader
    ) -> h11.Request | None:
        """Read one request and its body's end; None when the client has gone. Errors: TimeoutError."""
        request: h11.Request | None = None
        body = 0
        async with asyncio.timeout(READ_S):
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    if connection.they_are_waiting_for_100_continue:
                        return request  # nobody here wants a body: answered without reading it
                    connection.receive_data(await reader.read(HEAD_BYTES_MAX))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += len(event.data)
                    if body > HEAD_BYTES_MAX:
                        return request
                elif isinstance(event, h11.EndOfMessage):
                    return request
                else:
                    return None

    async def _write(
        self, connection: h11.Connection, writer: asyncio.StreamWriter, answer: Answer, method: str
    ) -> None:
        status, kind, body = answer
        content = body if isinstance(body, bytes) else body.encode()
        headers = [
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
        ]
        if status == 405:
            headers.append(("Allow", "GET, HEAD"))
        if connection.their_state is not h11.DONE:
            headers.append(("Connection", "close"))
        parts: list[Any] = [h11.Response(status_code=status, headers=headers)]
        if method != "HEAD":
            parts.append(h11.Data(data=content))
        parts.append(h11.EndOfMessage())
        for part in parts:
            writer.write(connection.send(part) or b"")
        async with asyncio.timeout(WRITE_S):
            await writer.drain()


def _text(status: int, body: str) -> Answer:
    return status, TEXT, body


def _json(body: object) -> Answer:
    return 200, JSON, json.dumps(body, indent=2, default=str) + "\n"


def _image(view: View) -> Answer:
    image = view.image() if view.image else None
    return (200, BYTES, image) if image else (503, TEXT, "nothing was published yet\n")


def _explain(view: View, query: str) -> Answer:
    """Answer `edge explain`; 400 with a sentence for what cannot be asked."""
    given = parse_qs(query)
    image = view.image() if view.image else None
    if image is None or view.snapshot is None or view.upstreams is None:
        return 503, TEXT, "nothing was published yet\n"
    headers = [text.partition(":") for text in given.get("header", ())]
    question = Question(
        given.get("method", ["GET"])[0],
        given.get("url", [""])[0],
        tuple((name.strip(), value.strip()) for name, _, value in headers),
        int(at) if (at := given.get("at", ["0"])[0]).isdigit() else 0,
    )
    try:
        return _json(explain(image, question, Objects(view.snapshot, view.upstreams)))
    except (QuestionError, NativeError) as error:
        return 400, TEXT, f"{error}\n"
