"""Raw objects to Model: the whole judgement in one pure call.

Called by the controller's loop for each batch, by `edge check` and by `edge explain`. Never does
I/O and reads no clock: the same store and settings give the same Model, in any order of arrival.

    model = build_model(store, settings, source.diagnostics)          # everything that can be served
    model = build_model(store, settings, source.diagnostics, refused) # without what C or BPF refused

``refused`` are error Diagnostics: the objects that they name are left out, the rest is served, and
they are in ``model.diagnostics``. Listeners come from `listeners_of(options)`: --http in order, then
--https; EdgePolicy's trustedProxies are added here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address

from edge.model.certificates import secret_certificate
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.edgepolicy import policies as read_policies
from edge.model.endpoints import Services
from edge.model.findings import Findings
from edge.model.ingress import Taken, take_ingresses
from edge.model.ingress_class import class_rule
from edge.model.names import covers
from edge.model.precedence import order
from edge.model.types import (
    Certificate,
    Endpoint,
    Listener,
    Model,
    Network,
    Policy,
    Route,
    Transport,
    UpstreamKey,
)
from edge.options import Options, parse_address
from edge.resources.kinds import Problem, Secret
from edge.resources.store import ResourceStore


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the options say about the model. ``default_certificate``: see `certificates.given_certificate`."""

    listeners: tuple[Listener, ...] = ()
    ingress_class: str = "edge"
    watch_ingress_without_class: bool = False
    default_certificate: Certificate | None = None


def listeners_of(options: Options) -> tuple[Listener, ...]:
    """Shape: --http in order, then --https: the place is the slot."""
    result = []
    for name, texts, transport in (
        ("--http", options.http, Transport.PLAIN),
        ("--https", options.https, Transport.TLS),
    ):
        for text in texts:
            host, port = parse_address(text, name)
            result.append(Listener(ip_address(host), port, transport))
    return tuple(result)


def build_model(
    store: ResourceStore,
    settings: ModelSettings,
    source_diagnostics: Iterable[Diagnostic] = (),
    refused: Iterable[Diagnostic] = (),
) -> Model:
    """Link and judge all objects of the store."""
    findings = Findings()
    for diagnostic in source_diagnostics:
        findings.take(diagnostic)
    left_out = set()
    for diagnostic in refused:
        findings.take(diagnostic)
        left_out.add(diagnostic.object)

    rule = class_rule(store, settings.ingress_class, settings.watch_ingress_without_class, findings)
    taken = take_ingresses(store, rule, left_out, findings)
    endpoints = _endpoints(store, taken, left_out, findings)
    certificates = _certificates(store, taken, left_out, findings)
    policies = tuple(policy for policy in read_policies(store, findings) if policy.object not in left_out)

    default = settings.default_certificate
    secured = {name for certificate in certificates for name in certificate.names}
    if default is not None:
        secured |= {name for name, (_, _, secret) in taken.secrets.items() if not secret}
        certificates = (default, *certificates)
    tls_served = any(listener.transport is Transport.TLS for listener in settings.listeners)
    routes = _routes(taken, secured if tls_served else set())
    return Model(
        listeners=_listeners(settings.listeners, policies),
        routes=routes,
        upstreams=tuple(upstream for _, upstream in sorted(taken.upstreams.items())),
        endpoints=endpoints,
        certificates=certificates,
        policies=policies,
        diagnostics=findings.sorted(),
    )


def _routes(taken: Taken, secured: set[str]) -> tuple[Route, ...]:
    """Routes by precedence; those of a host with a usable certificate send plain requests to https."""
    result = []
    for wish in taken.routes.values():
        host = wish.route.host
        if (
            wish.redirect
            and host
            and any(covers(name, host) for name in (host, "." + host.partition(".")[2]) if name in secured)
        ):
            result.append(replace(wish.route, redirect_https=True))
        else:
            result.append(wish.route)
    return tuple(sorted(result, key=order))


def _endpoints(
    store: ResourceStore, taken: Taken, left_out: set[ObjectRef], findings: Findings
) -> dict[UpstreamKey, tuple[Endpoint, ...]]:
    """Endpoints of every upstream; what names none is kept with an empty list and answers 503."""
    services = Services(store, findings)
    chosen = {key: services.choose(key.namespace, key.service, key.port) for key in sorted(taken.upstreams)}
    result: dict[UpstreamKey, tuple[Endpoint, ...]] = {}
    for key, choice in chosen.items():
        refused = ObjectRef("Service", key.namespace, key.service) in left_out
        if refused or isinstance(choice, Problem):
            result[key] = ()
        else:
            result[key] = services.endpoints(key.namespace, key.service, choice)
    for wish in taken.routes.values():
        choice = chosen[wish.route.references[0][0]]
        if isinstance(choice, Problem):
            findings.error(wish.ref, f"{wish.where}.{choice.field}", choice.reason, choice.message)
    return result


def _certificates(
    store: ResourceStore, taken: Taken, left_out: set[ObjectRef], findings: Findings
) -> tuple[Certificate, ...]:
    """One certificate for each Secret that a tls section names, with the names that it is for."""
    secrets = {(namespace, name): decoded for namespace, name, decoded in store.typed("Secret")}
    names: dict[tuple[str, str], list[str]] = {}
    for server_name, (ref, where, secret) in sorted(taken.secrets.items()):
        if not secret:
            continue  # the default certificate
        place = (ref.namespace, secret)
        if place in secrets:
            names.setdefault(place, []).append(server_name)
        else:
            message = f"there is no Secret {ref.namespace}/{secret[:253]}; the default certificate is served"
            findings.error(ref, where, "SecretNotFound", message)
    result = []
    for (namespace, name), server_names in sorted(names.items()):
        secret_ref = ObjectRef("Secret", namespace, name)
        decoded = secrets[namespace, name]
        if secret_ref in left_out:
            continue
        if isinstance(decoded, Problem):
            findings.problem(secret_ref, decoded)
            continue
        assert isinstance(decoded, Secret)
        certificate = secret_certificate(secret_ref, decoded, tuple(server_names))
        if isinstance(certificate, Problem):
            findings.problem(secret_ref, certificate)
        else:
            result.append(certificate)
    return tuple(result)


def _listeners(listeners: tuple[Listener, ...], policies: tuple[Policy, ...]) -> tuple[Listener, ...]:
    """Listeners with the trusted proxies of all policies."""
    networks: set[Network] = set()
    for policy in policies:
        networks.update(policy.trusted_proxies)
    trusted = tuple(sorted(networks, key=lambda net: (net.version, int(net.network_address), net.prefixlen)))
    return tuple(replace(listener, trusted_proxies=trusted) for listener in listeners)
