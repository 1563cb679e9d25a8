"""Service and EndpointSlices to the endpoints of an upstream, each one judged.

Called by build.py once for each Service port that a route names and for each change of it. A slice says
for itself which number a named port has, so two slices of a Service may differ. Never resolves a name
(edge/controller/names.py does), never looks at a Pod.
Source: discovery.k8s.io/v1, EndpointConditions and EndpointPort; kube-proxy for hints and for Services
whose endpoints all terminate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from edge.model.diagnostics import ObjectRef
from edge.model.findings import Findings
from edge.model.types import Address, Endpoint, EndpointState, Network
from edge.resources.kinds import EndpointSlice, Problem, Service, ServicePort, SliceEndpoint, shown

SERVICE_LABEL = "kubernetes.io/service-name"
EXTERNAL_PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class PortChoice:
    """Which port of the slices to take: by name, or a number where the Service has no ports.

    ``external``: the host name of a Service of type ExternalName, which has no slices.
    """

    name: str = ""
    number: int = 0
    external: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """One address and port as an object names it. ``endpoint`` None: not eligible, ``why`` says why not."""

    object: ObjectRef
    field: str
    address: str
    port: int
    zone: str
    endpoint: Endpoint | None
    why: str


def choose(service: Service | Problem | None, namespace: str, name: str, port: str) -> PortChoice | Problem:
    """Find a Service's port, given as the object wrote it.

    Shape: a Problem's field is relative to the reference: "name" or "port".
    """
    if service is None:
        return Problem("name", "ServiceNotFound", f"there is no Service {namespace}/{name}")
    if isinstance(service, Problem):
        return Problem("name", "InvalidService", f"Service {namespace}/{name} cannot be read")
    spec = service.spec
    if spec is None:
        return Problem("name", "InvalidService", f"Service {namespace}/{name} has no spec")
    external = spec.type == "ExternalName"
    for candidate in spec.ports or ():
        if port in (candidate.name, str(candidate.port)) and candidate.protocol in (None, "TCP"):
            if external:
                return _external(namespace, name, spec.external_name, candidate)
            return _checked(namespace, name, candidate)
    if external and port.isdigit():
        return _external(namespace, name, spec.external_name, ServicePort(int(port)))
    if not spec.ports and spec.cluster_ip == "None" and port.isdigit():
        return PortChoice(number=int(port))  # headless without ports: Pods answer on any
    return Problem("port", "PortNotFound", f"Service {namespace}/{name} has no TCP port {shown(port)}")


def _checked(namespace: str, name: str, port: ServicePort) -> PortChoice | Problem:
    if not 0 < port.port < 65536:
        return Problem("port", "InvalidService", f"port {port.port} of Service {namespace}/{name} is none")
    return PortChoice(name=port.name or "")


def _external(namespace: str, name: str, written: str | None, port: ServicePort) -> PortChoice | Problem:
    """A port of an ExternalName: its target where that is a number; there is no Pod to ask for a name."""
    host = external_host(written or "")
    if host is None:
        text = f"Service {namespace}/{name} has externalName {shown(written or '')}, which is no host"
        return Problem("name", "InvalidExternalName", text)
    number = port.target_port if isinstance(port.target_port, int) and port.target_port else port.port
    if not 0 < number <= EXTERNAL_PORT_MAX:
        return Problem("port", "InvalidService", f"port {number} of Service {namespace}/{name} is none")
    return PortChoice(number=number, external=host)


def external_host(text: str) -> str | None:
    """Shape: a DNS name or an IP address in lower case, without the final dot; None for anything else."""
    host = text.strip().lower().removesuffix(".")
    labels = host.split(".")
    if not host or len(host) > 253:
        return None
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    if all(
        0 < len(label) < 64 and label.strip("abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
        for label in labels
    ):
        return host if not labels[-1].isdigit() else None
    return None


# ---- slices --------------------------------------------------------------------------------


def judge_slices(
    slices: Iterable[tuple[ObjectRef, EndpointSlice]], choice: PortChoice, zone: str, findings: Findings
) -> list[Judged]:
    """Judge every endpoint of a Service's slices for one port.

    Shape: in the order of the slices; an address that stands twice is eligible once.
    """
    judged: list[Judged] = []
    hints: list[tuple[str, ...] | None] = []
    for ref, piece in slices:
        if piece.address_type not in ("IPv4", "IPv6"):
            message = f"addresses of type {shown(piece.address_type)} are not served"
            findings.warning(ref, "addressType", "UnsupportedAddressType", message)
            continue
        ports = _ports(ref, piece, choice, findings)
        for index, written in enumerate(piece.endpoints or ()):
            state, why = _state(written)
            for one in _endpoints(ref, piece, index, written, state, why, ports, findings):
                judged.append(one)
                hints.append(_hints(written))
    judged = _serving_only(judged)
    return _first_of_each(_nearest(judged, hints, zone))


def eligible(judged: Iterable[Judged]) -> tuple[Endpoint, ...]:
    """Shape: by address and port."""
    found = [one.endpoint for one in judged if one.endpoint is not None]
    return tuple(sorted(found, key=_place))


def _place(endpoint: Endpoint) -> tuple[int, int, int]:
    return (endpoint.address.version, int(endpoint.address), endpoint.port)


def _ports(ref: ObjectRef, piece: EndpointSlice, choice: PortChoice, findings: Findings) -> list[int]:
    if choice.number:
        return [choice.number]
    numbers = []
    for index, port in enumerate(piece.ports or ()):
        if (port.name or "") != choice.name or port.protocol not in (None, "TCP") or port.port is None:
            continue
        if 0 < port.port < 65536:
            numbers.append(port.port)
        else:
            findings.error(ref, f"ports[{index}].port", "InvalidPort", f"{port.port} is no port")
    return numbers


def _endpoints(
    ref: ObjectRef,
    piece: EndpointSlice,
    index: int,
    written: SliceEndpoint,
    state: EndpointState | None,
    why: str,
    ports: list[int],
    findings: Findings,
) -> Iterator[Judged]:
    zone = written.zone or ""
    if len(zone) > 63 or not zone.isascii() or not zone.isprintable():
        zone = ""
    for place, text in enumerate(written.addresses):
        field = f"endpoints[{index}].addresses[{place}]"
        problem, address = "", None
        try:
            address = ip_address(text)
        except ValueError:
            problem = f"{shown(text)} is no IP address"
        if address is not None and ((address.version == 6) != (piece.address_type == "IPv6") or "%" in text):
            problem = f"{shown(text)} is no address of type {piece.address_type}"
        elif address is not None and (address.is_unspecified or address.is_multicast):
            problem = f"{shown(text)} cannot be connected to"
        if problem or address is None:
            findings.error(ref, field, "InvalidAddress", problem)
            yield Judged(ref, field, shown(text), 0, zone, None, problem)
            continue
        if not ports:
            yield Judged(ref, field, str(address), 0, zone, None, "its slice does not have the port")
        for port in ports:
            endpoint = Endpoint(address, port, state, zone) if state is not None else None
            yield Judged(ref, field, str(address), port, zone, endpoint, why)


def _state(written: SliceEndpoint) -> tuple[EndpointState | None, str]:
    """Ready ones get requests; terminating ones that still serve finish what they have."""
    conditions = written.conditions
    if conditions is None or conditions.ready is None or conditions.ready:
        return EndpointState.READY, "ready"
    if conditions.terminating and conditions.serving:
        return EndpointState.DRAINING, "terminating, but serving: it finishes what it has"
    return None, "terminating, and not serving any more" if conditions.terminating else "not ready"


def _serving_only(judged: list[Judged]) -> list[Judged]:
    """Where nothing is ready, what terminates but serves gets requests: better than a 503 in a roll-out."""
    if any(one.endpoint and one.endpoint.state is EndpointState.READY for one in judged):
        return judged
    why = "terminating, but serving, and nothing else is ready"
    return [
        replace(one, endpoint=replace(one.endpoint, state=EndpointState.READY), why=why)
        if one.endpoint
        else one
        for one in judged
    ]


def _hints(written: SliceEndpoint) -> tuple[str, ...] | None:
    if written.hints is None or not written.hints.for_zones:
        return None
    return tuple(zone.name for zone in written.hints.for_zones)


def _nearest(judged: list[Judged], hints: list[tuple[str, ...] | None], zone: str) -> list[Judged]:
    """Topology hints, as kube-proxy takes them: only if every ready endpoint has one, and one names us."""
    ready = [
        hint
        for one, hint in zip(judged, hints, strict=True)
        if one.endpoint and one.endpoint.state is EndpointState.READY
    ]
    if not zone or not all(ready) or not any(zone in hint for hint in ready if hint):
        return judged
    return [
        replace(one, endpoint=None, why=f"hinted for zone {', '.join(hint or ('none',))}, not for {zone}")
        if one.endpoint and zone not in (hint or ())
        else one
        for one, hint in zip(judged, hints, strict=True)
    ]


def _first_of_each(judged: list[Judged]) -> list[Judged]:
    """An address and port that stands in several slices counts once; ready wins over draining."""
    best: dict[tuple[int, int, int], int] = {}
    for index, one in enumerate(judged):
        if one.endpoint is None:
            continue
        known = best.get(_place(one.endpoint))
        other = judged[known].endpoint if known is not None else None
        if other is None or (one.endpoint.state.value, one.endpoint.zone) < (other.state.value, other.zone):
            best[_place(one.endpoint)] = index
    kept = set(best.values())
    return [
        replace(one, endpoint=None, why="stands in another slice, too")
        if one.endpoint and index not in kept
        else one
        for index, one in enumerate(judged)
    ]


# ---- external names ------------------------------------------------------------------------


def judge_external(
    ref: ObjectRef,
    choice: PortChoice,
    resolved: Mapping[str, Any] | None,
    allowed: Iterable[Network],
    findings: Findings,
) -> list[Judged]:
    """Judge the addresses of an ExternalName; ``resolved`` is what the controller's resolver last said.

    An address of this node, of loopback or of the link would lead a request past every guard of the node, so
    it is refused unless an option names it.
    """
    field = "spec.externalName"
    texts: list[str] = []
    if resolved is not None:
        texts = list(resolved.get("addresses", ()))
        error = str(resolved.get("error", ""))
        if error:
            last = "; the addresses it had stay" if texts else ""
            findings.warning(ref, field, "NotResolved", f"{choice.external}: {error}{last}")
    own = set(resolved.get("own", ()) if resolved is not None else ())
    try:
        texts = [str(ip_address(choice.external))]
    except ValueError:
        if resolved is None:
            findings.warning(ref, field, "NotResolved", f"{choice.external} is not resolved yet")
    judged = []
    for text in texts:
        address = ip_address(text)
        problem = _forbidden(address, text in own, allowed)
        if problem:
            findings.error(
                ref, field, "ForbiddenAddress", f"{choice.external} has the address {text}: {problem}"
            )
        endpoint = None if problem else Endpoint(address, choice.number)
        judged.append(Judged(ref, field, text, choice.number, "", endpoint, problem or "resolved"))
    return judged


def _forbidden(address: Address, own: bool, allowed: Iterable[Network]) -> str:
    if any(address.version == network.version and address in network for network in allowed):
        return ""
    mapped = getattr(address, "ipv4_mapped", None) or address
    for problem, found in (
        ("it is of loopback", mapped.is_loopback),
        ("it is of the link alone", mapped.is_link_local),
        ("nothing can be connected to there", mapped.is_unspecified or mapped.is_multicast),
        ("it is this node's own", own),
    ):
        if found:
            return problem
    return ""
