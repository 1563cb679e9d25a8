"""The CRD's schema against policies that must pass or fail, the shipped examples, and the model's limits.

The checker knows the words of OpenAPI that the CRD uses, refuses words it does not know, and, as
the API server with pruning made strict, unknown fields. CEL rules are read as text only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge.model.edgepolicy import DEAD_MAN_S_MAX, RATE_MAX

ROOT = Path(__file__).parents[2]
CRD = yaml.safe_load((ROOT / "manifests/crds/edgepolicy.yaml").read_text())
VERSION = CRD["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
SPEC = SCHEMA["properties"]["spec"]["properties"]
TYPES = {"object": dict, "array": list, "string": str, "integer": int}
WORDS = {
    "description", "type", "required", "properties", "default", "enum", "pattern", "minimum", "maximum",
    "items", "maxItems", "minLength", "maxLength", "format", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-validations",
}  # fmt: skip


def faults(schema: dict[str, Any], value: Any, path: str = "") -> list[str]:
    """Every place where a value breaks the schema."""
    assert schema.keys() <= WORDS, schema.keys() - WORDS
    if not isinstance(value, TYPES[schema["type"]]) or isinstance(value, bool):
        return [f"{path}: not {schema['type']}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: {value!r} not in {schema['enum']}")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{path}: {value!r} against the pattern")
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"{path}: {value} out of range")
    if isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        found.append(f"{path}: too long")
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


def policy(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "xdp-edge.dev/v1alpha1",
        "kind": "EdgePolicy",
        "metadata": {"name": "p"},
        "spec": spec,
    }


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"scope": "node"},
        {"deny": ["203.0.113.0/24", "2001:db8::/32", "198.18.0.1", "::ffff:198.18.0.0/112"]},
        {"allow": ["0.0.0.0/0", "::/0"]},
        {"perSource": {"packetsPerSecond": 1000, "burst": 2000, "prefixV4": 24, "prefixV6": 56}},
        {"deadMan": {"seconds": 5, "action": "drop"}},
        {"trustedProxies": ["198.18.0.0/15"]},
    ],
)
def test_accepts(spec: dict[str, Any]) -> None:
    assert faults(SCHEMA, policy(**spec)) == []


@pytest.mark.parametrize(
    "spec, field",
    [
        ({"scope": "cluster"}, ".spec.scope"),
        ({"deny": ["example.org"]}, ".spec.deny[0]"),
        ({"deny": ["10.0.0.0/33"]}, ".spec.deny[0]"),
        ({"allow": ["2001:db8::/129"]}, ".spec.allow[0]"),
        ({"deny": ["10.0.0.0/8", "10.0.0.0/8"]}, ".spec.deny"),
        ({"perSource": {"packetsPerSecond": -1}}, ".spec.perSource.packetsPerSecond"),
        ({"perSource": {"prefixV4": 33}}, ".spec.perSource.prefixV4"),
        ({"perSource": {"packetPerSecond": 1}}, ".spec.perSource.packetPerSecond"),
        ({"deadMan": {}}, ".spec.deadMan.seconds"),
        ({"deadMan": {"seconds": 0}}, ".spec.deadMan.seconds"),
    ],
)
def test_refuses(spec: dict[str, Any], field: str) -> None:
    assert [line.partition(":")[0] for line in faults(SCHEMA, policy(**spec))] == [field]


def test_the_shipped_examples_are_valid() -> None:
    for path in sorted((ROOT / "manifests/examples").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document.get("kind") == "EdgePolicy":
                assert faults(SCHEMA, document) == [], path.name


def test_limits_and_defaults_are_the_model_s() -> None:
    assert SPEC["perSource"]["properties"]["packetsPerSecond"]["maximum"] == RATE_MAX
    assert SPEC["deadMan"]["properties"]["seconds"]["maximum"] == DEAD_MAN_S_MAX
    assert (SPEC["scope"]["default"], SPEC["deadMan"]["properties"]["action"]["default"]) == (
        "listener",
        "pass",
    )


def test_names_and_status() -> None:
    names = CRD["spec"]["names"]
    assert CRD["metadata"]["name"] == f"{names['plural']}.{CRD['spec']['group']}"
    assert VERSION["subresources"] == {"status": {}} and CRD["spec"]["scope"] == "Cluster"
