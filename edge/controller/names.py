"""Host names of ExternalName Services, resolved by their time to live; the last good addresses are kept.

Owned by the controller's loop, which says which names are wanted and takes what is found as events of the
kind ResolvedName, judged by edge/model/endpoints.py like any object. Never blocks the loop, never decides
which address may be used; it only says which ones are this node's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol

from edge.errors import EdgeError, OptionError
from edge.model.types import Address
from edge.options import parse_address
from edge.resources.kinds import RESOLVED_NAME
from edge.resources.store import ResourceEvent

FILE = "names.json"
TTL_MIN_S = 1.0
TTL_MAX_S = 3600.0
RETRY_MIN_S = 1.0
RETRY_MAX_S = 60.0
FIRST_S = 2.0  # that a start waits for names
PATIENCE_S = 5.0  # for one name, all servers and tries together
AT_ONCE = 16
ADDRESSES_MAX = 64


class UnresolvedError(EdgeError):
    """A name that has no addresses now; its text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Addresses of a name. Units: seconds."""

    addresses: tuple[str, ...]
    ttl: float


class Lookup(Protocol):
    """Asks for one name's addresses of both families."""

    async def __call__(self, name: str) -> Answer:
        """Errors: UnresolvedError."""


class Dns:
    """Lookup by dnspython. ``server``: ADDR:PORT, or "" for those of /etc/resolv.conf."""

    def __init__(self, server: str = "") -> None:
        """Errors: OptionError."""
        self._server = parse_address(server, "--resolver") if server else None
        self._resolver: Any = None

    async def __call__(self, name: str) -> Answer:
        """Ask for A and AAAA; one that has none does not matter if the other has."""
        import dns.asyncresolver  # 10 MB, for those who have such Services
        import dns.exception
        import dns.resolver

        if self._resolver is None:
            try:
                self._resolver = dns.asyncresolver.Resolver(configure=self._server is None)
            except dns.exception.DNSException as error:
                raise UnresolvedError(f"no resolver: {error}") from error
            if self._server is not None:
                self._resolver.nameservers = [self._server[0]]
                self._resolver.port = self._server[1]
            self._resolver.lifetime = PATIENCE_S
        found: list[str] = []
        ttl, reason = TTL_MAX_S, "it has no address"
        for kind in ("A", "AAAA"):
            try:
                answer = await self._resolver.resolve(f"{name}.", kind, search=False)
            except dns.resolver.NoAnswer:
                continue
            except dns.resolver.NXDOMAIN as error:
                raise UnresolvedError("there is no such name") from error
            except (dns.exception.DNSException, OSError, ValueError) as error:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                continue
            found += [str(record.address) for record in answer]
            ttl = min(ttl, float(answer.rrset.ttl if answer.rrset is not None else 0))
        if not found:
            raise UnresolvedError(reason)
        return Answer(tuple(found), ttl)


@dataclass(slots=True)
class _Held:
    """What is known of a name. Units: seconds of the monotonic clock for ``due``."""

    addresses: tuple[str, ...] = ()
    error: str = ""
    due: float = 0.0
    failures: int = 0
    told: dict[str, Any] | None = None


class NameFollower:
    """The wanted names and their addresses."""

    def __init__(
        self,
        lookup: Lookup,
        own: Callable[[], Iterable[Address]],
        ttl_min_s: float = TTL_MIN_S,
        retry_min_s: float = RETRY_MIN_S,
    ) -> None:
        self._lookup = lookup
        self._own = own
        self._ttl_min_s = ttl_min_s
        self._retry_min_s = retry_min_s
        self._held: dict[str, _Held] = {}
        self._kept: dict[str, tuple[str, ...]] = {}  # of an earlier controller
        self._left: set[str] = set()  # not wanted any more, not told yet
        self._local: set[str] = set()  # this node's own addresses
        self._wake = asyncio.Event()

    @property
    def any(self) -> bool:
        """Say whether there is anything to resolve."""
        return bool(self._held)

    def want(self, names: Iterable[str]) -> None:
        """Say which names are needed from now on."""
        wanted = set(names)
        if wanted == self._held.keys():
            return
        for name in self._held.keys() - wanted:
            del self._held[name]
            self._left.add(name)
        for name in wanted - self._held.keys():
            addresses = self._kept.pop(name, ())
            error = "it was not resolved since the start" if addresses else ""
            self._held[name] = _Held(addresses, error)
            self._left.discard(name)
        self._wake.set()

    async def follow(self, tell: Callable[[list[ResourceEvent]], Awaitable[None]]) -> None:
        """Resolve what is due, and tell what is another than before; never returns."""
        while True:
            events = await self.turn()
            if events:
                await tell(events)
            due = min((held.due for held in self._held.values()), default=None)
            wait = None if due is None else max(0.0, due - time.monotonic())
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def first(self, patience_s: float) -> list[ResourceEvent]:
        """Resolve all for the first time; what has no answer by then is told later, as it was kept."""
        task = asyncio.ensure_future(self.turn())
        done, _ = await asyncio.wait({task}, timeout=patience_s)
        if done:
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return self._tell(list(self._held))

    async def turn(self) -> list[ResourceEvent]:
        """Resolve what is due now. Shape: what is another than was told."""
        now = time.monotonic()
        due = [name for name, held in self._held.items() if held.due <= now]
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(name: str) -> None:
            async with gate:
                await self._resolve(name)

        await asyncio.gather(*(one(name) for name in due))
        if due:
            self._local = {str(address) for address in await asyncio.to_thread(self._own)}
        return self._tell(due)

    def _tell(self, due: Iterable[str]) -> list[ResourceEvent]:
        """Shape: of these names, those of which something else was told last."""
        own, events = self._local, []
        for name in due:
            held = self._held.get(name)
            if held is None:
                continue
            raw: dict[str, Any] = {"addresses": list(held.addresses)}
            if mine := sorted(own & set(held.addresses)):
                raw["own"] = mine
            if held.error:
                raw["error"] = held.error
            if raw != held.told:
                held.told = raw
                events.append(ResourceEvent(RESOLVED_NAME, "", name, raw))
        events += [ResourceEvent(RESOLVED_NAME, "", name, None) for name in sorted(self._left)]
        self._left.clear()
        return events

    async def _resolve(self, name: str) -> None:
        try:
            answer = Answer((str(ip_address(name)),), TTL_MAX_S)
        except ValueError:
            try:
                async with asyncio.timeout(2 * PATIENCE_S):
                    answer = await self._lookup(name)
            except (UnresolvedError, TimeoutError, OptionError) as error:
                self._fail(name, str(error) or "no answer in time")
                return
        held = self._held.get(name)
        if held is None:
            return  # not wanted any more
        good = {str(ip_address(text)) for text in answer.addresses}
        held.addresses = tuple(sorted(good, key=lambda text: (":" in text, ip_address(text).packed)))
        held.addresses = held.addresses[:ADDRESSES_MAX]
        held.error, held.failures = "", 0
        held.due = time.monotonic() + min(max(answer.ttl, self._ttl_min_s), TTL_MAX_S)

    def _fail(self, name: str, reason: str) -> None:
        held = self._held.get(name)
        if held is None:
            return
        held.error = reason
        held.due = time.monotonic() + min(self._retry_min_s * 2 ** min(held.failures, 10), RETRY_MAX_S)
        held.failures += 1

    # ---- over a restart --------------------------------------------------------------------

    def to_json(self) -> bytes:
        """Shape: the last good addresses, for the next controller."""
        good = {name: list(held.addresses) for name, held in self._held.items() if held.addresses}
        return json.dumps(good, sort_keys=True).encode()

    def recall(self, text: bytes | None) -> None:
        """Take what `to_json` wrote as known; anything else is nothing."""
        try:
            plain = json.loads(text or b"{}")
            self._kept = {
                str(name): tuple(str(ip_address(one)) for one in addresses)
                for name, addresses in plain.items()
            }
        except (ValueError, AttributeError, TypeError):
            self._kept = {}
