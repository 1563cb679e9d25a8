"""Settings that are objects: a ConfigMap's keys as defaults, several classes; what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge.controller.origin import settled
from edge.model.build import ModelSettings, build_model
from edge.model.settings import KEYS
from edge.model.types import Model
from edge.options import Options
from edge.resources.store import ResourceEvent, ResourceStore
from tests.e2e.objects import endpoints, ingress, service

OPTIONS = Options(kubernetes=True, configmap="edge/settings", node_name="n1")


def event(raw: dict[str, Any]) -> ResourceEvent:
    return ResourceEvent(
        raw["kind"], raw["metadata"].get("namespace", "default"), raw["metadata"]["name"], raw
    )


def settings(data: Any, options: Options = OPTIONS) -> ModelSettings:
    raw = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": "edge"},
        "data": data,
    }
    node = {"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}}
    store = ResourceStore([event(raw), ResourceEvent("Node", "", "n1", node)])
    return settled(ModelSettings(), options, store)


def model(found: ModelSettings, *ingresses: dict[str, Any]) -> Model:
    objects = [service("web"), endpoints("web", 80), *ingresses]
    return build_model(ResourceStore([event(raw) for raw in objects]), found)


def test_keys_are_the_defaults_of_annotations() -> None:
    found = settings({"proxy-body-size": "8m", "proxy-read-timeout": "7", "force-ssl-redirect": "true"})
    nginx = "nginx.ingress.kubernetes.io/"
    own = ingress("b", [("b.test", "/", "web")], **{f"{nginx}proxy-body-size": "2m"})
    built = model(found, ingress("a", [("a.test", "/", "web")]), own)
    assert [route.body_bytes_max for route in built.routes] == [8 << 20, 2 << 20]
    assert [route.redirect_https for route in built.routes] == [True, True]
    assert [one.read_ms for one in built.upstreams] == [7_000]
    assert built.diagnostics == ()


def test_what_is_wrong_is_a_warning_and_the_default_stays() -> None:
    found = settings({"proxy-body-size": "much", "worker-processes": "4"})
    built = model(found, ingress("a", [("a.test", "/", "web")]))
    assert [(one.field, one.reason, str(one.severity)) for one in built.diagnostics] == [
        ("data[proxy-body-size]", "InvalidSetting", "warning"),
        ("data[worker-processes]", "UnknownSetting", "warning"),
    ]
    assert built.routes[0].body_bytes_max == 1 << 20
    assert [one.reason for one in settings("text").findings] == ["InvalidType"]


def test_the_readme_names_every_key() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text()
    assert [key for key in KEYS if f"`{key}`" not in text] == []


def test_the_zone_of_our_node() -> None:
    assert settings({}).zone == "z1"
    assert settings({}, Options(node_name="n1", zone="given")).zone == "given"
    assert settings({}, Options(node_name="other")).zone == ""


def test_several_classes() -> None:
    def of_class(name: str) -> dict[str, Any]:
        raw = ingress(name, [(f"{name}.test", "/", "web")])
        raw["spec"]["ingressClassName"] = name
        return raw

    classes = [
        event({"kind": "IngressClass", "metadata": {"name": name}, "spec": {"controller": controller}})
        for name, controller in (("one", "c"), ("two", "c"), ("three", "c"), ("four", "another"))
    ]
    assert classes[1].raw is not None
    classes[1].raw["spec"]["parameters"] = {"kind": "Settings", "name": "x"}  # type: ignore[index]
    objects = [event(service("web")), event(endpoints("web", 80))]
    objects += [event(of_class(name)) for name in ("one", "two", "three", "four", "five")]
    for one in range(len(classes)):
        classes[one] = ResourceEvent("IngressClass", "", classes[one].name, classes[one].raw)
    found = build_model(
        ResourceStore([*objects, *classes]),
        ModelSettings(ingress_class="one,two,four,five", controller_class="c"),
    )
    assert [route.host for route in found.routes] == ["five.test", "one.test", "two.test"]
    assert [(one.object.name, one.reason) for one in found.diagnostics] == [
        ("three", "OtherClass"),
        ("two", "UnsupportedParameters"),
    ]
