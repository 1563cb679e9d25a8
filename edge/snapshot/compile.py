"""Model to Snapshot: slots, numeric precedence, version and both digests; what did not change is kept.

`SnapshotCompiler` is the controller's, one for its life; `compile_snapshot` is the same from nothing, for
`edge explain` and tests. Pure apart from the slot tables, which it advances. The caller:

    slots = SlotTables.from_json(text)                    # or SlotTables() at the first start
    compiler = SnapshotCompiler(slots)
    snapshot = compiler.compile(model, version)           # version: larger than every earlier one
    change = compare(previous, snapshot)                  # edge/snapshot/diff.py: Change.kind is
                                                          # NOTHING, ENDPOINTS (patch) or FULL
    slots.release(served)                                 # once all readers serve version >= served
    text = slots.to_json()                                # write to the state folder before prepare

What changed is found by the model's own account of it (`Model.step`), or where that is of another model by
identity: an unchanged route, upstream or endpoints tuple is handed on as the same object.
Listener i of the model has slot i, generation 1: the order of the options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.ordered import Ordered
from edge.model.precedence import order, precedence
from edge.model.types import Endpoint, Model, Route, Upstream, UpstreamKey
from edge.snapshot import digests
from edge.snapshot.slots import LISTENER_SLOTS, SlotTables, route_words, upstream_words
from edge.snapshot.types import PlacedListener, PlacedRoute, PlacedUpstream, Slot, Snapshot


def compile_snapshot(model: Model, slots: SlotTables, version: int) -> Snapshot:
    """Give every route and upstream its stable slot and freeze the result under ``version``.

    Errors: none; what finds no free slot is left out and gets a Diagnostic.
    """
    return SnapshotCompiler(slots).compile(model, version)


class _Sum:
    """The digest of a row of objects, kept as long as it is the same row."""

    def __init__(self, digest: Callable[[Any], int]) -> None:
        self._digest = digest
        self._row: tuple[Any, ...] = ()
        self.value = 0

    def of(self, row: tuple[Any, ...]) -> int:
        if row is not self._row:
            self.value, self._row = sum(map(self._digest, row)), row
        return self.value


class SnapshotCompiler:
    """What the last snapshot was made of."""

    def __init__(self, slots: SlotTables) -> None:
        self._slots = slots
        self._started = False
        self._routes: dict[int, PlacedRoute] = {}  # by id of the route, which each entry keeps alive
        self._route_digests: dict[int, int] = {}
        self._routes_sum = 0
        self._row: tuple[Route, ...] = ()
        self._placed: Ordered[PlacedRoute] = Ordered()
        self._upstreams: dict[UpstreamKey, PlacedUpstream] = {}
        self._shares: dict[UpstreamKey, tuple[int, int]] = {}  # digests of upstream and endpoints
        self._upstreams_sum = self._endpoints_sum = 0
        self._upstream_row: tuple[Upstream, ...] = ()
        self._endpoints: dict[UpstreamKey, tuple[Endpoint, ...]] = {}
        self._over: set[object] = set()  # routes (by id) and upstreams (by key) without a slot
        self._certificates = _Sum(digests.certificate_digest)
        self._policies = _Sum(digests.policy_digest)

    def compile(self, model: Model, version: int) -> Snapshot:
        """Freeze a model under ``version``.

        Errors: none; what finds no free slot is left out and gets a Diagnostic.
        """
        over: list[Diagnostic] = []
        listeners = []
        for index, listener in enumerate(model.listeners):
            if index < LISTENER_SLOTS:
                listeners.append(PlacedListener(Slot(index, 1), listener))
            else:
                ref = ObjectRef("Listener", "", f"{listener.address}:{listener.port}")
                over.append(Diagnostic(ref, "", "LimitReached", f"more than {LISTENER_SLOTS} listeners"))
        retry = bool(self._over)
        moved = False
        if (
            retry
            or not self._started
            or model.upstreams is not self._upstream_row
            or model.endpoints is not self._endpoints
        ):
            moved = self._place_upstreams(model, version)
        if retry or moved or not self._started or model.routes is not self._row:
            self._place_routes(model, version, retry or moved)
        self._started = True
        for route in model.routes if self._over else ():
            if id(route) in self._over:
                ref = ObjectRef(route.key.kind, route.key.namespace, route.key.name)
                field = f"spec.rules[{route.rule_index}].http.paths[{route.path_index}]"
                text = "no free slot for this route or its upstream"
                over.append(Diagnostic(ref, field, "LimitReached", text))
        routes_sum = (
            sum(digests.listener_digest(entry.listener) for entry in listeners)
            + self._routes_sum
            + self._upstreams_sum
            + self._certificates.of(model.certificates)
            + self._policies.of(model.policies)
        )
        return Snapshot(
            version=version,
            routes_digest=digests.total((routes_sum,)),
            endpoints_digest=digests.total((self._endpoints_sum,)),
            listeners=tuple(listeners),
            routes=self._placed.values(),
            upstreams=self._upstreams,
            certificates=model.certificates,
            policies=model.policies,
            diagnostics=(*model.diagnostics, *over) if over else model.diagnostics,
            step=self._placed.step,
        )

    # ---- upstreams -------------------------------------------------------------------------

    def _place_upstreams(self, model: Model, version: int) -> bool:
        """Shape: whether an upstream came or went, so that routes must be looked at."""
        step = model.moved
        if (
            self._started
            and not self._over
            and step is not None
            and step.before is self._endpoints
            and model.upstreams is self._upstream_row
        ):
            self._move_endpoints(model, step.keys)
            return False
        old, result = self._upstreams, {}
        fresh: list[Upstream] = []
        for upstream in model.upstreams:
            placed = old.get(upstream.key)
            if placed is None:
                fresh.append(upstream)
                continue
            endpoints = model.endpoints.get(upstream.key, ())
            if placed.upstream is not upstream or placed.endpoints is not endpoints:
                self._count_upstream(placed, -1)
                placed = PlacedUpstream(placed.slot, upstream, endpoints)
                self._count_upstream(placed, 1)
            result[upstream.key] = placed
        gone = [placed for key, placed in old.items() if key not in result]
        slots = self._slots.upstreams.change(
            None if not self._started else [upstream_words(placed.upstream.key) for placed in gone],
            [upstream_words(upstream.key) for upstream in fresh],
            version,
        )
        for placed in gone:
            self._count_upstream(placed, -1)
        self._over = {one for one in self._over if isinstance(one, int)}
        for upstream in fresh:
            slot = slots.get(upstream_words(upstream.key))
            if slot is None:
                self._over.add(upstream.key)
                continue
            placed = PlacedUpstream(slot, upstream, model.endpoints.get(upstream.key, ()))
            self._count_upstream(placed, 1)
            result[upstream.key] = placed
        self._upstreams = result
        self._upstream_row, self._endpoints = model.upstreams, model.endpoints
        return bool(gone or fresh)

    def _move_endpoints(self, model: Model, keys: frozenset[UpstreamKey]) -> None:
        """Take over endpoints where nothing else of any upstream changed."""
        self._upstreams, self._endpoints = dict(self._upstreams), model.endpoints
        for key in keys:
            old = self._upstreams[key]
            self._count_upstream(old, -1)
            placed = self._upstreams[key] = PlacedUpstream(old.slot, old.upstream, model.endpoints[key])
            self._count_upstream(placed, 1)

    def _count_upstream(self, placed: PlacedUpstream, sign: int) -> None:
        """Add an upstream to the sums, or take it out."""
        key = placed.upstream.key
        if sign > 0:
            self._shares[key] = (
                digests.upstream_digest(placed.upstream),
                digests.endpoints_share(key, placed.endpoints),
            )
        routes_share, endpoints_share = self._shares[key]
        self._upstreams_sum += sign * routes_share
        self._endpoints_sum += sign * endpoints_share
        if sign < 0:
            del self._shares[key]

    # ---- routes ----------------------------------------------------------------------------

    def _place_routes(self, model: Model, version: int, look_at_all: bool) -> None:
        step = model.step
        if step is not None and step.before is self._row and not look_at_all:
            gone = [placed for route in step.removed if (placed := self._routes.get(id(route)))]
            fresh: Sequence[Route] = step.added
        else:
            wanted = set(map(id, model.routes))
            gone = [placed for number, placed in self._routes.items() if number not in wanted]
            gone += [
                placed
                for number, placed in self._routes.items()
                if number in wanted and not self._leads_somewhere(placed.route)
            ]
            left = self._routes.keys() - {id(placed.route) for placed in gone}
            fresh = [route for route in model.routes if id(route) not in left]
        for placed in gone:
            del self._routes[id(placed.route)]
            self._routes_sum -= self._route_digests.pop(id(placed.route))
            self._placed.remove(order(placed.route))
        nowhere = {id(route) for route in fresh if not self._leads_somewhere(route)}
        slots = self._slots.routes.change(
            None if not self._started else [route_words(placed.route.key) for placed in gone],
            [route_words(route.key) for route in fresh if id(route) not in nowhere],
            version,
        )
        self._over = {one for one in self._over if not isinstance(one, int)}
        for route in fresh:
            slot = slots.get(route_words(route.key))
            if slot is None or id(route) in nowhere:
                self._over.add(id(route))
                continue
            placed = self._routes[id(route)] = PlacedRoute(slot, precedence(route), route)
            self._placed.put(order(route), placed)
            digest = self._route_digests[id(route)] = digests.route_digest(route)
            self._routes_sum += digest
        self._row = model.routes

    def _leads_somewhere(self, route: Route) -> bool:
        return all(key in self._upstreams for key, _ in route.references)
