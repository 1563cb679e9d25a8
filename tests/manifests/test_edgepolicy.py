"""The CRD's schema against policies that must pass or fail, the shipped examples, and the model's limits.

The checker knows the words of OpenAPI that the CRD uses, refuses words it does not know, and, as
the API server with pruning made strict, unknown fields. CEL rules are Python here, by their text; a real API
server evaluates them in tests/kube/test_edgepolicy.py.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge.model.build import ModelSettings, build_model
from edge.model.diagnostics import Severity
from edge.model.edgepolicy import DEAD_MAN_S_MAX, NETWORKS_MAX, RATE_MAX
from edge.resources.store import ResourceEvent, ResourceStore
from tests.manifests.policies import BAD, GOOD, ONLY_CRD, Spec, policy

ROOT = Path(__file__).parents[2]
CRD = yaml.safe_load((ROOT / "manifests/crds/edgepolicy.yaml").read_text())
VERSION = CRD["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
SPEC = SCHEMA["properties"]["spec"]["properties"]
TYPES = {"object": dict, "array": list, "string": str, "integer": int}
WORDS = {
    "description", "type", "required", "properties", "default", "enum", "minimum", "maximum",
    "items", "maxItems", "minLength", "maxLength", "format", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-validations",
}  # fmt: skip


def is_network(text: str) -> bool:
    """As Go's netip reads it."""
    address, slash, bits = text.partition("/")
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        return False
    plain = bits == str(found.network.prefixlen) if slash else True
    mapped = found.version == 6 and found.ip.ipv4_mapped is not None
    return plain and not mapped and "%" not in address and found.ip == found.network.network_address


CEL: dict[str, Callable[[Any], bool]] = {
    "isIP(self) || (isCIDR(self) && cidr(self) == cidr(self).masked())": is_network,
    "(has(self.packetsPerSecond) && self.packetsPerSecond > 0) || "
    "(has(self.connectionsPerSecond) && self.connectionsPerSecond > 0)": lambda limit: any(
        limit.get(name, 0) > 0
        for name in ("packetsPerSecond", "connectionsPerSecond")
        if isinstance(limit.get(name, 0), int)
    ),
}


def faults(schema: dict[str, Any], value: Any, path: str = "") -> list[str]:
    """Every place where a value breaks the schema."""
    assert schema.keys() <= WORDS, schema.keys() - WORDS
    if not isinstance(value, TYPES[schema["type"]]) or isinstance(value, bool):
        return [f"{path}: not {schema['type']}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: {value!r} not in {schema['enum']}")
    for rule in schema.get("x-kubernetes-validations", ()):
        if not CEL[rule["rule"]](value):
            found.append(f"{path}: {rule['message']}")
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"{path}: {value} out of range")
    if isinstance(value, str):
        size = len(value)
        if not schema.get("minLength", size) <= size <= schema.get("maxLength", size):
            found.append(f"{path}: too long or too short")
    if isinstance(value, list):
        if len(value) > schema.get("maxItems", len(value)):
            found.append(f"{path}: too many")
        if schema.get("x-kubernetes-list-type") == "set" and len(set(value)) < len(value):
            found.append(f"{path}: twice the same")
        for i, item in enumerate(value):
            found += faults(schema["items"], item, f"{path}[{i}]")
    if isinstance(value, dict) and "properties" in schema:
        found += [f"{path}.{name}: missing" for name in schema.get("required", ()) if name not in value]
        for name, item in value.items():
            inner = schema["properties"].get(name)
            found += [f"{path}.{name}: unknown"] if inner is None else faults(inner, item, f"{path}.{name}")
    return found


def refused(spec: Spec) -> list[str]:
    """Shape: the fields that the model refuses."""
    store = ResourceStore()
    store.apply([ResourceEvent("EdgePolicy", "", "p", json.dumps(policy("p", spec)).encode())])
    found = build_model(store, ModelSettings()).diagnostics
    return [one.field for one in found if one.severity is Severity.ERROR]


@pytest.mark.parametrize("spec", GOOD, ids=lambda spec: str(spec)[:60])
def test_accepts(spec: Spec) -> None:
    assert faults(SCHEMA, policy("p", spec)) == []
    assert refused(spec) == []


@pytest.mark.parametrize("spec, field", BAD, ids=lambda part: str(part)[:60])
def test_refuses(spec: Spec, field: str) -> None:
    found = [line.partition(":")[0].removeprefix(".") for line in faults(SCHEMA, policy("p", spec))]
    assert found and all(one.startswith(field) for one in found)
    assert refused(spec) == [field]


@pytest.mark.parametrize("spec, field", ONLY_CRD)
def test_refuses_what_a_folder_may_hold(spec: Spec, field: str) -> None:
    found = faults(SCHEMA, policy("p", spec))
    assert [line.partition(":")[0] for line in found] == ["." + field]
    assert refused(spec) == []


def test_the_shipped_examples_are_valid() -> None:
    for path in sorted((ROOT / "manifests/examples").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document.get("kind") == "EdgePolicy":
                assert faults(SCHEMA, document) == [], path.name


def test_limits_and_defaults_are_the_model_s() -> None:
    assert SPEC["perSource"]["properties"]["packetsPerSecond"]["maximum"] == RATE_MAX
    assert SPEC["deadMan"]["properties"]["seconds"]["maximum"] == DEAD_MAN_S_MAX
    assert {
        f"spec.{name}": SPEC[name]["maxItems"] for name in ("deny", "allow", "trustedProxies")
    } == NETWORKS_MAX
    assert (SPEC["scope"]["default"], SPEC["deadMan"]["properties"]["action"]["default"]) == (
        "listener",
        "pass",
    )


def test_names_and_status() -> None:
    names = CRD["spec"]["names"]
    assert CRD["metadata"]["name"] == f"{names['plural']}.{CRD['spec']['group']}"
    assert VERSION["subresources"] == {"status": {}} and CRD["spec"]["scope"] == "Cluster"
