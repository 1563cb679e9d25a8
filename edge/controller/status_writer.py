"""Writes status to the API server, one object at a time: Ingresses and EdgePolicies that say the wrong thing.

Fed by reporter.py with keys, while leading. Works out what to write when a key's turn has come, from the
store; what another wrote meanwhile (409) is read and looked at again. Addresses are noted on the leader's
Lease before any Ingress has them, so that a later leader knows them as ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from edge.controller import status
from edge.controller.calls import MERGE_PATCH, NOT_LEADING, Calls
from edge.controller.log import moment, say
from edge.controller.status import Condition, Subject
from edge.controller.work_queue import WorkQueue
from edge.errors import ApiError
from edge.resources.store import Key, ResourceStore

PER_SECOND, BURST = 100.0, 200
TRIES = 3  # of one write that others' writes make fail
QUARREL = 5  # writes of one Ingress within QUARREL_S with nothing new of ours to say
QUARREL_S = 600.0
UNREACHABLE_S, UNREACHABLE_MAX_S = 1.0, 30.0
FOLDERS = {
    "Ingress": "/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/{name}",
    "EdgePolicy": "/apis/xdp-edge.dev/v1alpha1/edgepolicies/{name}",
}


@dataclass(slots=True)
class Wanted:
    """What reporter.py knows. ``serves``: None: not ours, False: nothing of it is served.

    ``conditions``: of an EdgePolicy. ``addresses`` None: not known, nothing is written.
    """

    serves: Callable[[str, str], bool | None]
    conditions: Callable[[Subject], Sequence[Condition]]
    addresses: tuple[str, ...] | None = None
    ours: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Quarrel:
    """How often one Ingress was written lately with the same addresses: another may undo it each time."""

    wanted: tuple[str, ...]
    count: int
    since: float


@dataclass(slots=True)
class Counts:
    """Requests by result."""

    written: int = 0
    conflict: int = 0
    failed: int = 0


class StatusWriter:
    """``manager``: the name under which this installation writes; ``queue``: what differs."""

    def __init__(
        self,
        calls: Calls,
        store: ResourceStore,
        wanted: Wanted,
        allowed: Callable[[], bool],
        manager: str,
        queue: WorkQueue[Key] | None = None,
    ) -> None:
        self._calls = calls
        self._store = store
        self._wanted = wanted
        self._allowed = allowed
        self._manager = manager
        self._quarrels: dict[Key, _Quarrel] = {}
        self._failures = 0
        self._told = ""
        self._looked: dict[Key, str] = {}  # Ingresses of others, at which resourceVersion
        self.queue: WorkQueue[Key] = WorkQueue(PER_SECOND, BURST) if queue is None else queue
        self.counts = Counts()

    def consider(self, key: Key) -> None:
        """Have an object written if its status differs from what it must be."""
        raw = self._store.get(*key)
        if raw is None:
            self.forget(key)
            return
        found = status.subject(raw)
        if found is not None and self._patch(key, found, sure=False) is not None:
            self.queue.add(key, self._patience(key))

    def forget(self, key: Key) -> None:
        """Drop what is known of an object that is gone."""
        self.queue.forget(key)
        self._quarrels.pop(key, None)
        self._looked.pop(key, None)

    def clear(self) -> None:
        """Drop everything: another leads."""
        self.queue.clear()
        self._quarrels.clear()
        self._looked.clear()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            key = await self.queue.take()
            try:
                await self._write(key)
            except ApiError as error:
                self._fail(key, error)
            else:
                self._failures = 0
                self.queue.done(key)

    def _fail(self, key: Key, error: ApiError) -> None:
        self.counts.failed += 1
        if error.status in (0, 429) or error.status >= 500:
            # The server's trouble, not the object's: all wait.
            self._failures = min(self._failures + 1, 10)
            wait = min(UNREACHABLE_S * 2 ** (self._failures - 1), UNREACHABLE_MAX_S)
            self.queue.pause(max(error.retry_after, wait))
            self.queue.add(key)
        else:
            self.queue.failed(key, error.retry_after)
        text = f"status of {key[0]}: {error}"
        if text != self._told and error.reason != NOT_LEADING:
            say(text)
            self._told = text

    async def _write(self, key: Key) -> None:
        kind, namespace, name = key
        path = FOLDERS[kind].format(namespace=namespace, name=name)
        raw = self._store.get(*key)
        found = status.subject(raw)
        sure = False
        for _ in range(TRIES):
            if found is None:
                self.forget(key)
                return
            if not sure and kind == "Ingress" and self._wanted.serves(namespace, name) is None:
                found, sure = await self._read(path), True  # who wrote it?
                continue
            patch = self._patch(key, found, sure)
            if patch is None:
                if sure:
                    self._looked[key] = found.metadata.resource_version
                return
            patch["metadata"] = {"resourceVersion": found.metadata.resource_version}
            try:
                await self._calls.request(
                    "PATCH",
                    f"{path}/status",
                    query={"fieldManager": self._manager},
                    body=msgspec.json.encode(patch),
                    content_type=MERGE_PATCH,
                    allowed=self._allowed,
                )
            except ApiError as error:
                if error.status == 404:
                    self.forget(key)
                    return
                if error.status != 409:
                    raise
                self.counts.conflict += 1
                found, sure = await self._read(path), True
                continue
            self.counts.written += 1
            self._count(key)
            return
        raise ApiError(409, "Conflict", f"{path} is written by others all the time")

    async def _read(self, path: str) -> Subject | None:
        try:
            return status.subject(await self._calls.request("GET", path, allowed=self._allowed))
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def _patch(self, key: Key, found: Subject, sure: bool) -> dict[str, Any] | None:
        """Shape: what must change, None: nothing. ``sure``: ``found`` says who wrote its fields."""
        kind, namespace, name = key
        if kind == "EdgePolicy":
            wanted = self._wanted.conditions(found)
            listed = status.conditions(
                found.conditions, wanted, found.metadata.generation, moment(time.time())
            )
            return None if listed is None else {"status": {"conditions": listed}}
        places = self._wanted.addresses
        if places is None:
            return None
        current = found.balancer
        serves = self._wanted.serves(namespace, name)
        if serves is None:
            if not any(status.place_of(entry) in self._wanted.ours for entry in current):
                return None
            if sure and not status.written_by(self._manager, found):
                return None
            if self._looked.get(key) == found.metadata.resource_version:
                return None
        listed = status.merged(current, places if serves else (), self._wanted.ours)
        return None if listed == current else {"status": {"loadBalancer": {"ingress": listed}}}

    # ---- quarrels --------------------------------------------------------------------------

    def _count(self, key: Key) -> None:
        if key[0] != "Ingress":
            return
        wanted = self._wanted.addresses or ()
        now = time.monotonic()
        known = self._quarrels.get(key)
        if known is None or known.wanted != wanted or now > known.since + QUARREL_S:
            known = self._quarrels[key] = _Quarrel(wanted, 0, now)
        known.count += 1
        if known.count == QUARREL:
            name = f"{key[1]}/{key[2]}"
            say(f"Ingress {name}: another controller undoes its status; it is written less often now")

    def _patience(self, key: Key) -> float:
        known = self._quarrels.get(key)
        if known is None or known.count < QUARREL or known.wanted != (self._wanted.addresses or ()):
            return 0.0
        return min(2.0 ** (known.count - QUARREL + 3), QUARREL_S)
