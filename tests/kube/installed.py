"""xdp-edge on a Kubernetes of the tests: applied as a user applies it, and asked as the world asks it.

    edge.ask(node, "web.example")            # one request from the client's network to a node's address
    edge.everywhere("web.example", 200)      # waits until every node answers so
    edge.metrics(node), edge.admin_json(node, "/xdp")
    edge.pods()                              # the DaemonSet's Pods, one a node, all Ready

Tests take the fixture `edge`. It knows xdp-edge by what an operator knows: manifests, kubectl, admin API.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from manifests.image.build import build
from tests.e2e.lab import ROOT, wait_for
from tests.fakes.client import Client, Closed, Response
from tests.kube.api import Object
from tests.kube.cluster import Cluster
from tests.kube.node import Node

OVERLAY = ROOT / "manifests" / "overlays" / "lab"
NAMESPACE, NAME = "xdp-edge", "xdp-edge"
SELECTOR = f"app.kubernetes.io/name={NAME}"
ADMIN = ("127.0.0.1", 9901)


class Installed:
    """xdp-edge on all nodes; a context manager that only installs: it goes with its Kubernetes."""

    def __init__(self, kube: Cluster) -> None:
        self.kube = kube

    def __enter__(self) -> Installed:
        self.kube.load(build())
        kept = self.kube.kubectl("-n", NAMESPACE, "get", "daemonset", NAME, "--ignore-not-found", check=False)
        self.kube.kubectl("apply", "-k", OVERLAY)
        if NAME in kept:  # on a Kubernetes that is kept, the image may be another one meanwhile
            self.kube.kubectl("-n", NAMESPACE, "rollout", "restart", f"daemonset/{NAME}")
        self.rolled()
        return self

    def __exit__(self, *_reason: object) -> None:
        """Leave it: the next test session on a Kubernetes that is kept finds it there."""

    def pods(self, seconds: float = 90.0) -> list[Object]:
        """Wait until each node has its one Pod, Ready; return them."""
        return self.kube.ready_pods(NAMESPACE, SELECTOR, seconds=seconds)

    def rolled(self) -> None:
        """Wait until the DaemonSet's newest form runs on all nodes, and no other."""
        self.kube.kubectl("-n", NAMESPACE, "rollout", "status", f"daemonset/{NAME}", "--timeout=150s")
        self.pods(150)

    # ---- Asking ------------------------------------------------------------------------------

    def ask(
        self,
        node: Node,
        host: str,
        path: str = "/",
        method: str = "GET",
        headers: dict[str, str] | None = None,
        *,
        tls: bool = False,
    ) -> Response:
        """Ask once over a fresh connection. Errors: OSError, Closed."""
        with self.kube.on("client"):
            client = Client(node.address, 443 if tls else 80, tls_name=host if tls else None)
        with client:
            return client.ask(host, path, method, headers)

    def status(self, node: Node, host: str, path: str = "/", *, tls: bool = False) -> int:
        """Return the status of one answer, 0 when there is none."""
        try:
            return self.ask(node, host, path, tls=tls).status
        except (OSError, Closed):
            return 0

    def told(self, node: Node, host: str, path: str = "/") -> dict[str, Any]:
        """Return what the echo answered, {} when it was not the echo."""
        try:
            answer = self.ask(node, host, path)
        except (OSError, Closed):
            return {}
        return dict(json.loads(answer.body)) if answer.status == 200 else {}

    def everywhere(
        self,
        host: str,
        wanted: int = 200,
        path: str = "/",
        *,
        nodes: Sequence[Node] = (),
        seconds: float = 30.0,
    ) -> None:
        """Wait until every node answers so."""
        for node in nodes or self.kube.nodes:
            what = f"{host}{path} is {wanted} on {node.name}"
            try:
                wait_for(what, lambda node=node: self.status(node, host, path) == wanted, seconds, 0.02)
            except AssertionError as error:
                status, told = self.status(node, host, path), self.admin(node, "/diagnostics").text
                raise AssertionError(f"{error}; it is {status}; diagnostics: {told[-3000:]}") from error

    def certificate(self, node: Node, name: str) -> bytes:
        """Shape: the DER that a node shows for a server name."""
        with self.kube.on("client"):
            client = Client(node.address, 443, tls_name=name)
        with client:
            return client.socket.getpeercert(binary_form=True) or b""  # type: ignore[attr-defined]

    # ---- What operators look at --------------------------------------------------------------

    def admin(self, node: Node, path: str) -> Response:
        """Ask a node's admin API."""
        with self.kube.on(node.name):
            client = Client(*ADMIN)
        with client:
            return client.ask("localhost", path)

    def admin_json(self, node: Node, path: str) -> Any:
        """Return the admin API's answer, decoded."""
        answer = self.admin(node, path)
        assert answer.status == 200, (path, answer)
        return json.loads(answer.body)

    def metrics(self, node: Node) -> dict[str, float]:
        """Return the samples of /metrics by name and labels."""
        lines = [line.rpartition(" ") for line in self.admin(node, "/metrics").text.splitlines()]
        return {name: float(value) for name, _, value in lines if not name.startswith("#")}
