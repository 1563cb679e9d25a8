"""One object judged before it is stored: what the model would say of it, against the objects of now.

Called by edge/admission for each call of the API server. The functions that judge are those of the builder,
and a test compares what comes of them; `refuses` in reasons.py says what a finding costs. Reads the builder
and changes nothing; costs the object's own size, however many others there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge.model.build import ModelBuilder
from edge.model.certificates import secret_certificate
from edge.model.diagnostics import Diagnostic, ObjectRef, Severity
from edge.model.edgepolicy import read_policy
from edge.model.endpoints import choose
from edge.model.findings import Findings
from edge.model.ingress import Reading, RouteWish, SecretWish, lose_route, precedes, read_ingress
from edge.model.reasons import reason_of
from edge.model.server_names import lose_name, miss_secret
from edge.model.upstreams import blame
from edge.resources.kinds import Problem, Raw, Secret, Service, Struct, decode
from edge.resources.store import Key, ResourceEvent, ResourceStore

_ONLY_WARNED = ("Secret",)  # others read it, too, and it may be for them


@dataclass(frozen=True, slots=True)
class Verdict:
    """``refused``: why the object is not to be stored; ``warned``: what else its author should know."""

    refused: tuple[Diagnostic, ...] = ()
    warned: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """An object that was read by itself. ``reading``: what an Ingress asks for, and what is wrong so far."""

    ref: ObjectRef
    reading: Reading
    raw: Raw


class Judge:
    """Answers for one builder and the store that it was fed with."""

    def __init__(self, builder: ModelBuilder, store: ResourceStore) -> None:
        self._builder = builder
        self._store = store

    def read(self, key: Key, raw: Raw) -> Draft:
        """Read an object by itself; may run in any thread, and for a large object should."""
        ref = ObjectRef(*key)
        findings = Findings()
        reading = Reading()
        match ref.kind:
            case "Ingress":
                decoded = decode("Ingress", raw)
                usual = self._builder.rule.usual(decoded)
                if usual is not None:
                    reading = read_ingress(decoded, ref, usual)  # type: ignore[arg-type]
            case "EdgePolicy":
                read_policy(decode("EdgePolicy", raw), ref, findings)
                reading = Reading(found=findings.all())
            case "Secret":
                _secret(ref, decode("Secret", raw), findings)
                reading = Reading(found=findings.all())
        return Draft(ref, reading, raw)

    def verdict(self, draft: Draft, before: Callable[[], Draft] | None = None) -> Verdict:
        """Judge an object; what was wrong with it ``before`` its change is no reason to refuse the change.

        Otherwise nobody could take a finalizer or a label off an object that is refused already.
        """
        found = self.findings(draft)
        grave = {one for one in found if _refuses(one, draft.ref)}
        if grave and before is not None:
            grave -= self.findings(before())
        return Verdict(tuple(sorted(grave)), tuple(sorted(found - grave)))

    def findings(self, draft: Draft) -> frozenset[Diagnostic]:
        """Shape: what the model would say of the object, and of those that would lose something to it."""
        findings = Findings(draft.reading.found)
        for wish in draft.reading.routes:
            self._route(wish, findings)
        for name in draft.reading.secrets:
            self._server_name(name, findings)
        if draft.ref.kind == "IngressClass":
            self._ingress_class(draft.ref, draft.raw, findings)
        return findings.all()

    def _route(self, wish: RouteWish, findings: Findings) -> None:
        """Say who of this wish and those there are has the match, and whether the winner leads somewhere."""
        others = self._builder.claims(wish.identity)
        first = next((one for one in others if one.ref != wish.ref), None)
        if first is not None and precedes(first) < precedes(wish):
            lose_route(wish, first, findings)
            return
        if first is not None and others[0] is first:
            lose_route(first, wish, findings)
        if wish.upstream is None:
            return
        key = wish.upstream.key
        service = self._store.decoded("Service", key.namespace, key.service)
        assert service is None or isinstance(service, Service | Problem)
        choice = choose(service, key.namespace, key.service, key.port)
        if isinstance(choice, Problem):
            blame(wish, choice, findings)

    def _server_name(self, wish: SecretWish, findings: Findings) -> None:
        others = self._builder.names.claims(wish.name)
        first = next((one for one in others if one.ref != wish.ref), None)
        if first is not None and first.age < wish.age:
            lose_name(wish, first, findings)
            return
        if first is not None and others[0] is first:
            lose_name(first, wish, findings)
        if wish.secret and self._store.get("Secret", wish.ref.namespace, wish.secret) is None:
            miss_secret(wish, findings)

    def _ingress_class(self, ref: ObjectRef, raw: Raw, findings: Findings) -> None:
        among = ResourceStore(
            ResourceEvent(kind, *place)
            for kind in ("IngressClass", "ConfigMap")
            for place in self._store.of_kind(kind)
        )
        among.apply([ResourceEvent("IngressClass", "", ref.name, raw)])
        found = Findings()
        rule = self._builder.class_rule(among, found)
        # A ConfigMap is followed from when a class that is there names it: of another one nothing is known.
        known = rule.parameters <= self._builder.rule.parameters
        findings.update(
            one for one in found.all() if one.object == ref and (known or one.reason != "ParametersNotFound")
        )


def _secret(ref: ObjectRef, decoded: Struct | Problem, findings: Findings) -> None:
    """A certificate is judged by its type; Secrets of other types are other people's."""
    if isinstance(decoded, Secret):
        if decoded.type != "kubernetes.io/tls":
            return
        made = secret_certificate(ref, decoded, ())
        if not isinstance(made, Problem):
            return
        decoded = made
    assert isinstance(decoded, Problem)
    findings.problem(ref, decoded)


def _refuses(one: Diagnostic, ref: ObjectRef) -> bool:
    """Another object that loses something is no reason: it may be the younger one."""
    return (
        one.object == ref
        and one.severity is Severity.ERROR
        and ref.kind not in _ONLY_WARNED
        and reason_of(one.reason).refuses
    )
