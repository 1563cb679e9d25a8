"""Upstreams with their endpoints: what the routes that are served lead to.

Called by build.py, which says which route uses which upstream, and which Services changed. Keeps the
verdict on every endpoint, for `edge explain`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.endpoints import SERVICE_LABEL, Judged, choose, eligible, judge_external, judge_slices
from edge.model.findings import Findings, Ledger
from edge.model.ingress import Identity, RouteWish
from edge.model.ordered import Ordered
from edge.model.types import Endpoint, Moved, Network, Upstream, UpstreamKey
from edge.resources.kinds import RESOLVED_NAME, EndpointSlice, Problem, Service, plain
from edge.resources.store import ResourceStore

Place = tuple[str, str]  # namespace, name
_KeyWords = tuple[str, str, str, str]


class Upstreams:
    """Upstreams in use, by the Service behind them."""

    def __init__(self, ledger: Ledger, zone: str, allowed: tuple[Network, ...]) -> None:
        self._ledger = ledger
        self._zone = zone
        self._allowed = allowed
        self._used: dict[Identity, RouteWish] = {}
        self._users: dict[UpstreamKey, dict[Identity, RouteWish]] = {}
        self._of_service: dict[Place, set[UpstreamKey]] = {}
        self._of_name: dict[str, set[Place]] = {}  # host name of ExternalNames → Services
        self._upstreams: Ordered[Upstream] = Ordered()
        self._endpoints: dict[UpstreamKey, tuple[Endpoint, ...]] = {}
        self._shown: dict[UpstreamKey, tuple[Endpoint, ...]] = {}
        self._changed: set[UpstreamKey] = set()  # that _shown does not tell of yet
        self.moved: Moved | None = None
        self._problems: dict[UpstreamKey, Problem] = {}
        self._judged: dict[UpstreamKey, tuple[Judged, ...]] = {}
        self._slices: dict[Place, dict[str, ObjectRef]] = {}  # Service → its slices
        self._service_of: dict[Place, str] = {}  # slice → Service
        self._fresh: set[UpstreamKey] = set()
        self._blamed: set[Identity] = set()

    def use(self, identity: Identity, wish: RouteWish | None) -> None:
        """Say which upstream a route uses now; None: the route is gone. `settle` does the rest."""
        old = self._used.pop(identity, None)
        if old is not None and old.upstream is not None:
            self._users[old.upstream.key].pop(identity, None)
            self._fresh.add(old.upstream.key)
        if wish is not None and wish.upstream is not None:
            self._used[identity] = wish
            self._users.setdefault(wish.upstream.key, {})[identity] = wish
            self._fresh.add(wish.upstream.key)
        self._blamed.add(identity)

    def of_slices(self, store: ResourceStore, by_kind: Mapping[str, Iterable[Place]]) -> set[Place]:
        """Take in changed slices; shape: the Services that they belong to, or belonged to."""
        services: set[Place] = set()
        for namespace, name in by_kind.get("EndpointSlice", ()):
            ref = ObjectRef("EndpointSlice", namespace, name)
            found = Findings()
            before = self._service_of.pop((namespace, name), None)
            if before is not None:
                services.add((namespace, before))
                del self._slices[namespace, before][name]
            decoded = store.decoded("EndpointSlice", namespace, name)
            if isinstance(decoded, Problem):
                found.problem(ref, decoded)
            elif isinstance(decoded, EndpointSlice):
                service = (decoded.metadata.labels or {}).get(SERVICE_LABEL)
                if service:
                    self._service_of[namespace, name] = service
                    self._slices.setdefault((namespace, service), {})[name] = ref
                    services.add((namespace, service))
                else:
                    message = f"the label {SERVICE_LABEL} is missing, so the slice belongs to no Service"
                    found.warning(ref, "metadata.labels", "NoService", message)
            self._ledger.put(ref, found.all())
        return services

    def settle(
        self,
        store: ResourceStore,
        services: Iterable[Place],
        names: Iterable[Place],
        refused: Mapping[ObjectRef, Diagnostic],
    ) -> None:
        """Judge what was touched: Services and slices, resolved names, upstreams that came or went."""
        places = set(services)
        for _, name in names:
            places |= self._of_name.get(name, set())
        for place in places:
            decoded = store.decoded("Service", *place)
            ref = ObjectRef("Service", *place)
            found = Findings()
            if isinstance(decoded, Problem):
                found.problem(ref, decoded)
            self._ledger.put(ref, found.all())
        keys = self._fresh.union(*(self._of_service.get(place, ()) for place in places))
        self._fresh = set()
        for key in keys:
            self._judge(store, key, refused)
        for identity in self._blamed.union(*(self._users.get(key, ()) for key in keys)):
            self._blame(identity)
        self._blamed.clear()

    def _judge(self, store: ResourceStore, key: UpstreamKey, refused: Mapping[ObjectRef, Diagnostic]) -> None:
        place = (key.namespace, key.service)
        users = self._users.get(key)
        if not users:
            self._drop(key, place)
            return
        self._of_service.setdefault(place, set()).add(key)
        upstream = next(iter(users.values())).upstream
        if upstream is not None and self._upstreams.get(_words(key)) != upstream:
            self._upstreams.put(_words(key), upstream)
        ref = ObjectRef("Service", *place)
        decoded = store.decoded("Service", *place)
        assert decoded is None or isinstance(decoded, Service | Problem)
        choice = choose(decoded, key.namespace, key.service, key.port)
        findings = Findings()
        judged: list[Judged] = []
        self._problems.pop(key, None)
        if isinstance(choice, Problem):
            self._problems[key] = choice
        elif choice.external:
            self._of_name.setdefault(choice.external, set()).add(place)
            told = store.get(RESOLVED_NAME, "", choice.external)
            resolved = None if told is None else plain(told)
            judged = judge_external(ref, choice, resolved, self._allowed, findings)
        else:
            slices = [
                (slice_ref, piece)
                for name, slice_ref in sorted(self._slices.get(place, {}).items())
                if isinstance(piece := store.decoded("EndpointSlice", key.namespace, name), EndpointSlice)
            ]
            judged = judge_slices(slices, choice, self._zone, findings)
        self._ledger.put(("endpoints", key), findings.all())
        self._judged[key] = tuple(judged)
        endpoints = () if ref in refused else eligible(judged)
        if self._endpoints.get(key) != endpoints:
            self._endpoints[key] = endpoints
            self._changed.add(key)

    def _drop(self, key: UpstreamKey, place: Place) -> None:
        """Forget an upstream that no route uses."""
        self._users.pop(key, None)
        self._of_service.get(place, set()).discard(key)
        if not self._of_service.get(place):
            self._of_service.pop(place, None)
        self._upstreams.remove(_words(key))
        self._judged.pop(key, None)
        self._problems.pop(key, None)
        self._ledger.put(("endpoints", key), ())
        if self._endpoints.pop(key, None) is not None:
            self._changed.add(key)

    def _blame(self, identity: Identity) -> None:
        """Tell the route's Ingress what is wrong with the Service that it names."""
        wish = self._used.get(identity)
        problem = self._problems.get(wish.upstream.key) if wish and wish.upstream else None
        found = Findings()
        if wish is not None and problem is not None:
            blame(wish, problem, found)
        self._ledger.put(("target", identity), found.all())

    def all(self) -> tuple[Upstream, ...]:
        """Shape: by key."""
        return self._upstreams.values()

    def endpoints(self) -> dict[UpstreamKey, tuple[Endpoint, ...]]:
        """Shape: one entry for every upstream; the same dict until something changes: see ``moved``."""
        if self._changed:
            self.moved = Moved(self._shown, frozenset(self._changed))
            self._shown = dict(self._endpoints)
            self._changed.clear()
        return self._shown

    def judged(self, key: UpstreamKey) -> tuple[Judged, ...]:
        """Return the verdict on each endpoint that the objects name for an upstream."""
        return self._judged.get(key, ())

    def external_names(self) -> frozenset[str]:
        """Return the host names that somebody has to resolve."""
        return frozenset(name for name, places in self._of_name.items() if places & self._of_service.keys())


def blame(wish: RouteWish, problem: Problem, findings: Findings) -> None:
    """Say to a wish what is wrong with the Service that it names."""
    findings.error(wish.ref, f"{wish.target}.{problem.field}", problem.reason, problem.message)


def _words(key: UpstreamKey) -> _KeyWords:
    return (key.namespace, key.service, key.port, key.policy)
