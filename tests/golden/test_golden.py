"""Golden cases: NAME/in.yaml (objects) → NAME/out.yaml (what is served, and every Diagnostic).

A new case is a new folder with an in.yaml; `make golden` writes the out.yaml files and git diff
judges. NAME/settings.yaml, where it stands, changes the settings. NAME/requests.yaml says, written by hand,
which upstream takes a request ("METHOD URL": "namespace/service:port", 308, 404 or 503): the workers' matcher
is asked. The way is the product's own: a folder is read as a source, and the model is built in three orders
of arrival, once all at once and once object by object.
"""

from __future__ import annotations

import os
import shutil
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge.dataplane.explain import explain
from edge.model.build import ModelBuilder, ModelSettings, build_model
from edge.model.certificates import given_certificate
from edge.model.diagnostics import Diagnostic
from edge.model.types import Certificate, EndpointState, Listener, Model, Route, Transport, Upstream
from edge.resources.kinds import RESOLVED_NAME
from edge.resources.store import ResourceEvent, ResourceStore
from edge.snapshot.compile import compile_snapshot
from edge.snapshot.slots import SlotTables
from edge.snapshot.types import Snapshot
from edge.sources.files import FileSource
from tests.edge.native import oracle

HERE = Path(__file__).parent
CASES = sorted(path.parent for path in HERE.glob("*/in.yaml"))
PLAIN = Listener(IPv4Address("0.0.0.0"), 80, Transport.PLAIN)
TLS = Listener(IPv4Address("0.0.0.0"), 443, Transport.TLS)


def settings_of(case: Path) -> ModelSettings:
    path = case / "settings.yaml"
    given = yaml.safe_load(path.read_text()) if path.exists() else {}
    default = None
    if given.get("https"):
        default = given_certificate(
            b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
            b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
        )
        assert isinstance(default, Certificate)
    return ModelSettings(
        listeners=(PLAIN, TLS) if given.get("https") else (PLAIN,),
        ingress_class=given.get("ingressClass", "edge"),
        watch_ingress_without_class=given.get("withoutClass", False),
        default_certificate=default,
        zone=given.get("zone", ""),
        default_backend=given.get("defaultBackend", ""),
        external_allowed=tuple(ip_network(text) for text in given.get("externalAllowed", ())),
    )


def read(case: Path, folder: Path) -> tuple[list[ResourceEvent], tuple[Diagnostic, ...]]:
    """The objects of a case, and what the source has to say; names.yaml is what the resolver said."""
    shutil.copy(case / "in.yaml", folder / "in.yaml")
    source = FileSource(folder)
    events = source.load()
    source.close()
    names = case / "names.yaml"
    for host, said in (yaml.safe_load(names.read_text()) if names.exists() else {}).items():
        events.append(ResourceEvent(RESOLVED_NAME, "", host, said))
    return events, source.diagnostics


def shown_route(route: Route) -> dict[str, Any]:
    host = "*" + route.host if route.host.startswith(".") else route.host or "*"
    shown: dict[str, Any] = {
        "match": f"{host} {route.key.path_type} {route.path}",
        "from": f"{route.key.namespace}/{route.key.name}[{route.rule_index}][{route.path_index}]",
        "to": [
            f"{key.namespace}/{key.service}:{key.port}{'#' if key.policy else ''}"
            for key, _ in route.references
        ],
    }
    if route.path_written != route.path:
        shown["written"] = route.path_written
    if route.filters:
        shown["delay_ms"] = [filter_.milliseconds for filter_ in route.filters]
    if route.redirect_https:
        shown["redirect_https"] = True
    if route.body_bytes_max != 1 << 20:
        shown["body_bytes_max"] = route.body_bytes_max
    return shown


def shown_upstream(model: Model, upstream: Upstream) -> dict[str, Any]:
    key = upstream.key
    shown: dict[str, Any] = {"name": f"{key.namespace}/{key.service}:{key.port}{'#' if key.policy else ''}"}
    times = {"connect_ms": 5_000, "read_ms": 60_000, "send_ms": 60_000}
    shown |= {
        name: getattr(upstream, name) for name, usual in times.items() if getattr(upstream, name) != usual
    }
    shown["endpoints"] = [
        " ".join(filter(None, (str(one.address), str(one.port), one.state.name.lower(), one.zone)))
        for one in model.endpoints[key]
    ]
    return shown


def shown_model(model: Model) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "routes": [shown_route(route) for route in model.routes],
        "upstreams": [shown_upstream(model, upstream) for upstream in model.upstreams],
    }
    if model.certificates:
        shown["certificates"] = [
            f"{one.object} for {', '.join((*one.names, *(['all others'] if one.is_default else [])))}"
            for one in model.certificates
        ]
    if model.policies:
        shown["policies"] = [
            {
                "object": str(one.object),
                "scope": one.scope,
                "deny": [str(net) for net in one.deny],
                "allow": [str(net) for net in one.allow],
                "per_source": str(one.per_source),
                "dead_man": f"{one.dead_man_s} s, {'pass' if one.dead_man_pass else 'drop'}",
                "trusted_proxies": [str(net) for net in one.trusted_proxies],
            }
            for one in model.policies
        ]
        shown["trusted"] = [str(net) for net in model.listeners[0].trusted_proxies]
    shown["diagnostics"] = [
        f"{one.severity} {one.object} {one.field or '-'}: {one.reason}: {one.message}"
        for one in model.diagnostics
    ]
    return shown


def test_cases_were_found() -> None:
    assert len(CASES) >= 25


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_golden(case: Path, tmp_path: Path) -> None:
    events, diagnostics = read(case, tmp_path)
    settings = settings_of(case)
    model = build_model(ResourceStore(events), settings, diagnostics)
    out = case / "out.yaml"
    text = yaml.safe_dump(shown_model(model), sort_keys=False, width=1000, allow_unicode=True)
    if os.environ.get("EDGE_GOLDEN") == "write":
        out.write_text(text)
    assert text == out.read_text()

    in_steps = ModelBuilder(settings)
    store = ResourceStore()
    for event in events:
        grown = in_steps.update(store, store.apply([event]), diagnostics)
    if events:
        assert grown == model
    again = build_model(ResourceStore(reversed(events)), settings, diagnostics)
    assert again == model
    one, other = (compile_snapshot(built, SlotTables(), 1) for built in (model, again))
    assert (one.routes_digest, one.endpoints_digest) == (other.routes_digest, other.endpoints_digest)


@pytest.mark.parametrize(
    "case", [case for case in CASES if (case / "requests.yaml").exists()], ids=lambda path: path.name
)
def test_requests(case: Path, tmp_path: Path) -> None:
    store = ResourceStore(read(case, tmp_path)[0])
    snapshot = compile_snapshot(build_model(store, settings_of(case)), SlotTables(), 1)
    wanted = yaml.safe_load((case / "requests.yaml").read_text())
    assert {request: answer(snapshot, request) for request in wanted} == {
        request: str(text) for request, text in wanted.items()
    }


def answer(snapshot: Snapshot, request: str) -> str:
    """What a request gets, as requests.yaml writes it."""
    scheme, _, rest = request.partition(" ")[2].partition("://")
    authority, slash, target = rest.partition("/")
    path = slash + target.partition("?")[0]
    found = explain(snapshot, 1 if scheme == "https" else 0, authority, path)
    plain = oracle.ingress_winner((placed.route for placed in snapshot.routes), authority, path)
    assert plain == (found.winner.route if found.winner else None), "the plain matcher finds another route"
    if found.winner is None:
        return "404"
    route = found.winner.route
    if route.redirect_https and scheme == "http":
        return "308"
    for key, _ in route.references:
        if any(one.state is EndpointState.READY for one in snapshot.upstreams[key].endpoints):
            return f"{key.namespace}/{key.service}:{key.port}"
    return "503"
