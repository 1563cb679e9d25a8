"""At which addresses clients find us, and which addresses in an Ingress' status are ours to change.

Used by reporter.py, as leader. Addresses are noted on the leader's Lease before any Ingress has them, so that
each later leader knows them as ours; those that no Ingress has any more are forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from edge.controller import status
from edge.controller.calls import Calls
from edge.controller.fleet import Fleet
from edge.controller.leader import Election
from edge.controller.status_writer import Wanted
from edge.errors import ApiError
from edge.options import Options
from edge.resources.store import Key, ResourceStore

NOTE = "xdp-edge.dev/addresses"
ASK_S = 10.0  # between two looks at a Service that is not watched
REMEMBERED_MAX = 2048  # an object's annotations may have 256 KiB
CHUNK = 50


class Addresses:
    """``remembered``: what leaders have written, ourselves included."""

    def __init__(
        self, options: Options, store: ResourceStore, calls: Calls, election: Election, wanted: Wanted
    ) -> None:
        self._options = options
        self._store = store
        self._calls = calls
        self._election = election
        self._wanted = wanted
        self._service: bytes | None = None
        self._service_due = 0.0
        self.remembered: frozenset[str] = frozenset()

    def begin(self) -> None:
        """Read what earlier leaders have noted."""
        self.remembered = frozenset(filter(None, self._election.remembered(NOTE).split(",")))

    def is_published(self, key: Key) -> bool:
        """Say whether an object is the Service of --publish-service."""
        kind, namespace, name = key
        return kind == "Service" and self._options.publish_service == f"{namespace}/{name}"

    async def turn(self, fleet: Fleet | None, now: float) -> bool:
        """Have the addresses of now wanted. ``fleet`` None: the nodes are not known yet.

        Shape: whether Ingresses must be looked at again. Errors: ApiError.
        """
        if not self._options.update_status:
            return False
        by_option = bool(self._options.publish_service or self._options.publish_status_address)
        places = await self._places(fleet, now)
        if not places:
            return False  # nobody serves, or nobody knows: what is written stays
        ours = self.remembered | set(places)
        if fleet is not None and not by_option:
            ours |= fleet.all_addresses()
        if places == self._wanted.addresses and ours == self._wanted.ours:
            return False
        await self._note(self.remembered | set(places), frozenset(places))
        self._wanted.ours = frozenset(ours)
        self._wanted.addresses = places
        return True

    async def forget(self, ingresses: Iterable[Key]) -> None:
        """Forget the addresses that no Ingress has: nodes come and go. Errors: ApiError."""
        wanted = frozenset(self._wanted.addresses or ())
        if not wanted or self.remembered <= wanted:
            return
        used: set[str] = set()
        for number, key in enumerate(ingresses):
            found = status.subject(self._store.get(*key))
            if found is not None:
                used.update(map(status.place_of, found.balancer))
            if number % CHUNK == CHUNK - 1:
                await asyncio.sleep(0)
        await self._note(self.remembered & used | wanted, wanted)

    async def _note(self, places: frozenset[str], wanted: frozenset[str]) -> None:
        """Write them down; of too many, those that are ``wanted`` before others."""
        if len(places) > REMEMBERED_MAX:
            places = frozenset(sorted(places, key=lambda one: (one not in wanted, one))[:REMEMBERED_MAX])
        if places != self.remembered or not self._election.remembered(NOTE):
            await self._election.annotate({NOTE: ",".join(sorted(places))})
        self.remembered = places

    async def _places(self, fleet: Fleet | None, now: float) -> tuple[str, ...]:
        if self._options.publish_status_address:
            return status.in_order(self._options.publish_status_address)
        if self._options.publish_service:
            namespace, _, name = self._options.publish_service.partition("/")
            raw = self._store.get("Service", namespace, name)
            if raw is None:  # in a namespace that is not watched
                raw = await self._fetched(f"/api/v1/namespaces/{namespace}/services/{name}", now)
            found = status.subject(raw)
            return () if found is None else status.of_service(found)
        return () if fleet is None else fleet.addresses(now)

    async def _fetched(self, path: str, now: float) -> bytes | None:
        if now >= self._service_due:
            self._service_due = now + ASK_S
            try:
                self._service = await self._calls.request("GET", path)
            except ApiError as error:
                if error.status != 404:
                    raise
                self._service = None
        return self._service
