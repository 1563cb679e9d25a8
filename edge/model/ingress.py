"""Ingress objects to routes, upstreams and certificate wishes.

Called by build.py. Ingresses are taken oldest first (creation time; those without one after them, by
namespace and name), and what is taken stays: of two rules for the same host, path and type, or of two
secrets for one server name, the later object loses and gets the Diagnostic.
Source: networking.k8s.io/v1 Ingress; ingress-nginx where the API leaves it open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from edge.model import annotations as notes
from edge.model.diagnostics import ObjectRef
from edge.model.findings import Findings
from edge.model.ingress_class import ClassRule
from edge.model.names import host_of, path_of, path_problem
from edge.model.precedence import DEFAULT
from edge.model.types import PathType, Route, RouteKey, Upstream, UpstreamKey
from edge.resources.kinds import Ingress, IngressPath, IngressSpec, IngressTarget, Problem, shown
from edge.resources.store import ResourceStore

_PATH_TYPES = {
    "Exact": PathType.EXACT,
    "Prefix": PathType.PREFIX,
    # Up to the class; ingress-nginx takes it as a prefix unless use-regex says otherwise.
    "ImplementationSpecific": PathType.PREFIX,
}


@dataclass(frozen=True, slots=True)
class RouteWish:
    """A route as an Ingress asks for it. ``where``: field of the Service reference in the object."""

    route: Route
    ref: ObjectRef
    where: str
    redirect: bool


@dataclass(slots=True)
class Taken:
    """What the Ingresses of the store add up to; ``secrets``: server name → (Ingress, field, Secret)."""

    routes: dict[tuple[str, str, str], RouteWish] = field(default_factory=dict)
    upstreams: dict[UpstreamKey, Upstream] = field(default_factory=dict)
    secrets: dict[str, tuple[ObjectRef, str, str]] = field(default_factory=dict)


def take_ingresses(
    store: ResourceStore, rule: ClassRule, refused: Iterable[ObjectRef], findings: Findings
) -> Taken:
    """Read all Ingresses that are ours, oldest first."""
    left_out = set(refused)
    ours: list[tuple[tuple[float, str, str], Ingress, ObjectRef]] = []
    for namespace, name, decoded in store.typed("Ingress"):
        ref = ObjectRef("Ingress", namespace, name)
        if isinstance(decoded, Problem):
            findings.problem(ref, decoded)
            continue
        assert isinstance(decoded, Ingress)
        if ref not in left_out and rule.serves(decoded):
            ours.append(((_created(decoded, ref, findings), namespace, name), decoded, ref))
    taken = Taken()
    for _, ingress, ref in sorted(ours, key=lambda entry: entry[0]):
        _Reader(ingress, ref, taken, findings).read()
    return taken


def _created(ingress: Ingress, ref: ObjectRef, findings: Findings) -> float:
    """Units: Unix seconds; infinity without a creation time, so that files come after real objects."""
    text = ingress.metadata.creation_timestamp
    if text is None:
        return float("inf")
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        message = f"{shown(text)} is no time; the object counts as the youngest"
        findings.warning(ref, "metadata.creationTimestamp", "InvalidTime", message)
        return float("inf")


class _Reader:
    """Reads one Ingress into what is taken already."""

    def __init__(self, ingress: Ingress, ref: ObjectRef, taken: Taken, findings: Findings) -> None:
        self.spec = ingress.spec or IngressSpec()
        self.annotations = ingress.metadata.annotations or {}
        self.ref = ref
        self.taken = taken
        self.findings = findings

    def read(self) -> None:
        wishes = notes.read(self.annotations, self.ref, self.findings)
        if wishes is None:
            return
        self.wishes = wishes
        spec = self.spec
        if not spec.rules and spec.default_backend is None:
            self.findings.error(self.ref, "spec", "Empty", "has neither rules nor a default backend")
        hosts: list[str] = []
        for index, rule in enumerate(spec.rules or ()):
            where = f"spec.rules[{index}]"
            host = self._host(rule.host, f"{where}.host")
            if host is None:
                continue
            if host not in hosts:
                hosts.append(host)
            if rule.http is None or not rule.http.paths:
                if spec.default_backend is None:
                    message = "has no paths, and the Ingress has no default backend"
                    self.findings.error(self.ref, f"{where}.http.paths", "Empty", message)
                continue
            for place, path in enumerate(rule.http.paths):
                self._path(host, path, index, place, f"{where}.http.paths[{place}]")
        if spec.default_backend is not None:
            # Without rules it takes what nobody else takes; with rules, the rest of their hosts.
            for host in [""] if not spec.rules else hosts:
                self._route(host, "/", "/", DEFAULT, spec.default_backend, 0, 0, "spec.defaultBackend")
        self._tls(hosts)

    def _host(self, written: str | None, where: str) -> str | None:
        if not written:
            return ""
        host = host_of(written)
        if host is None:
            message = f"{shown(written)} is no host name (a DNS name, or '*.' and one)"
            self.findings.error(self.ref, where, "InvalidHost", message)
        return host

    def _path(self, host: str, path: IngressPath, index: int, place: int, where: str) -> None:
        written = path.path or ""
        path_type = _PATH_TYPES.get(path.path_type or "")
        if path_type is None:
            reason = "InvalidValue" if path.path_type else "Required"
            message = f"{shown(path.path_type or '')} is none of {', '.join(_PATH_TYPES)}"
            self.findings.error(self.ref, f"{where}.pathType", reason, message)
            return
        if not written and path.path_type == "ImplementationSpecific":
            written = "/"
        problem = path_problem(written)
        if problem:
            self.findings.error(self.ref, f"{where}.path", "InvalidPath", f"{shown(written)} {problem}")
            return
        type_word = "Exact" if path_type is PathType.EXACT else "Prefix"
        self._route(
            host,
            path_of(written, path_type),
            written,
            type_word,
            path.backend,
            index,
            place,
            f"{where}.backend",
        )

    def _route(
        self,
        host: str,
        path: str,
        written: str,
        type_word: str,
        target: IngressTarget,
        index: int,
        place: int,
        where: str,
    ) -> None:
        identity = (host, type_word, path)
        other = self.taken.routes.get(identity)
        if other is not None:
            shown_host = ("*" + host if host.startswith(".") else host) or "any host"
            message = f"{shown_host} {type_word} {path} is served by {other.ref}"
            if other.ref == self.ref:
                message = f"{shown_host} {type_word} {path} stands twice; the first is served"
            if (type_word, where) != (DEFAULT, "spec.defaultBackend") or other.ref != self.ref:
                self.findings.error(self.ref, where.removesuffix(".backend"), "Conflict", message)
            return
        upstream = self._upstream(target, where)
        if upstream is None:
            return
        key = RouteKey("Ingress", self.ref.namespace, self.ref.name, host, type_word, path)
        route = Route(
            key=key,
            host=host,
            path=path,
            path_type=PathType.EXACT if type_word == "Exact" else PathType.PREFIX,
            references=((upstream.key, 1),),
            filters=self.wishes.filters,
            body_bytes_max=self.wishes.body_bytes_max,
            path_written=written,
            service=f"{upstream.key.service}:{upstream.key.port}",
            rule_index=index,
            path_index=place,
        )
        self.taken.upstreams[upstream.key] = upstream
        self.taken.routes[identity] = RouteWish(
            route, self.ref, f"{where}.service", self.wishes.redirect_https
        )

    def _upstream(self, target: IngressTarget, where: str) -> Upstream | None:
        service = target.service
        if target.resource is not None:
            both = service is not None
            message = (
                "a resource and a Service exclude each other" if both else "resource backends are not served"
            )
            self.findings.error(self.ref, f"{where}.resource", "UnsupportedBackend", message)
            return None
        if service is None:
            self.findings.error(self.ref, f"{where}.service", "Required", "the Service is missing")
            return None
        port = service.port
        if port is None or (not port.name and port.number is None):
            self.findings.error(self.ref, f"{where}.service.port", "Required", "name or number is missing")
            return None
        if port.name and port.number is not None:
            message = "exactly one of name and number may be set"
            self.findings.error(self.ref, f"{where}.service.port", "InvalidValue", message)
            return None
        if port.number is not None and not 0 < port.number < 65536:
            message = f"{shown(port.number)} is no port"
            self.findings.error(self.ref, f"{where}.service.port.number", "OutOfRange", message)
            return None
        word = port.name or str(port.number)
        if len(service.name) > 253 or len(word) > 63 or not (service.name + word).isprintable():
            message = f"{shown(service.name)} {shown(word)} names no Service port"
            self.findings.error(self.ref, f"{where}.service.name", "InvalidName", message)
            return None
        wishes = self.wishes
        policy, values = "", {}
        for name in ("connect_ms", "read_ms", "send_ms"):
            value = getattr(wishes, name)
            if value is not None:
                values[name] = value
        if values:
            text = ",".join(f"{name}={value}" for name, value in sorted(values.items()))
            policy = hashlib.sha256(text.encode()).hexdigest()[:16]
        return Upstream(UpstreamKey(self.ref.namespace, service.name, word, policy), **values)

    def _tls(self, rule_hosts: list[str]) -> None:
        for index, section in enumerate(self.spec.tls or ()):
            where = f"spec.tls[{index}]"
            names = []
            for place, written in enumerate(section.hosts or ()):
                host = self._host(written, f"{where}.hosts[{place}]")
                if host:
                    names.append(host)
            if not section.hosts:
                names = [host for host in rule_hosts if host]
            for name in names:
                other = self.taken.secrets.get(name)
                wish = (self.ref, f"{where}.secretName", section.secret_name or "")
                if other is None:
                    self.taken.secrets[name] = wish
                elif (other[0].namespace, other[2]) != (self.ref.namespace, wish[2]):
                    message = f"{name} has its certificate from {other[0]}"
                    self.findings.error(self.ref, where, "Conflict", message)
