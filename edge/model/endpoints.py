"""Service and EndpointSlices to the endpoints of an upstream.

Called by build.py once for each Service port that a route names. A slice says for itself which number
a named port has, so two slices of a Service may differ. Never resolves a name, never looks at a Pod.
Source: discovery.k8s.io/v1, EndpointConditions and EndpointPort.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from edge.model.diagnostics import ObjectRef
from edge.model.findings import Findings
from edge.model.types import Endpoint, EndpointState
from edge.resources.kinds import EndpointSlice, Problem, Service, ServicePort, SliceEndpoint, shown
from edge.resources.store import ResourceStore

SERVICE_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class PortChoice:
    """Which port of the slices to take: by name, or a number where the Service has no ports."""

    name: str = ""
    number: int = 0


class Services:
    """All Services and slices of the store, indexed for one model."""

    def __init__(self, store: ResourceStore, findings: Findings) -> None:
        self._findings = findings
        self._services: dict[tuple[str, str], Service] = {}
        self._slices: dict[tuple[str, str], list[tuple[ObjectRef, EndpointSlice]]] = {}
        self._broken: set[tuple[str, str]] = set()
        for namespace, name, decoded in store.typed("Service"):
            if isinstance(decoded, Problem):
                findings.problem(ObjectRef("Service", namespace, name), decoded)
                self._broken.add((namespace, name))
            else:
                assert isinstance(decoded, Service)
                self._services[namespace, name] = decoded
        for namespace, name, decoded in store.typed("EndpointSlice"):
            ref = ObjectRef("EndpointSlice", namespace, name)
            if isinstance(decoded, Problem):
                findings.problem(ref, decoded)
                continue
            assert isinstance(decoded, EndpointSlice)
            service = (decoded.metadata.labels or {}).get(SERVICE_LABEL)
            if service:
                self._slices.setdefault((namespace, service), []).append((ref, decoded))
            else:
                message = f"the label {SERVICE_LABEL} is missing, so the slice belongs to no Service"
                findings.warning(ref, "metadata.labels", "NoService", message)

    def choose(self, namespace: str, name: str, port: str) -> PortChoice | Problem:
        """Find a Service's port, given as the object wrote it.

        Shape: a Problem's field is relative to the reference: "name" or "port".
        """
        service = self._services.get((namespace, name))
        if service is None:
            if (namespace, name) in self._broken:
                return Problem("name", "InvalidService", f"Service {namespace}/{name} cannot be read")
            return Problem("name", "ServiceNotFound", f"there is no Service {namespace}/{name}")
        spec = service.spec
        if spec is None:
            return Problem("name", "InvalidService", f"Service {namespace}/{name} has no spec")
        if spec.type == "ExternalName":
            return Problem("name", "ExternalName", "Services of type ExternalName are not served yet")
        for candidate in spec.ports or ():
            if port in (candidate.name, str(candidate.port)) and candidate.protocol in (None, "TCP"):
                return self._checked(namespace, name, candidate)
        if not spec.ports and spec.cluster_ip == "None" and port.isdigit():
            return PortChoice(number=int(port))  # headless without ports: Pods answer on any
        return Problem("port", "PortNotFound", f"Service {namespace}/{name} has no TCP port {shown(port)}")

    def _checked(self, namespace: str, name: str, port: ServicePort) -> PortChoice | Problem:
        if not 0 < port.port < 65536:
            return Problem(
                "port", "InvalidService", f"port {port.port} of Service {namespace}/{name} is none"
            )
        return PortChoice(name=port.name or "")

    def endpoints(self, namespace: str, name: str, choice: PortChoice) -> tuple[Endpoint, ...]:
        """Shape: one entry for each address and port, by address; ready wins over draining."""
        best: dict[tuple[int, int, int], Endpoint] = {}
        for ref, piece in self._slices.get((namespace, name), ()):
            if piece.address_type not in ("IPv4", "IPv6"):
                message = f"addresses of type {shown(piece.address_type)} are not served"
                self._findings.warning(ref, "addressType", "UnsupportedAddressType", message)
                continue
            ports = self._ports(ref, piece, choice)
            for index, written in enumerate(piece.endpoints or ()):
                state = _state(written)
                if state is None:
                    continue
                for endpoint in self._endpoints(ref, piece, index, written, state, ports):
                    key = (endpoint.address.version, int(endpoint.address), endpoint.port)
                    if key not in best or endpoint.state is EndpointState.READY:
                        best[key] = endpoint
        return tuple(endpoint for _, endpoint in sorted(best.items(), key=lambda item: item[0]))

    def _ports(self, ref: ObjectRef, piece: EndpointSlice, choice: PortChoice) -> list[int]:
        if choice.number:
            return [choice.number]
        numbers = []
        for index, port in enumerate(piece.ports or ()):
            if (port.name or "") != choice.name or port.protocol not in (None, "TCP") or port.port is None:
                continue
            if 0 < port.port < 65536:
                numbers.append(port.port)
            else:
                self._findings.error(ref, f"ports[{index}].port", "InvalidPort", f"{port.port} is no port")
        return numbers

    def _endpoints(
        self,
        ref: ObjectRef,
        piece: EndpointSlice,
        index: int,
        written: SliceEndpoint,
        state: EndpointState,
        ports: list[int],
    ) -> Iterable[Endpoint]:
        zone = written.zone or ""
        if len(zone) > 63 or not zone.isascii() or not zone.isprintable():
            zone = ""
        for place, text in enumerate(written.addresses):
            field = f"endpoints[{index}].addresses[{place}]"
            try:
                address = ip_address(text)
            except ValueError:
                self._findings.error(ref, field, "InvalidAddress", f"{shown(text)} is no IP address")
                continue
            if (address.version == 6) != (piece.address_type == "IPv6") or "%" in text:
                message = f"{shown(text)} is no address of type {piece.address_type}"
                self._findings.error(ref, field, "InvalidAddress", message)
            elif address.is_unspecified or address.is_multicast:
                self._findings.error(ref, field, "InvalidAddress", f"{shown(text)} cannot be connected to")
            else:
                for port in ports:
                    yield Endpoint(address, port, state, zone)


def _state(written: SliceEndpoint) -> EndpointState | None:
    """Ready ones get requests; terminating ones that still serve finish what they have."""
    conditions = written.conditions
    if conditions is None or conditions.ready is None or conditions.ready:
        return EndpointState.READY
    if conditions.terminating and conditions.serving:
        return EndpointState.DRAINING
    return None
