"""Which instance writes status and events: one Lease, held as client-go's leaderelection holds it.

Used by reporter.py. No clock but this machine's is believed, and of it only how long things take: a Lease is
expired when it has not changed before our eyes for as long as its holder asked for. Who could not renew stops
writing (`acting`) a third of the lease before another may begin.
Source: client-go tools/leaderelection (15 s, 10 s, 2 s; jitter 1.2), coordination.k8s.io/v1 Lease.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from edge.controller.calls import MERGE_PATCH, Calls
from edge.controller.log import micro_moment, say
from edge.errors import ApiError

LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
LEASE_API = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(msgspec.Struct, frozen=True):
    """What is read of a Lease."""

    metadata: _Metadata
    spec: _Spec = _Spec()


_read = msgspec.json.Decoder(Lease)


@dataclass(frozen=True, slots=True)
class Terms:
    """client-go's defaults. Units: seconds; ``jitter``: of retry_s, at most so much is added by chance."""

    lease_s: float = 15.0
    renew_s: float = 10.0
    retry_s: float = 2.0
    jitter: float = 1.2


def boot_time() -> float:
    """Units: seconds of a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def identity_of(pod_name: str) -> str:
    """Shape: a name that no other life of ours has: an earlier one of this Pod may still be at work."""
    return f"{pod_name or socket.gethostname()}_{uuid.uuid4().hex[:12]}"


class Election:
    """One candidate. ``holder``: who was last seen leading; ``changes``: how often that was another.

    ``writes``: with which the leader writes; the Lease is not given back while they are under way.
    """

    def __init__(
        self,
        calls: Calls,
        namespace: str,
        name: str,
        identity: str,
        terms: Terms | None = None,
        clock: Callable[[], float] = boot_time,
        chance: Callable[[], float] = random.random,
        writes: Calls | None = None,
    ) -> None:
        self._calls = calls
        self._writes = writes or calls
        self._folder = LEASES.format(namespace)
        self._name = name
        self._where = {"name": name, "namespace": namespace}
        self.identity = identity
        self._terms = terms or Terms()
        self._clock = clock
        self._chance = chance
        self._seen: Lease | None = None
        self._seen_at = 0.0  # when its spec changed before our eyes
        self._renewed: float | None = None  # when the last request that renewed was begun
        self._one = asyncio.Lock()
        self._told = ""
        self.holder = ""
        self.changes = 0
        self.others_until: float | None = None  # when another was last seen at work
        self.annotations: dict[str, str] = {}

    def acting(self) -> bool:
        """Say whether we may write: nobody else can have begun to."""
        return self._renewed is not None and self._clock() < self._renewed + self._terms.renew_s

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Be elected, lead, lose, again and again; ``lead`` is cancelled when we must not lead any more.

        Errors: what ``lead`` raises. When cancelled, it ends leading, and gives the Lease back.
        """
        try:
            while True:
                while not await self.attempt():
                    await asyncio.sleep(self._terms.retry_s * (1 + self._terms.jitter * self._chance()))
                say(f"leading, by Lease {self._name}")
                task = asyncio.ensure_future(lead())
                try:
                    await self._hold(task)
                finally:
                    task.cancel()
                    try:
                        with suppress(asyncio.CancelledError):
                            await task
                    finally:
                        self.annotations = {}  # another may write others; they are read when we lead again
                        await self._calls.quiet()
                        await self._writes.quiet()
                say(f"not leading any more; {self.holder or 'nobody'} holds Lease {self._name}")
        finally:
            await self.release()

    async def _hold(self, task: asyncio.Future[None]) -> None:
        """Renew until that fails for too long, or another has it, or ``task`` ends."""
        while not task.done():
            await asyncio.wait({task}, timeout=self._terms.retry_s)
            if await self.attempt():
                continue
            if self.holder != self.identity or not self.acting():
                self._renewed = None
                return

    async def attempt(self) -> bool:
        """Acquire or renew. Shape: whether we lead now."""
        async with self._one:
            try:
                renewed = await self._attempt()
            except ApiError as error:
                self._say(f"Lease {self._name}: {error}")
                if error.status in (404, 409) and self._seen is not None:
                    self._seen = self._stale(self._seen)
                return False
            self._say("")
            return renewed

    async def annotate(self, annotations: Mapping[str, str]) -> None:
        """Write annotations beside the renewal. Errors: ApiError where they are not there after it."""
        self.annotations = dict(annotations)
        if not await self.attempt():
            raise ApiError(0, "NotWritten", f"Lease {self._name} was not renewed")

    async def _attempt(self) -> bool:
        begun = self._clock()
        seen = self._seen
        if seen is None or not seen.metadata.resource_version or not self.acting():
            try:
                seen = self._observe(await self._calls.request("GET", f"{self._folder}/{self._name}"))
            except ApiError as error:
                if error.status != 404:
                    raise
                return await self._write("POST", self._folder, None, begun)
        mine = seen.spec.holder_identity == self.identity
        lasts = float(seen.spec.lease_duration_seconds or self._terms.lease_s)
        if seen.spec.holder_identity and not mine and self._seen_at + lasts > self._clock():
            self._renewed = None
            return False
        return await self._write("PATCH", f"{self._folder}/{self._name}", seen, begun)

    async def _write(self, method: str, path: str, seen: Lease | None, begun: float) -> bool:
        old = seen.spec if seen else _Spec()
        now = micro_moment(time.time())
        mine = old.holder_identity == self.identity
        changes = old.lease_transitions or 0
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(self._terms.lease_s),
            "renewTime": now,
            "acquireTime": old.acquire_time if mine and old.acquire_time else now,
            "leaseTransitions": changes if mine or seen is None else changes + 1,
        }
        metadata: dict[str, Any] = {"annotations": self.annotations} if self.annotations else {}
        if seen is None:
            metadata |= self._where
        else:
            metadata["resourceVersion"] = seen.metadata.resource_version  # another's write makes ours fail
        body = msgspec.json.encode({**LEASE_API, "metadata": metadata, "spec": spec})
        kind = MERGE_PATCH if method == "PATCH" else "application/json"
        answer = await self._calls.request(method, path, body=body, content_type=kind)
        self._observe(answer)
        self._renewed = begun
        return True

    def _observe(self, answer: bytes) -> Lease:
        """Note what a Lease says now, and when it began to. Errors: ApiError."""
        try:
            found = _read.decode(answer)
        except msgspec.DecodeError as error:
            raise ApiError(0, "Unreadable", str(error)) from error
        holder = found.spec.holder_identity or ""
        if self._seen is None or found.spec != self._seen.spec:
            now = self._clock()
            if self._seen is not None and self.holder != self.identity and holder != self.identity:
                self.others_until = now
            self._seen_at = now
        self._seen = found
        self.holder = holder
        self.changes = found.spec.lease_transitions or 0
        return found

    @staticmethod
    def _stale(seen: Lease) -> Lease:
        """Shape: the same, so that the next attempt asks first."""
        return Lease(_Metadata(annotations=seen.metadata.annotations), seen.spec)

    def remembered(self, annotation: str) -> str:
        """Shape: what the Lease's annotation says, "" where it has none."""
        known = self._seen.metadata.annotations if self._seen else None
        return (known or {}).get(annotation, "")

    async def release(self) -> None:
        """Give the Lease back, so that the next need not wait for its end. Never fails."""
        async with self._one:
            seen = self._seen
            if self._renewed is None or seen is None or seen.spec.holder_identity != self.identity:
                return
            self._renewed = None
            if not await self._writes.quiet(0.0):  # we were hurried: the next one waits for the Lease's end
                return
            now = micro_moment(time.time())
            spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now, "acquireTime": now}
            metadata = {"resourceVersion": seen.metadata.resource_version}
            body = msgspec.json.encode({"metadata": metadata, "spec": spec})
            with suppress(ApiError):
                await self._calls.request(
                    "PATCH", f"{self._folder}/{self._name}", body=body, content_type=MERGE_PATCH
                )

    def _say(self, text: str) -> None:
        """Say what is wrong, once."""
        if text and text != self._told:
            say(text)
        self._told = text
