"""Calls of the API server for tasks: a few threads of their own, so that one that hangs delays nothing else.

Used by leader.py, node_report.py, reporter.py. asyncio's own threads are for compiling: a dead API server
must not hold them. The threads are daemons, so that a stop waits for none of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from edge.errors import ApiError

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
CALL_S = 2.5  # to connect, and again to answer: what a leader begins is over before another can begin
NOT_LEADING = "NotLeading"


class RequestApi(Protocol):
    """What is used of edge/sources/api.py."""

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
        timeout: float = CALL_S,
    ) -> bytes:
        """Errors: ApiError."""


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[], bytes]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[bytes]
    ended: asyncio.Future[None]


class Calls:
    """``allowed``: asked in the thread, just before a request is sent; False makes it an ApiError."""

    def __init__(self, api: RequestApi, threads: int = 4, name: str = "edge-api") -> None:
        self._api = api
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._open: set[asyncio.Future[None]] = set()
        self._threads = threads
        for number in range(threads):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
        timeout: float = CALL_S,
        allowed: Callable[[], bool] | None = None,
    ) -> bytes:
        """Errors: ApiError."""

        def work() -> bytes:
            if allowed is not None and not allowed():
                raise ApiError(0, NOT_LEADING, "another instance may lead by now")
            return self._api.request(
                method, path, query=query, body=body, content_type=content_type, timeout=timeout
            )

        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        ended: asyncio.Future[None] = loop.create_future()
        self._open.add(ended)
        ended.add_done_callback(self._open.discard)
        self._jobs.put(_Job(work, loop, answer, ended))
        return await answer

    async def quiet(self, patience_s: float = 2 * CALL_S) -> bool:
        """Wait until no request is under way, those of cancelled tasks too. Shape: whether none is."""
        if not self._open:
            return True
        _, pending = await asyncio.wait(set(self._open), timeout=patience_s)
        return not pending

    def close(self) -> None:
        """Let the threads end; what they are at comes to its end, and nobody waits for it."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            answer: bytes | Exception = b""
            try:
                if not job.answer.cancelled():
                    answer = job.work()
            except Exception as error:
                answer = error
            with suppress(RuntimeError):  # the loop is gone
                job.loop.call_soon_threadsafe(_settle, job, answer)


def _settle(job: _Job, answer: bytes | Exception) -> None:
    job.ended.set_result(None)
    if job.answer.done():
        return
    if isinstance(answer, Exception):
        job.answer.set_exception(answer)
    else:
        job.answer.set_result(answer)
