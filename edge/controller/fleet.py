"""The nodes that serve, as the leader sees them: Ready Pods of ours, the Nodes' addresses, what they report.

Fed by reporter.py from three watches, while leading. Keeps a few words of each object, not the object. Pure,
with the time as an argument. A node whose Pod is not Ready any more keeps its address for a while: a restart
is no reason to write ten thousand Ingresses twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from edge.controller.node_report import LASTS_S, ROUTES, XDP
from edge.controller.status import in_order, of_node, subject

STAYS_S = 30.0
# Labels that tell the Pods of one revision from those of another.
REVISION_LABELS = ("controller-revision-hash", "pod-template-generation", "pod-template-hash")
VERSION_LABELS = ("app.kubernetes.io/version", "helm.sh/chart", "app.kubernetes.io/managed-by")


class _PodMetadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    labels: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""


class _PodStatus(msgspec.Struct, frozen=True):
    conditions: list[dict[str, Any]] | None = None


class _Pod(msgspec.Struct, frozen=True):
    metadata: _PodMetadata = _PodMetadata()
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _LeaseMetadata(msgspec.Struct, frozen=True):
    annotations: dict[str, str] | None = None


class _LeaseSpec(msgspec.Struct, frozen=True, rename="camel"):
    holder_identity: str | None = None
    renew_time: str | None = None


class _Lease(msgspec.Struct, frozen=True):
    metadata: _LeaseMetadata = _LeaseMetadata()
    spec: _LeaseSpec = _LeaseSpec()


T = TypeVar("T")
_pods = msgspec.json.Decoder(_Pod)
_leases = msgspec.json.Decoder(_Lease)


def siblings(raw: bytes) -> dict[str, str]:
    """Shape: the labels by which a Pod's siblings are found, of any revision; empty: there are none."""
    try:
        labels = _pods.decode(raw).metadata.labels or {}
    except msgspec.DecodeError:
        return {}
    named = {
        key: labels[key] for key in ("app.kubernetes.io/name", "app.kubernetes.io/instance") if key in labels
    }
    if named:
        return named
    return {key: text for key, text in labels.items() if key not in REVISION_LABELS + VERSION_LABELS}


@dataclass(frozen=True, slots=True)
class _Heard:
    """A report, and when it came: the node's clock is not believed."""

    routes: str
    xdp: str
    at: float


class Fleet:
    """Shape: nodes by name. ``node_of_lease`` names are the reports' Leases."""

    def __init__(self) -> None:
        self._pods: dict[str, tuple[str, bool]] = {}  # node, Ready
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._reports: dict[str, _Heard] = {}  # by Lease
        self._left: dict[str, float] = {}  # nodes without a Ready Pod: since when

    def alone(self, node: str) -> None:
        """Count this node alone: we run in no Pod."""
        if node:
            self._pods[""] = (node, True)

    def take_pods(self, changes: Iterable[tuple[str, bytes | None]], now: float) -> None:
        """Take in Pods by name; None: gone."""
        before = self.ready()
        for name, raw in changes:
            pod = _read(raw, _pods)
            if pod is None:
                self._pods.pop(name, None)
                continue
            found = pod.status.conditions or ()
            ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in found)
            self._pods[name] = (pod.spec.node_name, ready and pod.metadata.deletion_timestamp is None)
        after = self.ready()
        self._left |= dict.fromkeys(before - after, now)
        for node in after:
            self._left.pop(node, None)

    def take_nodes(self, changes: Iterable[tuple[str, bytes | None]]) -> None:
        """Take in Nodes by name."""
        for name, raw in changes:
            node = subject(raw)
            if node is None:
                self._addresses.pop(name, None)
                self._left.pop(name, None)
            else:
                self._addresses[name] = of_node(node)

    def take_reports(self, changes: Iterable[tuple[str, bytes | None]], now: float) -> None:
        """Take in the nodes' Leases by name."""
        for name, raw in changes:
            lease = _read(raw, _leases)
            if lease is None:
                self._reports.pop(name, None)
                continue
            notes = lease.metadata.annotations or {}
            self._reports[name] = _Heard(notes.get(ROUTES, ""), notes.get(XDP, ""), now)

    def remember(self, places: Iterable[str], now: float) -> None:
        """Say which addresses an earlier leader wrote: of these nodes, who is not Ready left just now."""
        known, ready = set(places), self.ready()
        for node, addresses in self._addresses.items():
            if node not in ready and known.intersection(addresses):
                self._left.setdefault(node, now)

    def ready(self) -> set[str]:
        """Shape: the nodes with a Ready Pod of ours."""
        return {node for node, ready in self._pods.values() if ready and node}

    def addresses(self, now: float) -> tuple[str, ...]:
        """Shape: the addresses at which clients find us."""
        ready = self.ready()
        if not ready:
            return ()
        staying = {node for node, since in self._left.items() if now < since + STAYS_S}
        return in_order(place for node in ready | staying for place in self._addresses.get(node, ()))

    def next_leave(self, now: float) -> float | None:
        """Units: seconds until a node's address is dropped; None: none is about to be."""
        waits = [since + STAYS_S - now for since in self._left.values() if now < since + STAYS_S]
        return min(waits, default=None)

    def all_addresses(self) -> set[str]:
        """Shape: those of every Node, with or without us."""
        return {place for places in self._addresses.values() for place in places}

    def report(self, lease: str, now: float) -> tuple[str, str]:
        """Shape: digest and XDP mode that a node reports; "" where it says nothing, or has not for long."""
        heard = self._reports.get(lease)
        return (heard.routes, heard.xdp) if heard is not None and now < heard.at + LASTS_S else ("", "")


def _read(raw: bytes | None, decoder: msgspec.json.Decoder[T]) -> T | None:
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError:
        return None
