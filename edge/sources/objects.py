"""The resources that are followed, and what is kept of their objects: bytes without ballast.

Called by follow.py. managedFields, the copy that kubectl keeps in an annotation, and fields that nobody
here reads are two thirds of an object; they are cut out of the JSON without making Python values of the
rest. Pure.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from edge.model.certificates import PEM_BYTES_MAX
from edge.resources.kinds import KINDS, OVERSIZE, SliceEndpoint
from edge.resources.store import Key

# The text of the longest PEM that the model takes, in its quotes.
BASE64_MAX = 4 * -(-PEM_BYTES_MAX // 3) + 2
_OVERSIZE = msgspec.Raw(msgspec.json.encode(OVERSIZE))
_COPY = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class Resource:
    """``keep``: the fields beside metadata that are kept; ``cut``: of one of them, what is kept of it.

    ``labels``: those that are kept, None: all. ``annotations``: whether they are. ``longest``: of a value in
    what was cut, OVERSIZE stands for a longer one, 0: any. ``page``: how many are asked for at a time, 0: as
    usual. Units: bytes of JSON.
    """

    kind: str
    api_version: str
    plural: str
    namespaced: bool = True
    keep: tuple[str, ...] = ("spec",)
    cut: tuple[tuple[str, tuple[str, ...]], ...] = ()
    labels: tuple[str, ...] | None = None
    annotations: bool = True
    longest: int = 0
    page: int = 0

    def __str__(self) -> str:
        """Shape: as RBAC and CRDs name it: plural.group."""
        group = self.api_version.rpartition("/")[0]
        return f"{self.plural}.{group}" if group else self.plural

    def path(self, namespace: str = "") -> str:
        """Shape: where its objects are listed; "": in all namespaces."""
        root = "/api/" if "/" not in self.api_version else "/apis/"
        inside = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{self.api_version}{inside}/{self.plural}"


def _ours(kind: str, plural: str, *keep: str, **more: Any) -> Resource:
    known = KINDS[kind]
    return Resource(kind, known.api_version, plural, known.namespaced, keep, **more)


INGRESSES = _ours("Ingress", "ingresses", "spec", "status")
INGRESS_CLASSES = _ours("IngressClass", "ingressclasses", "spec")
SERVICES = _ours(
    "Service",
    "services",
    "spec",
    "status",
    cut=(("spec", ("type", "clusterIP", "externalName", "externalIPs", "ports")),),
)
ENDPOINT_SLICES = _ours(
    "EndpointSlice",
    "endpointslices",
    "addressType",
    "endpoints",
    "ports",
    labels=("kubernetes.io/service-name",),
    annotations=False,
)
# One may hold over a megabyte, and any tenant may make many: only what a certificate is made of counts.
SECRETS = _ours(
    "Secret",
    "secrets",
    "type",
    "data",
    cut=(("data", ("tls.crt", "tls.key", "ca.crt")),),
    longest=BASE64_MAX,
    labels=(),
    annotations=False,
    page=20,
)
EDGE_POLICIES = _ours("EdgePolicy", "edgepolicies", "spec", "status")
NODES = _ours("Node", "nodes", "status", cut=(("status", ("addresses",)),), annotations=False)
CONFIG_MAPS = _ours("ConfigMap", "configmaps", "data", labels=(), annotations=False)

# What the leader alone reads: a few words (edge/controller/fleet.py).
PODS = Resource(
    "Pod",
    "v1",
    "pods",
    keep=("spec", "status"),
    cut=(("spec", ("nodeName",)), ("status", ("phase", "conditions"))),
    annotations=False,
)
LEASES = Resource("Lease", "coordination.k8s.io/v1", "leases")


class Version(msgspec.Struct, frozen=True, rename="camel"):
    """ListMeta; also what a bookmark's object has."""

    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class Listing(msgspec.Struct, frozen=True):
    """One page of a list."""

    metadata: Version
    items: list[msgspec.Raw] | None = None


class Line(msgspec.Struct, frozen=True):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class Marked(msgspec.Struct, frozen=True):
    """A bookmark's object."""

    metadata: Version


class _Identity(msgspec.Struct, rename="camel", omit_defaults=True):
    name: str
    namespace: str = ""
    resource_version: str = ""


class _Meta(_Identity):
    uid: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Trimmed:
    """``meaning``: equal for two states of an object that differ in version and status alone."""

    key: Key
    version: str
    raw: bytes
    meaning: int


read_listing = msgspec.json.Decoder(Listing).decode
read_line = msgspec.json.Decoder(Line).decode
read_marked = msgspec.json.Decoder(Marked).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_identity = msgspec.json.Decoder(_Identity)
_meta = msgspec.json.Decoder(_Meta)
_endpoints = msgspec.json.Decoder(list[SliceEndpoint])
_encoder = msgspec.json.Encoder()


def trim(resource: Resource, item: msgspec.Raw | bytes) -> Trimmed:
    """Cut an object down. Errors: msgspec.DecodeError for what is no object at all."""
    found = _fields.decode(item)
    rest: dict[str, msgspec.Raw] = {name: found[name] for name in resource.keep if name in found}
    for name, wanted in resource.cut:
        if name in rest:
            rest[name] = _cut(rest[name], wanted, resource.longest)
    if "endpoints" in rest:
        rest["endpoints"] = _only_read(rest["endpoints"])
    # Lists name neither kind nor version in their items.
    head: dict[str, Any] = {"apiVersion": resource.api_version, "kind": resource.kind}
    raw_meta = found.get("metadata", msgspec.Raw(b"null"))
    try:
        meta = _meta.decode(raw_meta)
    except msgspec.ValidationError:  # the model says what is wrong with it
        known = _identity.decode(raw_meta)
        raw = _encoder.encode({**head, "metadata": raw_meta, **rest})
        return Trimmed((resource.kind, known.namespace, known.name), known.resource_version, raw, hash(raw))
    if resource.labels is not None:
        all_labels = meta.labels or {}
        meta.labels = {name: all_labels[name] for name in resource.labels if name in all_labels}
    if not resource.annotations:
        meta.annotations = None
    elif meta.annotations:
        meta.annotations.pop(_COPY, None)
    raw = _encoder.encode({**head, "metadata": meta, **rest})
    key = (resource.kind, sys.intern(meta.namespace), meta.name)
    version, meta.resource_version, meta.generation = meta.resource_version, "", 0
    rest.pop("status", None)
    return Trimmed(key, version, raw, hash(_encoder.encode({"metadata": meta, **rest})))


def _cut(raw: msgspec.Raw, wanted: tuple[str, ...], longest: int) -> msgspec.Raw:
    try:
        inside: Mapping[str, msgspec.Raw] = _fields.decode(raw)
    except msgspec.DecodeError:
        return raw
    found = {name: inside[name] for name in wanted if name in inside}
    if longest:
        found = {name: _OVERSIZE if len(bytes(one)) > longest else one for name, one in found.items()}
    return msgspec.Raw(_encoder.encode(found))


def _only_read(raw: msgspec.Raw) -> msgspec.Raw:
    try:
        return msgspec.Raw(_encoder.encode(_endpoints.decode(raw)))
    except msgspec.DecodeError:
        return raw  # the model says what is wrong with it
