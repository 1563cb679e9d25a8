"""What this node serves, for all to see: a Lease of its own, kept up by every instance.

Started by reporter.py; the leader reads the Leases of all nodes to say whether a policy is in force
everywhere (status.py). It says only what every worker has taken over. The Node owns the Lease, so that the
API server removes it with the Node.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from edge.controller.calls import MERGE_PATCH, Calls
from edge.controller.leader import LEASE_API, LEASES
from edge.controller.log import micro_moment, say
from edge.controller.status import fitted
from edge.errors import ApiError

NAME_MAX = 253
NOTES = "xdp-edge.dev/"
ROUTES, ENDPOINTS, VERSION, XDP = (
    NOTES + name for name in ("routes-digest", "endpoints-digest", "version", "xdp")
)
LABEL = {NOTES + "report": "node"}
SELECTOR = NOTES + "report=node"
RENEW_S = 10.0
CHANGE_S = 1.0
LASTS_S = 40  # a report that is older says nothing any more
RETRY_MAX_S = 30.0


@dataclass(frozen=True, slots=True)
class Report:
    """``routes``, ``endpoints``: digests in hex, "": nothing is served; ``xdp``: native, generic, off."""

    routes: str
    endpoints: str
    version: int
    xdp: str = "off"

    def annotations(self) -> dict[str, str]:
        """Shape: as the Lease has it."""
        return {ROUTES: self.routes, ENDPOINTS: self.endpoints, VERSION: str(self.version), XDP: self.xdp}


def lease_name(election: str, node: str) -> str:
    """Shape: a name that the API takes, of a node's report. ``election``: the Lease of the leader."""
    return fitted(f"{election.removesuffix('-leader')}-node-{node}", NAME_MAX)


class NodeReport:
    """``name``: of the Lease; ``current``: what is served now, asked once a second; None: another speaks."""

    def __init__(
        self,
        calls: Calls,
        namespace: str,
        node: str,
        name: str,
        holder: str,
        current: Callable[[], Report | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls
        self._folder = LEASES.format(namespace)
        self._namespace = namespace
        self._node = node
        self._name = name
        self._holder = holder
        self._current = current
        self._clock = clock
        self._sent: Report | None = None
        self._sent_at = 0.0
        self._failures = 0
        self._told = ""

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self.turn()
            wait = CHANGE_S if not self._failures else min(CHANGE_S * 2**self._failures, RETRY_MAX_S)
            await asyncio.sleep(wait)

    async def turn(self) -> None:
        """Send what is new, or what is due. Never fails."""
        report = self._current()
        if report is None or (report == self._sent and self._clock() < self._sent_at + RENEW_S):
            return
        try:
            await self._send(report)
        except ApiError as error:
            self._failures = min(self._failures + 1, 10)
            if str(error) != self._told:
                say(f"Lease {self._name}: {error}")
            self._told = str(error)
            return
        self._sent, self._sent_at, self._failures, self._told = report, self._clock(), 0, ""

    async def _send(self, report: Report) -> None:
        spec = {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": LASTS_S,
            "renewTime": micro_moment(time.time()),
        }
        metadata: dict[str, Any] = {"annotations": report.annotations(), "labels": LABEL}
        body = msgspec.json.encode({"metadata": metadata, "spec": spec})
        path = f"{self._folder}/{self._name}"
        try:
            await self._calls.request("PATCH", path, body=body, content_type=MERGE_PATCH)
            return
        except ApiError as error:
            if error.status != 404:
                raise
        metadata |= {
            "name": self._name,
            "namespace": self._namespace,
            "ownerReferences": await self._owners(),
        }
        body = msgspec.json.encode({**LEASE_API, "metadata": metadata, "spec": spec})
        await self._calls.request("POST", self._folder, body=body)

    async def _owners(self) -> list[dict[str, Any]]:
        """Shape: the Node. Errors: ApiError, but for a Node that is not there."""
        try:
            node = msgspec.json.decode(await self._calls.request("GET", f"/api/v1/nodes/{self._node}"))
        except ApiError as error:
            if error.status not in (403, 404):
                raise
            return []
        uid = node["metadata"]["uid"]
        return [{"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": uid}]
