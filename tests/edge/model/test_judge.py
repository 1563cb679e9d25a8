"""One object judged beforehand is judged as the model does when it is there; admission's table beside it."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given, settings

from edge.model.build import ModelBuilder, ModelSettings
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.judge import Judge
from edge.model.reasons import REASONS
from edge.model.types import Certificate
from edge.resources.store import ResourceEvent, ResourceStore
from tests.edge.snapshot.test_increments import DEFAULT, EVENTS, LISTENERS, STEPS

assert isinstance(DEFAULT, Certificate)
SETTINGS = ModelSettings(LISTENERS, watch_ingress_without_class=True, default_certificate=DEFAULT, zone="z1")
JUDGED = ("Ingress", "IngressClass", "EdgePolicy")


def world(*events: ResourceEvent) -> tuple[ResourceStore, ModelBuilder, Judge]:
    store, builder = ResourceStore(), ModelBuilder(SETTINGS)
    builder.update(store, store.apply(events))
    return store, builder, Judge(builder, store)


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("EDGE_LONG", "0")) * 5000 or 25, deadline=None)
@given(STEPS, EVENTS.filter(lambda one: one.kind in JUDGED and one.raw is not None))
def test_it_says_beforehand_what_the_model_says_afterwards(
    steps: list[tuple[list[ResourceEvent], set[ObjectRef]]], new: ResourceEvent
) -> None:
    store, builder = ResourceStore(), ModelBuilder(SETTINGS)
    model = builder.update(store, ())
    for events, _ in steps:
        model = builder.update(store, store.apply(events))
    before = set(model.diagnostics)
    ref = ObjectRef(*new.key)
    assert new.raw is not None
    judge = Judge(builder, store)
    said = judge.findings(judge.read(new.key, new.raw))
    assert set(builder.update(store, ()).diagnostics) == before, "it changed something"
    followed = builder.wanted
    afterwards = set(builder.update(store, store.apply([new])).diagnostics)
    if not builder.wanted <= followed:  # what nobody named before is not known to be missing
        afterwards = {one for one in afterwards if one.reason != "ParametersNotFound"}
    assert {one for one in said if one.object == ref} == {one for one in afterwards if one.object == ref}
    # What it says of others is what comes of it for them.
    assert {one for one in said if one.object != ref} <= afterwards


def ingress(name: str, path: str = "/", age: int = 1, **spec: Any) -> ResourceEvent:
    target = {"service": {"name": "s", "port": {"number": 80}}}
    rule = {"host": "a.test", "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": target}]}}
    meta = {"name": name, "creationTimestamp": f"2026-01-0{age}T00:00:00Z"}
    raw = {"metadata": meta, "spec": {"ingressClassName": "edge", "rules": [rule], **spec}}
    return ResourceEvent("Ingress", "default", name, raw)


SERVICE = ResourceEvent(
    "Service", "default", "s", {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
)


def reasons(found: tuple[Diagnostic, ...]) -> list[tuple[str, str]]:
    return [(one.object.name, one.reason) for one in found]


def verdict(judge: Judge, event: ResourceEvent, before: ResourceEvent | None = None) -> tuple[Any, Any]:
    assert event.raw is not None
    draft = judge.read(event.key, event.raw)
    found = (
        judge.verdict(draft, lambda: judge.read(before.key, before.raw or {}))
        if before
        else judge.verdict(draft)
    )
    return reasons(found.refused), reasons(found.warned)


def test_the_younger_one_is_refused_and_the_older_one_hears_who_loses() -> None:
    _, _, judge = world(SERVICE, ingress("b", age=5))
    assert verdict(judge, ingress("c", age=6)) == ([("c", "Conflict")], [])
    assert verdict(judge, ingress("a", age=4)) == ([], [("b", "Conflict")])
    assert verdict(judge, ingress("b", "/", age=5)) == ([], []), "with itself nobody is in conflict"


def test_what_may_come_later_is_a_warning() -> None:
    _, _, judge = world()
    new = ingress("a", tls=[{"hosts": ["a.test"], "secretName": "no"}])
    assert verdict(judge, new) == ([], [("a", "ServiceNotFound"), ("a", "SecretNotFound")])


def test_another_class_is_not_looked_at() -> None:
    _, _, judge = world()
    assert verdict(judge, ingress("a", "no path", ingressClassName="other")) == ([], [])


def test_who_was_wrong_already_may_still_be_changed() -> None:
    _, _, judge = world(SERVICE)
    old, new = ingress("a", "no path"), ingress("a", "no path", tls=[{"hosts": ["no host"]}])
    assert verdict(judge, old, old) == ([], [("a", "InvalidPath")])
    assert verdict(judge, new, old) == ([("a", "InvalidHost")], [("a", "InvalidPath")])
    of_another = ingress("a", "no path", ingressClassName="other")
    assert verdict(judge, old, of_another) == ([("a", "InvalidPath")], [])


def test_a_secret_is_warned_about_and_never_refused() -> None:
    _, _, judge = world()
    raw = {"metadata": {"name": "t"}, "type": "kubernetes.io/tls", "data": {"tls.crt": "?", "tls.key": "?"}}
    assert verdict(judge, ResourceEvent("Secret", "default", "t", raw)) == ([], [("t", "InvalidBase64")])
    assert verdict(judge, ResourceEvent("Secret", "default", "t", raw | {"type": "x"})) == ([], [])


def test_a_policy_with_one_bad_entry_is_refused() -> None:
    _, _, judge = world()
    raw = {"metadata": {"name": "p"}, "spec": {"deny": ["198.51.100.0/24", "x"]}}
    assert verdict(judge, ResourceEvent("EdgePolicy", "", "p", raw)) == ([("p", "InvalidNetwork")], [])


def test_a_class_of_ours_that_this_instance_does_not_serve_is_a_warning() -> None:
    _, _, judge = world()
    raw = {"metadata": {"name": "x"}, "spec": {"controller": "xdp-edge.dev/ingress-controller"}}
    assert verdict(judge, ResourceEvent("IngressClass", "", "x", raw)) == ([], [("x", "OtherClass")])


def test_only_errors_of_other_objects_may_come_later() -> None:
    later = {code for code, one in REASONS.items() if one.later}
    assert {"ServiceNotFound", "SecretNotFound"} <= later
    assert not {"Conflict", "InvalidHost", "UnsupportedGuard", "InvalidNetwork"} & later
    assert all(not REASONS[code].refuses for code in later)
