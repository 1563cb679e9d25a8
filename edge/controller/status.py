"""What the status of an object must say: addresses of an Ingress, conditions of an EdgePolicy. Pure.

Called by reporter.py, which reads and writes. Of an Ingress' addresses only those are ours that we may have
written; all others stay, in their order. Of conditions only our two types are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from zlib import crc32

import msgspec

from edge.model.diagnostics import Diagnostic, Severity
from edge.resources.kinds import Raw

FIELD_MANAGER_MAX = 128
ADDRESSES_MAX = 256  # of one Ingress; a larger fleet has a Service or a name in front
MESSAGE_MAX = 4096  # the API takes 32,768
NAMES_MAX = 10
FINDINGS_MAX = 10

Entry = dict[str, Any]  # of status.loadBalancer.ingress, or of conditions


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    annotations: msgspec.Raw = msgspec.Raw(b"")
    managed_fields: list[dict[str, Any]] | None = None


class Subject(msgspec.Struct, frozen=True, rename="camel"):
    """An object as far as its status goes."""

    metadata: _Metadata = _Metadata()
    status: dict[str, Any] | None = None
    spec: dict[str, Any] | None = None

    @property
    def edition(self) -> int:
        """Shape: a number that is another after a change: the generation does not count annotations."""
        return self.metadata.generation << 32 | crc32(bytes(self.metadata.annotations))

    @property
    def balancer(self) -> list[Entry]:
        """Shape: status.loadBalancer.ingress."""
        found = ((self.status or {}).get("loadBalancer") or {}).get("ingress")
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    @property
    def conditions(self) -> list[Entry]:
        """Shape: status.conditions."""
        found = (self.status or {}).get("conditions")
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


_reader = msgspec.json.Decoder(Subject)


def subject(raw: Raw | None) -> Subject | None:
    """Read an object of the API; None: it is none."""
    try:
        return _reader.decode(raw) if isinstance(raw, bytes) else None
    except msgspec.DecodeError:
        return None


# ---- addresses ---------------------------------------------------------------------------------


def place_of(entry: Entry) -> str:
    """Shape: what an entry of status.loadBalancer.ingress points to."""
    return str(entry.get("ip") or entry.get("hostname") or "")


def entry_for(place: str) -> Entry:
    """Shape: an entry that points to an address or a host name."""
    try:
        return {"ip": str(ip_address(place))}
    except ValueError:
        return {"hostname": place}


def in_order(places: Iterable[str]) -> tuple[str, ...]:
    """Shape: each once: IPv4, IPv6, names; so many as an Ingress may have."""

    def key(place: str) -> tuple[int, int, str]:
        try:
            address = ip_address(place)
        except ValueError:
            return (9, 0, place)
        return (address.version, int(address), "")

    normal = {place_of(entry_for(place)) for place in places if place}
    return tuple(sorted(normal, key=key)[:ADDRESSES_MAX])


def merged(current: Sequence[Entry], wanted: Sequence[str], ours: Collection[str]) -> list[Entry]:
    """Shape: the entries of others and ours that stay as they are, then ours that are missing."""
    kept = [entry for entry in current if place_of(entry) in wanted or place_of(entry) not in ours]
    there = {place_of(entry) for entry in kept}
    return kept + [entry_for(place) for place in wanted if place not in there]


def field_manager(namespace: str, lease: str) -> str:
    """Shape: the name under which all leaders of one installation write, and no other installation does."""
    return fitted(f"xdp-edge-status.{namespace}.{lease}", FIELD_MANAGER_MAX)


def written_by(manager: str, found: Subject) -> bool:
    """Say whether it was the last to change the addresses: the API server knows who wrote which field."""
    for fields in found.metadata.managed_fields or ():
        status = (fields.get("fieldsV1") or {}).get("f:status") or {}
        balancer = status.get("f:loadBalancer") if isinstance(status, dict) else None
        if isinstance(balancer, dict) and "f:ingress" in balancer:
            return fields.get("manager") == manager
    return False


def of_service(found: Subject) -> tuple[str, ...]:
    """Shape: where a Service can be reached from outside, as ingress-nginx' --publish-service has it."""
    spec = found.spec or {}
    external = [str(one) for one in spec.get("externalIPs") or ()]
    match spec.get("type"):
        case "LoadBalancer":
            return in_order([*map(place_of, found.balancer), *external])
        case "ExternalName":
            return in_order([str(spec.get("externalName") or "")])
        case "NodePort" if external:
            return in_order(external)
    inside = str(spec.get("clusterIP") or "")
    return in_order([inside] if inside != "None" else [])


def of_node(found: Subject) -> tuple[str, ...]:
    """Shape: a Node's external addresses; where it has none, its internal ones."""
    listed = (found.status or {}).get("addresses") or ()
    for kind in ("ExternalIP", "InternalIP"):
        places = [str(one.get("address")) for one in listed if one.get("type") == kind]
        if places:
            return in_order(places)
    return ()


# ---- conditions --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Condition:
    """One of ours, without times."""

    type: str
    status: str
    reason: str
    message: str


def accepted(in_force: bool, found: Sequence[Diagnostic]) -> Condition:
    """Say whether an EdgePolicy is taken in, and what is wrong with it."""
    errors = [one for one in found if one.severity is Severity.ERROR]
    text = sentences(found)
    if not in_force:
        return Condition(
            "Accepted", "False", errors[0].reason if errors else "Pending", text or "not looked at yet"
        )
    if errors:
        return Condition("Accepted", "True", "PartlyAccepted", f"in force but for: {text}")
    return Condition("Accepted", "True", "Accepted", f"in force; {text}" if text else "in force")


def programmed(
    in_force: bool, waiting: Sequence[str], without_xdp: Sequence[str], nodes: int, guards: bool
) -> Condition:
    """Say where an EdgePolicy works. ``waiting``: nodes that have not said so; ``guards``: it needs XDP."""
    if not in_force:
        return Condition("Programmed", "False", "NotAccepted", "it is not accepted")
    if not nodes:
        return Condition("Programmed", "Unknown", "NoNodes", "no node has a Ready Pod")
    if waiting:
        text = f"{nodes - len(waiting)} of {nodes} nodes serve it; not yet: {names(waiting)}"
        return Condition("Programmed", "False", "Pending", text)
    if guards and without_xdp:
        text = f"these nodes serve without XDP, and judge no packets: {names(without_xdp)}"
        return Condition("Programmed", "False", "WithoutXdp", text)
    return Condition("Programmed", "True", "Programmed", f"{nodes} of {nodes} nodes serve it")


def conditions(
    current: Sequence[Entry], wanted: Sequence[Condition], generation: int, now: str
) -> list[Entry] | None:
    """Shape: all conditions as they must be; None: they are so. ``now``: for those whose status turns."""
    ours = {one.type for one in wanted}
    result = [entry for entry in current if entry.get("type") not in ours]
    for one in wanted:
        old = next((entry for entry in current if entry.get("type") == one.type), {})
        turned = old.get("status") != one.status or not old.get("lastTransitionTime")
        result.append(
            {
                "type": one.type,
                "status": one.status,
                "observedGeneration": generation,
                "lastTransitionTime": now if turned else old["lastTransitionTime"],
                "reason": one.reason,
                "message": cut(one.message, MESSAGE_MAX),
            }
        )

    def plain(entries: Iterable[Entry]) -> list[Entry]:
        return sorted(entries, key=lambda entry: str(entry.get("type")))

    return None if plain(result) == plain(current) else result


# ---- words -------------------------------------------------------------------------------------


def sentence(one: Diagnostic) -> str:
    """Shape: field, reason code and sentence of a Diagnostic."""
    return f"{one.field or 'the object'}: {one.reason}: {one.message}"


def sentences(found: Sequence[Diagnostic]) -> str:
    """Shape: several in one text, errors first."""
    ordered = sorted(found, key=lambda one: (one.severity is not Severity.ERROR, one))
    texts = [sentence(one) for one in ordered[:FINDINGS_MAX]]
    if len(ordered) > FINDINGS_MAX:
        texts.append(f"and {len(ordered) - FINDINGS_MAX} more")
    return "; ".join(texts)


def names(all_names: Sequence[str]) -> str:
    """Shape: some of the names, and how many there are besides."""
    rest = len(all_names) - NAMES_MAX
    return ", ".join(all_names[:NAMES_MAX]) + (f" and {rest} more" if rest > 0 else "")


def fitted(name: str, most: int) -> str:
    """Shape: a name of an object that is no longer than ``most``, and another one for another name."""
    if len(name) <= most:
        return name
    return f"{name[: most - 33].rstrip('.-')}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def cut(text: str, most: int) -> str:
    """Shape: at most so many bytes of UTF-8, whole characters, marked where something is missing."""
    data = text.encode("utf-8", "replace")
    if len(data) <= most:
        return data.decode()
    return data[: most - 3].decode("utf-8", "ignore") + "..."
