"""One list and one watch of the API server, kept up in a thread of its own.

Used by kubernetes.py, and by the controller's tasks for what the leader alone reads. A list is read in pages
and compared with what was told before, so that a relist (410, a lost history) tells only what differs; a list
that fails deletes nothing. After that a watch goes on from the version that was seen last, over every
reconnect. Attempts stand apart by a back-off with jitter, or by what the server asks for.

    follower = Follower(api, INGRESSES, tell, namespace="shop", labels="tier=web")
    follower.start()             # tell(follower, events) comes from its thread; no events: news of itself
    follower.close()

    async for batch in follow(api, PODS, namespace="xdp-edge"): ...      # the same for a task
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from enum import StrEnum

import msgspec

from edge.errors import ApiError
from edge.resources.kinds import Raw
from edge.resources.store import Key, ResourceEvent
from edge.sources.api import Api, Stream, status_error
from edge.sources.objects import Resource, Trimmed, read_line, read_listing, read_marked, trim

PAGE = 500
LIST_S = 60.0  # for one page
WATCH_S = (290, 590)  # after which the server ends a watch; as client-go has it, so that not all end at once
FIRST_S = 0.4
RETRY_MAX_S = 8.0
SELDOM_S = 30.0  # where a permission or a resource is missing
ASKED_MAX_S = 120.0
SHORT_S = 1.0
EXPIRED = "expired"  # how it failed: the history is gone
WATCHLESS_TRIES = 3
HEALTHY_S = 5.0  # a watch that lasted so long begins the back-off anew

Tell = Callable[["Follower", list[ResourceEvent]], None]


class State(StrEnum):
    """What a follower is doing."""

    STARTING = "starting"
    FOLLOWING = "following"
    FORBIDDEN = "forbidden"  # 403
    MISSING = "missing"  # 404: nobody serves such a resource
    LOST = "lost"


class Follower:
    """``listed``: what it has told is whole; ``problem``, ``since``: why and since when it does not follow.

    Units: ``since`` in seconds of the monotonic clock. Read by others, written by its thread alone.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        tell: Tell,
        *,
        namespace: str = "",
        fields: str = "",
        labels: str = "",
        kept: Iterable[tuple[Key, Raw]] = (),
    ) -> None:
        self.resource = resource
        self.namespace = namespace
        self.state = State.STARTING
        self.listed = False
        self.problem: ApiError | None = None
        self.since = 0.0
        self.relists = 0
        self._api = api
        self._tell = tell
        self._path = resource.path(namespace)
        chosen = {"fieldSelector": fields, "labelSelector": labels}
        self._query = {name: text for name, text in chosen.items() if text}
        # What was told of each object: its version and its meaning. ``kept`` stands in until the first list.
        self._told: dict[Key, tuple[str, int]] = {key: ("", 0) for key, _ in kept}
        self._version = ""  # to go on from; "": list
        self._again = False  # a whole list is asked for
        self._failed = ""  # how it failed last; "": a watch lasted since
        self._tries = 0  # of that kind
        self._stream: Stream | None = None
        self._closed = threading.Event()
        self._hurry = threading.Event()
        name = f"follow-{resource.plural}"[:15]
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """End soon; nothing is told any more."""
        self._closed.set()
        self._hurry.set()
        self._cut()

    def join(self, seconds: float) -> None:
        """Wait until it has ended after `close`."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def relist(self) -> None:
        """Compare with a whole list again."""
        self._again = True
        self._hurry.set()
        self._cut()

    @property
    def closed(self) -> bool:
        """Say whether what it tells counts no more."""
        return self._closed.is_set()

    def hurry(self) -> None:
        """Do not wait for the next attempt: the server was heard of."""
        self._hurry.set()

    def _cut(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.close()

    # ---- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed.is_set():
            began = None
            error = None
            if self._again:
                self._again, self._version = False, ""
            try:
                if not self._version:
                    self._list()
                began = time.monotonic()
                self._watch()
            except ApiError as found:
                error = found
            except (msgspec.DecodeError, UnicodeDecodeError) as found:
                self._version = ""
                error = ApiError(0, "Malformed", f"an answer cannot be read: {found}")
            except Exception as found:  # whatever it is, it must not end this thread
                self._version = ""
                error = ApiError(0, "Failed", f"an answer cannot be taken: {type(found).__name__}: {found}")
            if self._closed.is_set():
                return
            # Of the watch alone: a list may take longer than that, and works where watches fail.
            lasted = 0.0 if began is None else time.monotonic() - began
            if lasted > HEALTHY_S:
                self._tries, self._failed = 0, ""
            if error is not None:
                wait = self._note(error)
            elif self._version and not self._again and lasted < SHORT_S:
                wait = self._count(self._pause(RETRY_MAX_S))  # a server that ends each watch at once
            else:
                wait = 0.0
            if wait:
                self._hurry.wait(wait)
            self._hurry.clear()

    def _note(self, error: ApiError) -> float:
        """Take in why it failed. Shape: how long to wait."""
        if error.status == 410 or error.reason in ("Expired", "Gone"):
            self._version = ""
            self.relists += 1
            if not self._failed:
                wait = 0.0
            else:  # others lost it at the same moment; where it goes on, a list each time is costly
                wait = self._pause(RETRY_MAX_S) if self._failed == EXPIRED else random.uniform(0.0, FIRST_S)
            self._kind(EXPIRED)
            return self._count(wait)
        if error.status and error.status not in (401, 403, 429, 503):
            self._version = ""  # a version from the future, say: a server that was restored
        if error.status == 403 and self._tries >= WATCHLESS_TRIES:
            self._version = ""  # list may be allowed where watch is not: then it is read so often
        state = {403: State.FORBIDDEN, 404: State.MISSING}.get(error.status, State.LOST)
        if self.problem is None or self.state != state:
            self.since = time.monotonic()
        self._kind(state)
        self.state, self.problem = state, error
        self._tell(self, [])
        top = RETRY_MAX_S if state is State.LOST else SELDOM_S
        return self._count(max(self._pause(top), min(error.retry_after, ASKED_MAX_S)))

    def _kind(self, failed: str) -> None:
        # A server that has just started forbids all for a moment: what was tried before does not count.
        if self._failed != failed:
            self._failed, self._tries = failed, 0

    def _pause(self, most: float) -> float:
        return min(FIRST_S * 2.0 ** min(self._tries, 10), most) * random.uniform(0.5, 1.5)

    def _count(self, wait: float) -> float:
        self._tries += 1
        return wait

    def _well(self) -> bool:
        """Note that it follows. Shape: whether that is news."""
        news = self.state is not State.FOLLOWING
        self.state, self.problem = State.FOLLOWING, None
        return news

    # ---- list ------------------------------------------------------------------------------

    def _list(self) -> None:
        """Read all pages and tell what differs. Errors: ApiError."""
        query = {**self._query, "limit": str(self.resource.page or PAGE)}
        missing = dict(self._told)
        events: list[ResourceEvent] = []
        told: dict[Key, tuple[str, int]] = {}
        while not self._closed.is_set():
            raw = self._api.request("GET", self._path, query=query, timeout=LIST_S)
            page = read_listing(raw)
            for item in page.items or ():
                found = trim(self.resource, item)
                missing.pop(found.key, None)
                event = self._event(found, told)
                if event is not None:
                    events.append(event)
            if not page.metadata.continue_:
                break
            query["continue"] = page.metadata.continue_
        else:
            return
        events[:0] = [ResourceEvent(*key, None) for key in missing]
        self._told = told
        self._version = page.metadata.resource_version or "0"
        self.listed = True
        if not self._failed:  # else a watch must show that it follows again
            self._well()
        self._tell(self, events)

    def _event(self, found: Trimmed, told: dict[Key, tuple[str, int]]) -> ResourceEvent | None:
        """Shape: what to tell of an object, None where it was told."""
        before = self._told.get(found.key)
        told[found.key] = (found.version, found.meaning)
        if before is not None and before[0] == found.version and found.version:
            return None
        return ResourceEvent(*found.key, found.raw, before is not None and before[1] == found.meaning)

    # ---- watch -----------------------------------------------------------------------------

    def _watch(self) -> None:
        """Follow until the server ends it. Errors: ApiError."""
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(*WATCH_S)),
        }
        with self._api.stream(self._path, query) as stream:
            self._stream = stream
            try:
                if self._closed.is_set() or self._again:  # asked for while there was no stream to cut
                    return
                if self._well():
                    self._tell(self, [])
                for line in stream:
                    self._take(line)
            finally:
                self._stream = None

    def _take(self, raw: bytes) -> None:
        line = read_line(raw)
        if line.type == "ERROR":
            raise status_error(bytes(line.object))
        if line.type == "BOOKMARK":
            self._note_version(read_marked(line.object).metadata.resource_version)
            return
        found = trim(self.resource, line.object)
        if line.type == "DELETED":
            told = self._told.pop(found.key, None)
            event = ResourceEvent(*found.key, None) if told is not None else None
        else:
            event = self._event(found, self._told)
        self._note_version(found.version)
        if event is not None:
            self._tell(self, [event])

    def _note_version(self, version: str) -> None:
        if version:
            self._version = version


async def follow(
    api: Api, resource: Resource, *, namespace: str = "", fields: str = "", labels: str = ""
) -> AsyncIterator[list[ResourceEvent]]:
    """Give batches of changes, the first list as one; ends with the task that reads it."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[list[ResourceEvent]] = asyncio.Queue()

    def tell(_: Follower, events: list[ResourceEvent]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(arrived.put_nowait, events)

    follower = Follower(api, resource, tell, namespace=namespace, fields=fields, labels=labels)
    follower.start()
    listed = False
    try:
        while True:
            batch = await arrived.get()
            while not arrived.empty():
                batch = [*batch, *arrived.get_nowait()]
            if batch or (follower.listed and not listed):
                listed = follower.listed
                yield batch
    finally:
        follower.close()
