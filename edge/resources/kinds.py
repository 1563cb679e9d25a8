"""The kinds that we read, as typed structs, and the one way from raw JSON to them.

Called by sources (identity of an object) and by edge/model (its fields) through the store. Unknown
fields are ignored, as the API server's older clients do; a wrong type refuses the object with the
path of the field. Never judges meaning: a port of 0 is an integer here and the model's business.
Source: Kubernetes API reference v1.34; EdgePolicy: manifests/crds/edgepolicy.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

NAME_BYTES_MAX = 253
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

OVERSIZE = "(left out: longer than what is taken)"  # a source's word for a Secret's value; not base64

# An object as it came: JSON's bytes, a tenth of what Python's values take; values where it has no such form.
Raw = bytes | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an object, or a part of one, cannot be used; becomes a Diagnostic above."""

    field: str
    reason: str
    message: str


class Struct(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """Base of all: camelCase outside, snake_case inside."""


class Metadata(Struct, frozen=True):
    """ObjectMeta, as far as we read it."""

    name: str
    namespace: str | None = None
    creation_timestamp: str | None = None
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class ServicePortReference(Struct, frozen=True):
    """IngressServiceBackend.port: exactly one of both."""

    name: str | None = None
    number: int | None = None


class ServiceReference(Struct, frozen=True):
    """IngressServiceBackend."""

    name: str
    port: ServicePortReference | None = None


class IngressTarget(Struct, frozen=True):
    """IngressBackend of the API: exactly one of both."""

    service: ServiceReference | None = None
    resource: Any = None


class IngressPath(Struct, frozen=True):
    """HTTPIngressPath."""

    backend: IngressTarget
    path: str | None = None
    path_type: str | None = None


class IngressHttp(Struct, frozen=True):
    """HTTPIngressRuleValue."""

    paths: list[IngressPath]


class IngressRule(Struct, frozen=True):
    """IngressRule."""

    host: str | None = None
    http: IngressHttp | None = None


class IngressTls(Struct, frozen=True):
    """IngressTLS."""

    hosts: list[str] | None = None
    secret_name: str | None = None


class IngressSpec(Struct, frozen=True):
    """IngressSpec."""

    ingress_class_name: str | None = None
    default_backend: IngressTarget | None = None
    rules: list[IngressRule] | None = None
    tls: list[IngressTls] | None = None


class Ingress(Struct, frozen=True):
    """networking.k8s.io/v1 Ingress."""

    metadata: Metadata
    spec: IngressSpec | None = None


class IngressClassSpec(Struct, frozen=True):
    """IngressClassSpec."""

    controller: str | None = None
    parameters: Any = None


class IngressClass(Struct, frozen=True):
    """networking.k8s.io/v1 IngressClass."""

    metadata: Metadata
    spec: IngressClassSpec | None = None


class ServicePort(Struct, frozen=True):
    """ServicePort."""

    port: int
    name: str | None = None
    protocol: str | None = None
    target_port: int | str | None = None


class ServiceSpec(Struct, frozen=True):
    """ServiceSpec."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    external_name: str | None = None
    ports: list[ServicePort] | None = None


class Service(Struct, frozen=True):
    """v1 Service."""

    metadata: Metadata
    spec: ServiceSpec | None = None


class EndpointConditions(Struct, frozen=True):
    """EndpointConditions: nothing said means ready, and serving follows ready."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ZoneHint(Struct, frozen=True):
    """ForZone."""

    name: str


class EndpointHints(Struct, frozen=True):
    """EndpointHints."""

    for_zones: list[ZoneHint] | None = None


class SliceEndpoint(Struct, frozen=True):
    """Endpoint of a slice."""

    addresses: list[str]
    conditions: EndpointConditions | None = None
    zone: str | None = None
    hints: EndpointHints | None = None


class SlicePort(Struct, frozen=True):
    """EndpointPort."""

    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class EndpointSlice(Struct, frozen=True):
    """discovery.k8s.io/v1 EndpointSlice."""

    metadata: Metadata
    address_type: str
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


class Secret(Struct, frozen=True):
    """v1 Secret. ``data`` is base64, ``string_data`` (files only) is not."""

    metadata: Metadata
    type: str | None = None
    data: dict[str, str] | None = None
    string_data: dict[str, str] | None = None
    edge_withheld: list[str] | None = None  # fields that the last-known-good state does not hold


class Node(Struct, frozen=True):
    """v1 Node: its labels say in which zone it stands."""

    metadata: Metadata


class ConfigMap(Struct, frozen=True):
    """v1 ConfigMap: the settings that --configmap names."""

    metadata: Metadata
    data: dict[str, str] | None = None


class PolicyPerSource(Struct, frozen=True, forbid_unknown_fields=True):
    """EdgePolicy spec.perSource."""

    packets_per_second: int | None = None
    connections_per_second: int | None = None
    burst: int | None = None
    prefix_v4: int | None = None
    prefix_v6: int | None = None


class PolicyDeadMan(Struct, frozen=True, forbid_unknown_fields=True):
    """EdgePolicy spec.deadMan."""

    seconds: int
    action: str | None = None


class EdgePolicySpec(Struct, frozen=True, forbid_unknown_fields=True):
    """EdgePolicy spec: a misspelt guard must not look like one, so unknown fields are refused."""

    scope: str | None = None
    deny: list[str] | None = None
    allow: list[str] | None = None
    per_source: PolicyPerSource | None = None
    dead_man: PolicyDeadMan | None = None
    trusted_proxies: list[str] | None = None


class EdgePolicy(Struct, frozen=True):
    """xdp-edge.dev/v1alpha1 EdgePolicy."""

    metadata: Metadata
    spec: EdgePolicySpec | None = None


# What the controller's resolver says about a host name: {"addresses": [...], "own": [...], "error": ""}.
# It lies in the store as objects do, under the name; no file can hold one (it is not in KINDS).
RESOLVED_NAME = "ResolvedName"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind that we read: its API version, its struct, and whether it lives in a namespace."""

    api_version: str
    struct: type[Struct]
    namespaced: bool = True


KINDS: dict[str, Kind] = {
    "Ingress": Kind("networking.k8s.io/v1", Ingress),
    "IngressClass": Kind("networking.k8s.io/v1", IngressClass, namespaced=False),
    "Service": Kind("v1", Service),
    "EndpointSlice": Kind("discovery.k8s.io/v1", EndpointSlice),
    "Secret": Kind("v1", Secret),
    "ConfigMap": Kind("v1", ConfigMap),
    "Node": Kind("v1", Node, namespaced=False),
    "EdgePolicy": Kind("xdp-edge.dev/v1alpha1", EdgePolicy, namespaced=False),
}

# Made here, once: msgspec crashes where two threads are the first to read a type at the same moment. That is
# also why nobody gives a type to a call that decodes (tests/test_house.py).
_DECODERS = {name: msgspec.json.Decoder(kind.struct) for name, kind in KINDS.items()}
_any = msgspec.json.Decoder(dict[str, Any])

# Versions of our kinds that the API server does not serve any more: people still have them in files.
_RETIRED = {
    ("extensions/v1beta1", "Ingress"),
    ("networking.k8s.io/v1beta1", "Ingress"),
    ("networking.k8s.io/v1beta1", "IngressClass"),
    ("discovery.k8s.io/v1beta1", "EndpointSlice"),
}


class Unknown(Exception):
    """An object of a kind that is none of ours; its text is ``apiVersion kind``."""


def identify(raw: object) -> tuple[str, str, str] | Problem:
    """Find kind, namespace and name of a raw object.

    Shape: namespace "" for kinds of cluster scope, "default" where a file leaves it out, as kubectl does.
    Errors: Unknown for a kind that we do not read.
    """
    if not isinstance(raw, Mapping):
        return Problem("", "NotAnObject", f"expected a mapping, found {type(raw).__name__}")
    version, kind, metadata = raw.get("apiVersion"), raw.get("kind"), raw.get("metadata")
    if not isinstance(kind, str) or not kind:
        return Problem("kind", "Required", "kind is missing or no text")
    if not isinstance(version, str) or not version:
        return Problem("apiVersion", "Required", "apiVersion is missing or no text")
    if (version, kind) in _RETIRED:
        known = KINDS[kind].api_version
        return Problem("apiVersion", "UnsupportedVersion", f"{version} is retired; write {known}")
    known_kind = KINDS.get(kind)
    if known_kind is None or known_kind.api_version != version:
        raise Unknown(f"{version[:100]} {kind[:100]}")
    if not isinstance(metadata, Mapping):
        return Problem("metadata", "Required", "metadata is missing or no mapping")
    name = metadata.get("name")
    if not isinstance(name, str) or len(name) > NAME_BYTES_MAX or not NAME.fullmatch(name):
        return Problem(
            "metadata.name", "InvalidName", f"{shown(name)} is not a DNS name of lower case letters"
        )
    if not known_kind.namespaced:
        return kind, "", name
    namespace = metadata.get("namespace") or "default"
    if not isinstance(namespace, str) or not NAMESPACE.fullmatch(namespace):
        return Problem("metadata.namespace", "InvalidName", f"{shown(namespace)} is not a DNS label")
    return kind, namespace, name


def compact(document: Mapping[str, Any]) -> Raw:
    """Put an object into JSON, where that says the same; YAML says more. It must not be built of aliases."""
    try:
        data = msgspec.json.encode(document)
        return data if msgspec.json.decode(data) == document else document
    except (TypeError, ValueError, OverflowError, RecursionError):
        return document


def plain(raw: Raw) -> Mapping[str, Any]:
    """Shape: an object as values. Errors: msgspec.DecodeError for bytes that are no JSON object."""
    return _any.decode(raw) if isinstance(raw, bytes) else raw


def decode(kind: str, raw: Raw) -> Struct | Problem:
    """Read a raw object of a known kind into its struct; a Problem names the first wrong field."""
    try:
        if isinstance(raw, bytes):
            return _DECODERS[kind].decode(raw)
        return msgspec.convert(raw, KINDS[kind].struct)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        field = path.rstrip("`").removeprefix("$").removeprefix(".")
        if field.endswith("[...]"):
            field = _with_key(plain(raw), field.removesuffix("[...]"))
        reason = "Required" if "missing required" in message else "InvalidType"
        if "unknown field" in message:
            reason = "UnknownField"
        return Problem(field, reason, message.replace("`", "'"))
    except (RecursionError, ValueError, TypeError) as error:
        return Problem("", "InvalidType", f"cannot be read: {type(error).__name__}")


def _with_key(raw: Mapping[str, Any], field: str) -> str:
    """Shape: the field with the key whose value is no text; msgspec does not say which one it was."""
    place: Any = raw
    for word in field.split("."):
        place = place.get(word) if isinstance(place, Mapping) else None
    if isinstance(place, Mapping):
        for key, value in place.items():
            if not isinstance(value, str):
                return f"{field}[{ascii(str(key)[:100])[1:-1]}]"
    return f"{field}[...]"


def shown(value: object) -> str:
    """Shape: a value from outside as a message may print it: short, on one line, in quotes."""
    text = (
        value
        if isinstance(value, str)
        else str(value)[:200]
        if isinstance(value, int | float)
        else type(value).__name__
    )
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return ascii(short)
