"""Model to Snapshot: slots, numeric precedence, version and both digests.

Called by the controller's loop with its one `SlotTables` (edge/snapshot/slots.py) and by `edge
explain` with fresh ones. Pure apart from the slot tables, which it advances. The caller:

    slots = SlotTables.from_json(text)                    # or SlotTables() at the first start
    snapshot = compile_snapshot(model, slots, version)    # version: larger than every earlier one
    change = compare(previous, snapshot)                  # edge/snapshot/diff.py: Change.kind is
                                                          # NOTHING, ENDPOINTS (patch) or FULL
    slots.release(served)                                 # once all readers serve version >= served
    text = slots.to_json()                                # write to the state folder before prepare

Listener i of the model has slot i, generation 1: the order of the options.
"""

from __future__ import annotations

from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.precedence import precedence
from edge.model.types import Model
from edge.snapshot import digests
from edge.snapshot.slots import LISTENER_SLOTS, SlotTables, route_words, upstream_words
from edge.snapshot.types import PlacedListener, PlacedRoute, PlacedUpstream, Slot, Snapshot


def compile_snapshot(model: Model, slots: SlotTables, version: int) -> Snapshot:
    """Give every route and upstream its stable slot and freeze the result under ``version``.

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

    placed = slots.upstreams.place((upstream_words(upstream.key) for upstream in model.upstreams), version)
    upstreams = {}
    for upstream in model.upstreams:
        slot = placed.get(upstream_words(upstream.key))
        if slot is not None:
            upstreams[upstream.key] = PlacedUpstream(slot, upstream, model.endpoints.get(upstream.key, ()))

    routes = []
    placed = slots.routes.place((route_words(route.key) for route in model.routes), version)
    for route in model.routes:
        slot = placed.get(route_words(route.key))
        if slot is not None and all(key in upstreams for key, _ in route.references):
            routes.append(PlacedRoute(slot, precedence(route), route))
            continue
        ref = ObjectRef(route.key.kind, route.key.namespace, route.key.name)
        field = f"spec.rules[{route.rule_index}].http.paths[{route.path_index}]"
        over.append(Diagnostic(ref, field, "LimitReached", "no free slot for this route or its upstream"))

    routes_digest = digests.total(
        [
            *(digests.listener_digest(entry.listener) for entry in listeners),
            *(digests.route_digest(entry.route) for entry in routes),
            *(digests.upstream_digest(entry.upstream) for entry in upstreams.values()),
            *(digests.certificate_digest(certificate) for certificate in model.certificates),
            *(digests.policy_digest(policy) for policy in model.policies),
        ]
    )
    endpoints_digest = digests.total(
        digests.endpoints_share(key, entry.endpoints) for key, entry in upstreams.items()
    )
    return Snapshot(
        version=version,
        routes_digest=routes_digest,
        endpoints_digest=endpoints_digest,
        listeners=tuple(listeners),
        routes=tuple(routes),
        upstreams=upstreams,
        certificates=model.certificates,
        policies=model.policies,
        diagnostics=(*model.diagnostics, *over),
    )
