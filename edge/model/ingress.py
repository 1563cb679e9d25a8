"""One Ingress to the routes, upstreams and certificates that it asks for, by itself.

Called by build.py for each Ingress that is new or changed; pure, so that what it returns can be kept. Who
gets what of several Ingresses that ask for the same is build.py's to say.
Source: networking.k8s.io/v1 Ingress; ingress-nginx where the API leaves it open.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

from edge.model import annotations as notes
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.findings import Findings
from edge.model.names import covers, host_of, path_of, path_problem
from edge.model.precedence import DEFAULT, STRING_PREFIX
from edge.model.types import PathType, Route, RouteKey, Upstream, UpstreamKey
from edge.resources.kinds import Ingress, IngressPath, IngressSpec, IngressTarget, Problem, shown

Age = tuple[float, str, str]
Identity = tuple[str, str, str]  # host, type as a word, path: what two objects cannot both have

_WORDS = {"Exact": "Exact", "Prefix": "Prefix", "ImplementationSpecific": "Prefix"}
_SOLVER_PATH = "/.well-known/acme-challenge/"
OPTION = "Option"  # kind of what an option wants, which is no object


@dataclass(frozen=True, slots=True)
class RouteWish:
    """A route as an Ingress asks for it. ``where``: its field; ``target``: field of the Service reference.

    ``upstream`` None: what it names cannot be served, and the route answers 503. ``redirect``: to https
    where there is a certificate; ``forced``: to https in any case.
    """

    route: Route
    age: Age
    ref: ObjectRef
    where: str
    target: str
    upstream: Upstream | None
    redirect: bool
    forced: bool

    @property
    def identity(self) -> Identity:
        """What no other route may have."""
        return (self.route.host, self.route.key.path_type, self.route.path)


@dataclass(frozen=True, slots=True)
class SecretWish:
    """A server name and the Secret for it; ``secret`` "": the default certificate."""

    name: str
    secret: str
    age: Age
    ref: ObjectRef
    where: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What one Ingress asks for, and what is wrong with it by itself."""

    routes: tuple[RouteWish, ...] = ()
    secrets: tuple[SecretWish, ...] = ()
    found: frozenset[Diagnostic] = frozenset()


def precedes(wish: RouteWish) -> tuple[bool, Age]:
    """Sorting key of those that want the same match: what can be served first, then the oldest."""
    return (wish.upstream is None, wish.age)


def lose_route(loser: RouteWish, winner: RouteWish, findings: Findings) -> None:
    """Say to a wish that another object has its match, unless it was only for want of one."""
    if loser.ref.kind == OPTION:
        return
    host, word, path = loser.identity
    message = f"{_shown_host(host)} {word} {path} is served by {winner.ref}"
    findings.error(loser.ref, loser.where, "Conflict", message)


def _shown_host(host: str) -> str:
    return ("*" + host if host.startswith(".") else host) or "any host"


def read_ingress(ingress: Ingress | Problem, ref: ObjectRef, usual: notes.Wishes = notes.USUAL) -> Reading:
    """Read one Ingress. ``usual``: what holds where its annotations say nothing."""
    findings = Findings()
    if isinstance(ingress, Problem):
        findings.problem(ref, ingress)
        return Reading(found=findings.all())
    reader = _Reader(ingress, ref, findings, usual)
    reader.read()
    return Reading(tuple(reader.routes.values()), tuple(reader.secrets.values()), findings.all())


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
    """Reads one Ingress."""

    def __init__(self, ingress: Ingress, ref: ObjectRef, findings: Findings, usual: notes.Wishes) -> None:
        self.spec = ingress.spec or IngressSpec()
        self.annotations = ingress.metadata.annotations or {}
        self.ref = ref
        self.findings = findings
        self.usual = usual
        self.age = (_created(ingress, ref, findings), ref.namespace, ref.name)
        self.routes: dict[Identity, RouteWish] = {}
        self.secrets: dict[str, SecretWish] = {}

    def read(self) -> None:
        wishes = notes.read(self.annotations, self.ref, self.findings, self.usual)
        if wishes is None:
            return
        self.wishes = wishes
        self.policy, self.times = _policy(wishes)
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
                where = "spec.defaultBackend"
                self._route(host, "/", "/", DEFAULT, spec.default_backend, (0, 0), where, where)
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
        word = _WORDS.get(path.path_type or "")
        if word is None:
            reason = "InvalidValue" if path.path_type else "Required"
            message = f"{shown(path.path_type or '')} is none of {', '.join(_WORDS)}"
            self.findings.error(self.ref, f"{where}.pathType", reason, message)
            return
        if path.path_type == "ImplementationSpecific":
            written = written or "/"
            if self.wishes.string_prefix:
                word = STRING_PREFIX
        problem = path_problem(written)
        if problem:
            self.findings.error(self.ref, f"{where}.path", "InvalidPath", f"{shown(written)} {problem}")
            return
        normal = path_of(written) if word == "Prefix" else written
        self._route(host, normal, written, word, path.backend, (index, place), where, f"{where}.backend")

    def _route(
        self,
        host: str,
        path: str,
        written: str,
        word: str,
        target: IngressTarget,
        place: tuple[int, int],
        where: str,
        backend: str,
    ) -> None:
        if (host, word, path) in self.routes:
            message = f"{_shown_host(host)} {word} {path} stands twice; the first is served"
            self.findings.error(self.ref, where, "Conflict", message)
            return
        upstream = self._upstream(target, backend)
        key = RouteKey("Ingress", self.ref.namespace, self.ref.name, host, word, sys.intern(path))
        wishes = self.wishes
        route = Route(
            key=key,
            host=host,
            path=path,
            path_type={"Exact": PathType.EXACT, STRING_PREFIX: PathType.STRING_PREFIX}.get(
                word, PathType.PREFIX
            ),
            references=((upstream.key, 1),) if upstream else (),
            filters=wishes.filters,
            redirect_https=wishes.force_redirect,
            body_bytes_max=wishes.body_bytes_max,
            path_written=written,
            service=sys.intern(f"{upstream.key.service}:{upstream.key.port}") if upstream else "",
            rule_index=place[0],
            path_index=place[1],
        )
        solver = path.startswith(_SOLVER_PATH)  # asked over plain HTTP before there is a certificate
        redirect = wishes.redirect_https and not solver
        self.routes[host, word, path] = RouteWish(
            route,
            self.age,
            self.ref,
            sys.intern(where),
            sys.intern(f"{backend}.service"),
            upstream,
            redirect,
            wishes.force_redirect and not solver,
        )

    def _upstream(self, target: IngressTarget, where: str) -> Upstream | None:
        """Find what a route leads to; None: it answers 503, rather than falling to a shorter path."""
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
        return Upstream(UpstreamKey(self.ref.namespace, service.name, word, self.policy), **self.times)

    def _tls(self, rule_hosts: list[str]) -> None:
        for index, section in enumerate(self.spec.tls or ()):
            where = f"spec.tls[{index}]"
            names = []
            for place, written in enumerate(section.hosts or ()):
                host = self._host(written, f"{where}.hosts[{place}]")
                if not host:
                    continue
                names.append(host)
                if rule_hosts != [""] and not any(covers(host, rule) for rule in rule_hosts):
                    message = f"{shown(written)} is the host of no rule of this Ingress"
                    self.findings.warning(self.ref, f"{where}.hosts[{place}]", "UnusedTlsHost", message)
            if not section.hosts:
                names = [host for host in rule_hosts if host]
            for name in names:
                other = self.secrets.get(name)
                secret = section.secret_name or ""
                if other is None:
                    self.secrets[name] = SecretWish(name, secret, self.age, self.ref, where)
                elif other.secret != secret:
                    message = f"{name} has its certificate from {other.where} already"
                    self.findings.error(self.ref, where, "Conflict", message)


def _policy(wishes: notes.Wishes) -> tuple[str, dict[str, int]]:
    """Shape: the digest that tells two policies of a Service apart, and the times other than the default."""
    times = {
        name: value
        for name in ("connect_ms", "read_ms", "send_ms")
        if (value := getattr(wishes, name)) is not None
    }
    text = ",".join(f"{name}={value}" for name, value in sorted(times.items()))
    return (hashlib.sha256(text.encode()).hexdigest()[:16] if times else ""), times
