"""`edge explain`: its words, its exit status, and the C matcher against a slow one in Python."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.cli.explain import Asked, explain_difference, explain_request
from edge.dataplane.explain import explain
from edge.model.build import ModelSettings, build_model
from edge.model.types import Listener, Transport
from edge.options import Options
from edge.resources.store import ResourceEvent, ResourceStore
from edge.snapshot.compile import compile_snapshot
from edge.snapshot.slots import SlotTables

FOLDER = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  ingressClassName: edge
  tls: [{hosts: [safe.test]}]
  rules:
  - host: shop.test
    http:
      paths:
      - {path: /cart, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /, pathType: Prefix, backend: {service: {name: none, port: {number: 80}}}}
  - host: safe.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [198.18.0.1]}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Options:
    (tmp_path / "a.yaml").write_text(FOLDER)
    return Options(config=str(tmp_path))


@pytest.mark.parametrize(
    ("url", "action", "status"),
    [
        ("http://shop.test/cart/1?q=/x", "forward", 0),
        ("http://SHOP.test:8080/cart", "forward", 0),
        ("http://shop.test/cartoon", "503: no ready endpoint", 0),
        ("http://safe.test/", "308: to https", 0),
        ("https://safe.test/", "forward", 0),
        ("http://other.test/", "404: no route", 1),
    ],
)
def test_actions(
    folder: Options, url: str, action: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain_request("get", url, folder, as_json=True) == status
    assert json.loads(capsys.readouterr().out)["action"] == action


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def test_words(folder: Options, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain_request("GET", "http://shop.test/cart", folder) == 0
    assert said(capsys) == [
        "GET http://shop.test/cart",
        "forward",
        "route     Ingress/default/shop spec.rules[0].http.paths[0]:"
        " shop.test Prefix /cart -> default/web:80",
        "the host is equal, and its path is the longest prefix, by elements",
        "upstream  default/web:80: connect 5000 ms, read 60000 ms, send 60000 ms",
        "endpoint  198.18.0.1:8080 ready",
        "not       Ingress/default/shop spec.rules[0].http.paths[1]: shop.test Prefix / -> default/none:80",
        "matches, but /cart is longer",
        "error     Ingress/default/shop spec.rules[0].http.paths[1].backend.service.name:"
        " ServiceNotFound: there is no Service default/none",
        "create the Service",
    ]


RIVALS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: old, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  ingressClassName: edge
  tls: [{hosts: ["*.a.test"]}]
  defaultBackend: {service: {name: rest, port: {number: 80}}}
  rules:
  - host: x.a.test
    http:
      paths:
      - {path: /foo, pathType: Exact, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /foo, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
  - host: "*.a.test"
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: young, creationTimestamp: 2026-02-01T00:00:00Z}
spec:
  ingressClassName: edge
  rules:
  - host: x.a.test
    http: {paths: [{path: /foo, pathType: Exact, backend: {service: {name: other, port: {number: 80}}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: rest}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [198.18.0.1]}
- {addresses: [198.18.0.2], conditions: {ready: false}}
- {addresses: [198.18.0.3], conditions: {ready: false, serving: true, terminating: true}}
"""


def test_why_each_runner_up_did_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(RIVALS)
    options = Options(config=str(tmp_path))
    assert explain_request("GET", "https://x.a.test/foo", options) == 0
    lines = said(capsys)
    assert "the host is equal, and its path is equal" in lines
    assert "matches, but Exact goes before every prefix" in lines
    assert "matches, but is the default backend: it takes what no rule of its host takes" in lines
    assert "cert      Default/certificate: x.a.test is covered by *.a.test" in lines
    assert "endpoint  198.18.0.2:8080 not eligible: not ready" in lines
    assert "endpoint  198.18.0.3:8080 draining: terminating, but serving: it finishes what it has" in lines
    assert any("young" in line and "is served by Ingress/default/old" in line for line in lines)

    assert explain_request("GET", "https://x.a.test/foobar", options) == 0
    lines = said(capsys)
    assert "Exact /foo does not match /foobar" in lines
    assert "Prefix /foo ends within an element of /foobar" in lines
    assert "the host is equal, and it is the default backend, and no path of the host matches" in lines
    assert explain_request("GET", "https://y.a.test/foobar", options) == 0
    assert (
        "*.a.test covers the host, which no rule names itself, and its path is the longest prefix,"
        in " ".join(said(capsys))
    )


def test_a_recorded_image_answers_as_the_folder(
    folder: Options, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(tmp_path / "image")
    asked = Asked(record=image, as_json=True)
    assert explain_request("POST", "http://shop.test/cart?a=1", folder, asked=asked) == 0
    of_folder = json.loads(capsys.readouterr().out)
    asked = Asked(image=image, as_json=True, at="2026-01-31T12:00:00Z", headers=("X-Y: z",))
    assert explain_request("POST", "http://shop.test/cart?a=1", Options(), asked=asked) == 0
    of_image = json.loads(capsys.readouterr().out)
    for name in ("action", "route", "filters", "candidates"):
        assert of_image[name] == of_folder[name]
    assert of_image["at"] == "2026-01-31T12:00:00Z"
    assert of_image["request"]["headers"] == [["X-Y", "z"]]
    (tmp_path / "image").write_bytes(b"no image")
    assert explain_request("GET", "http://shop.test/", Options(), asked=Asked(image=image)) == 1
    assert explain_request("GET", "http://shop.test/", Options(), asked=Asked(image=f"{image}x")) == 2


@pytest.mark.parametrize("asked", [Asked(at="soon"), Asked(headers=("no colon",)), Asked(record="/none/x")])
def test_what_cannot_be_asked(folder: Options, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain_request("GET", "http://shop.test/", folder, asked=asked) == 2
    assert capsys.readouterr().err.startswith("edge explain: --")


def test_nobody_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain_request("GET", "http://shop.test/", Options(admin="127.0.0.1:1")) == 2
    assert "no instance answers" in capsys.readouterr().err


def test_difference_of_two_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("old", FOLDER), ("new", FOLDER.replace("path: /cart", "path: /basket"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text(text)
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    assert explain_difference(old, old, Options()) == 0
    assert explain_difference(old, new, Options()) == 1
    lines = said(capsys)
    assert [line for line in lines if line.startswith("GET")] == [
        f"GET http or https://shop.test/{path}" for path in ("basket", "basket/*", "cart", "cart/*")
    ]
    assert lines[1].startswith("- 503: no ready endpoint; default/none:80")
    assert lines[2].startswith("+ forward; default/web:80")
    (tmp_path / "new" / "a.yaml").write_text(FOLDER.replace("198.18.0.1", "198.18.0.2"))
    assert explain_difference(old, new, Options(), as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["requests"] == []
    assert found["endpoints"] == [
        {"upstream": "default/web:80", "old": "198.18.0.1:8080 ready", "new": "198.18.0.2:8080 ready"}
    ]
    assert explain_difference(old, str(tmp_path / "none"), Options()) == 2


@pytest.mark.parametrize(
    "url", ["shop.test/x", "ftp://shop.test/", "http:///x", "http://[::1/", "http://a b/"]
)
def test_no_url(folder: Options, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain_request("GET", url, folder) == 1
    assert capsys.readouterr().err.startswith("edge explain: ")


def test_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain_request("GET", "http://a.test/", Options(config=str(tmp_path / "none"))) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# ---- the matcher against a slow one -----------------------------------------------------------

HOSTS = ["", "a.test", "b.a.test", "*.a.test", "*.b.a.test", "*.test"]
PATHS = ["/", "/x", "/x/", "/x/y", "/x/y/", "/xy", "/x/y/z"]
Rule = tuple[str, str, str]
RULES = st.lists(
    st.tuples(st.sampled_from(HOSTS), st.sampled_from(["Exact", "Prefix"]), st.sampled_from(PATHS)),
    max_size=12,
    unique_by=lambda rule: (rule[0], rule[1], rule[2] if rule[1] == "Exact" else rule[2].rstrip("/")),
)


def ingress(rules: list[Rule]) -> dict[str, Any]:
    def path(rule: Rule, port: int) -> dict[str, Any]:
        target = {"service": {"name": "s", "port": {"number": port}}}
        return {"path": rule[2], "pathType": rule[1], "backend": target}

    written = [
        ({"host": rule[0]} if rule[0] else {}) | {"http": {"paths": [path(rule, number + 1)]}}
        for number, rule in enumerate(rules)
    ]
    return {"metadata": {"name": "i"}, "spec": {"ingressClassName": "edge", "rules": written}}


def slow_match(rules: list[Rule], host: str, path: str) -> Rule | None:
    """The rules of Ingress v1, read aloud: most specific host, then Exact, then the longest prefix."""

    def fits(rule: Rule) -> bool:
        if rule[1] == "Exact":
            return rule[2] == path
        prefix = rule[2].rstrip("/")
        return path == prefix or path.startswith(prefix + "/")

    for wanted in (host, "*." + host.partition(".")[2], ""):
        of_host = [rule for rule in rules if rule[0] == wanted]
        if of_host:
            found = [rule for rule in of_host if fits(rule)]
            found.sort(key=lambda rule: (rule[1] != "Exact", -len(rule[2].rstrip("/"))))
            if found:
                return found[0]
            break
    # The default: a "/" prefix for any host.
    return ("", "Prefix", "/") if ("", "Prefix", "/") in rules else None


@settings(max_examples=60, deadline=None)
@given(
    RULES,
    st.sampled_from(["a.test", "b.a.test", "c.b.a.test", "x.test", "test", "other"]),
    st.sampled_from([*PATHS, "/x/yy", "/z", "/X", "/x/y/z/", "/x//y"]),
)
def test_matcher_agrees_with_a_slow_one(rules: list[Rule], host: str, path: str) -> None:
    store = ResourceStore([ResourceEvent("Ingress", "default", "i", ingress(rules))])
    listener = Listener(IPv4Address("0.0.0.0"), 80, Transport.PLAIN)
    model = build_model(store, ModelSettings((listener,)))
    assert len(model.routes) == len(rules)
    found = explain(compile_snapshot(model, SlotTables(), 1), 0, host, path)
    expected = slow_match(rules, host, path)
    if expected is None:
        assert found.winner is None
    else:
        assert found.winner is not None
        assert rules[found.winner.route.rule_index] == expected
