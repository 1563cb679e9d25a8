"""What an IngressClass names in spec.parameters: over the controller's settings, read again when it changes.

Each reference that cannot be followed stands in tests/golden/class-parameters-refused.
"""

from __future__ import annotations

from typing import Any

import pytest

from edge.model import build
from edge.model.annotations import Wishes
from edge.model.build import ModelBuilder, ModelSettings
from edge.model.judge import Judge
from edge.model.types import Model
from edge.options import CONTROLLER_CLASS
from edge.resources.store import ResourceEvent, ResourceStore
from tests.e2e.objects import endpoints, ingress, service

KEY = ("ConfigMap", "settings", "large")
SETTINGS = ModelSettings(ingress_class="edge,large", usual=Wishes(body_bytes_max=5, read_ms=9_000))


def event(raw: dict[str, Any]) -> ResourceEvent:
    return ResourceEvent(raw["kind"], "default", raw["metadata"]["name"], raw)


def parameters(name: str = "large", of_class: str = "large") -> ResourceEvent:
    named = {"kind": "ConfigMap", "scope": "Namespace", "namespace": "settings", "name": name}
    spec = {"controller": CONTROLLER_CLASS, "parameters": named}
    return ResourceEvent("IngressClass", "", of_class, {"metadata": {"name": of_class}, "spec": spec})


def config_map(name: str = "large", **data: str) -> ResourceEvent:
    keys = {key.replace("_", "-"): value for key, value in data.items()}
    return ResourceEvent("ConfigMap", "settings", name, {"metadata": {"name": name}, "data": keys})


def of_class(name: str) -> ResourceEvent:
    raw = ingress(name, [(f"{name}.test", "/", "web")])
    raw["spec"]["ingressClassName"] = name
    return event(raw)


class World:
    """A builder and its store. ``read``: the Ingresses that the last change had it read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.builder = ResourceStore(), ModelBuilder(SETTINGS)
        self.read: list[str] = []
        real = build.read_ingress

        def noted(decoded: Any, ref: Any, usual: Any) -> Any:
            self.read.append(ref.name)
            return real(decoded, ref, usual)

        monkeypatch.setattr(build, "read_ingress", noted)
        self.put(event(service("web")), event(endpoints("web", 80)), of_class("edge"), of_class("large"))

    def put(self, *events: ResourceEvent) -> Model:
        self.read.clear()
        self.model = self.builder.update(self.store, self.store.apply(events))
        return self.model

    def largest(self) -> dict[str, int]:
        return {route.host: route.body_bytes_max for route in self.model.routes}

    def reasons(self) -> list[str]:
        return [one.reason for one in self.model.diagnostics]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_a_change_costs_the_ingresses_of_that_class(world: World) -> None:
    world.put(parameters())
    assert world.reasons() == ["ParametersNotFound"] and world.read == []
    world.put(config_map(proxy_body_size="8"))
    assert world.largest() == {"edge.test": 5, "large.test": 8} and world.reasons() == []
    assert world.read == ["large"]
    world.put(config_map("another", proxy_body_size="9"))
    assert world.read == []
    world.put(config_map(proxy_body_size="10", proxy_write_timeout="1"))
    assert world.read == ["large"] and world.reasons() == ["UnknownSetting"]
    world.put(ResourceEvent(*KEY, None))
    assert world.read == ["large"] and world.reasons() == ["ParametersNotFound"]
    assert world.largest() == {"edge.test": 5, "large.test": 5}


def test_they_lie_over_the_settings_of_the_controller(world: World) -> None:
    world.put(parameters(), config_map(proxy_body_size="8"))
    assert {one.read_ms for one in world.model.upstreams} == {9_000}
    world.put(config_map(proxy_body_size="much", proxy_read_timeout="7"))
    assert world.reasons() == ["InvalidSetting"]
    assert world.largest() == {"edge.test": 5, "large.test": 5}
    assert {one.read_ms for one in world.model.upstreams} == {9_000, 7_000}


def test_what_a_class_of_another_names_is_not_ours(world: World) -> None:
    found = parameters()
    assert isinstance(found.raw, dict)
    found.raw["spec"]["controller"] = "example.com/another"
    world.put(found, parameters("unserved", "unserved"), config_map(proxy_body_size="8"))
    assert world.builder.wanted == frozenset() and world.reasons() == ["OtherClass"]


def test_a_change_of_the_class_reads_those_of_which_it_says_another_thing(world: World) -> None:
    world.put(parameters(), config_map(proxy_body_size="8"), config_map("more", proxy_body_size="9"))
    assert world.builder.wanted == {KEY}
    world.put(parameters("more"))
    assert world.read == ["large"] and world.largest()["large.test"] == 9
    assert world.builder.wanted == {("ConfigMap", "settings", "more")}
    world.put(ResourceEvent("IngressClass", "", "large", None))
    assert world.read == ["large"] and world.largest()["large.test"] == 5
    assert world.builder.wanted == frozenset()


def test_an_ingress_without_class_has_what_the_default_class_says(world: World) -> None:
    default = parameters()
    assert isinstance(default.raw, dict)
    default.raw["metadata"]["annotations"] = {"ingressclass.kubernetes.io/is-default-class": "true"}
    bare = ingress("bare", [("bare.test", "/", "web")])
    del bare["spec"]["ingressClassName"]
    world.put(default, config_map(proxy_body_size="8"), event(bare))
    assert world.largest() == {"bare.test": 8, "edge.test": 5, "large.test": 8}


def test_admission_reads_an_ingress_as_its_class_says(world: World) -> None:
    world.put(parameters(), config_map(proxy_body_size="8"))
    judge, new = Judge(world.builder, world.store), of_class("large")
    assert new.raw is not None
    (wish,) = judge.read(new.key, new.raw).reading.routes
    assert wish.route.body_bytes_max == 8


def test_admission_knows_only_of_what_was_named_before(world: World) -> None:
    judge = Judge(world.builder, world.store)

    def said(new: ResourceEvent) -> list[str]:
        assert new.raw is not None
        return [one.reason for one in judge.verdict(judge.read(new.key, new.raw)).warned]

    assert said(parameters()) == []
    world.put(parameters())
    assert said(parameters()) == ["ParametersNotFound"]
    assert said(parameters("Wrong")) == ["UnsupportedParameters"]
