"""The whole judgement: refusals from outside, foreign diagnostics, any JSON at all."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edge.model.build import ModelSettings, build_model, listeners_of
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.types import Transport
from edge.options import Options
from edge.resources.store import ResourceEvent, ResourceStore


def ingress(name: str) -> ResourceEvent:
    target = {"service": {"name": "s", "port": {"number": 80}}}
    path = {"path": f"/{name}", "pathType": "Prefix", "backend": target}
    raw = {"metadata": {"name": name}, "spec": {"rules": [{"host": "a.test", "http": {"paths": [path]}}]}}
    return ResourceEvent("Ingress", "default", name, raw)


SETTINGS = ModelSettings(watch_ingress_without_class=True)


def test_refused_objects_are_left_out_and_named() -> None:
    store = ResourceStore([ingress("a"), ingress("b")])
    refused = Diagnostic(ObjectRef("Ingress", "default", "a"), "path", "Refused", "by the data plane")
    foreign = Diagnostic(ObjectRef("File", "", "x.yaml"), "", "Unreadable", "is no YAML")
    model = build_model(store, SETTINGS, [foreign], [refused])
    assert [route.key.name for route in model.routes] == ["b"]
    assert {refused, foreign} <= set(model.diagnostics)


def test_listeners_stand_in_the_order_of_the_options() -> None:
    found = listeners_of(Options(https=("[::1]:443",), http=("127.0.0.1:80", "127.0.0.1:81")))
    assert [(one.address, one.port, one.transport) for one in found] == [
        (ip_address("127.0.0.1"), 80, Transport.PLAIN),
        (ip_address("127.0.0.1"), 81, Transport.PLAIN),
        (ip_address("::1"), 443, Transport.TLS),
    ]


WORDS = st.sampled_from(
    ["a.test", "*.a.test", "/", "/x", "Prefix", "Exact", "s", "", "\0", "x" * 400, "edge"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            [
                "host",
                "http",
                "paths",
                "path",
                "pathType",
                "backend",
                "service",
                "name",
                "port",
                "number",
                "rules",
                "tls",
                "hosts",
                "secretName",
                "defaultBackend",
                "resource",
                "ingressClassName",
            ]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=30,
)


@settings(deadline=None, max_examples=30)
@given(JSON, JSON, st.sampled_from(["Ingress", "Service", "EndpointSlice", "Secret", "EdgePolicy"]))
def test_any_object_beside_a_good_one(spec: Any, more: Any, kind: str) -> None:
    poison = {"metadata": {"name": "z", "annotations": more}, "spec": spec, "data": more, "ports": more}
    events = [ingress("good"), ResourceEvent(kind, "default", "z", poison)]
    model = build_model(ResourceStore(events), SETTINGS)
    assert any(route.key.name == "good" for route in model.routes)
