"""The wall clock of every process of every edge, moved at will; no other clock is.

    clocks = Clocks(kube, edge)
    clocks.install(36 * 3600)    # a rollout: what takes over is 36 hours ahead of what it takes over from
    clocks.shift(-36 * 3600)     # of all nodes, at once
    clocks.show()                # waits until clients and the API server see it
    clocks.remove()              # a rollout

A library is preloaded, named by the container's /etc/ld.so.preload: so it is in every program that starts in
there, those too that the holder starts with a clean environment.
"""

from __future__ import annotations

import datetime
import email.utils
import json
import subprocess
import tempfile
import time
from pathlib import Path

from tests.e2e.lab import ROOT
from tests.kube.cluster import Cluster
from tests.kube.installed import NAME, NAMESPACE, Installed
from tests.kube.node import Node

SOURCE = ROOT / "tests" / "e2e" / "shifted_clock.c"
ON_NODE, INSIDE, PRELOAD = Path("/run/shifted-clock"), Path("/shifted-clock"), "/etc/ld.so.preload"
PROCESSES = ("edge-holder", "edge-controller", "edge-data")
NEAR_S = 60


class Clocks:
    """`now`: by how many seconds they are wrong."""

    def __init__(self, kube: Cluster, edge: Installed) -> None:
        self.kube, self.edge = kube, edge
        self.now = 0

    def shift(self, seconds: int) -> None:
        """Have them wrong by so much; who has mapped the page sees it, for the file stays the same."""
        self.now = seconds
        page = seconds.to_bytes(8, "little", signed=True)
        for node in self.kube.nodes:
            node.run(["mkdir", "-p", ON_NODE])
            node.run(["dd", f"of={ON_NODE / 'page'}", "conv=notrunc"], give=page)

    def install(self, seconds: int = 0) -> None:
        """Roll out edges whose clocks are wrong by so much. Errors: PlaceError: a process has its own."""
        with tempfile.TemporaryDirectory() as scratch:
            library = Path(scratch, "clock.so")
            page = f'-DCLOCK_PAGE="{INSIDE / "page"}"'
            subprocess.run(["gcc", "-O1", "-shared", "-fPIC", page, SOURCE, "-o", library], check=True)
            files = {"clock.so": library.read_bytes(), "preload": f"{INSIDE / 'clock.so'}\n".encode()}
        self.shift(seconds)
        for node in self.kube.nodes:
            for name, data in files.items():
                node.run(["sh", "-c", 'cat >"$0"', ON_NODE / name], give=data)
        folder = {"path": str(ON_NODE), "type": "Directory"}
        preload = {"path": str(ON_NODE / "preload"), "type": "File"}
        self._roll(
            [{"name": "clock", "hostPath": folder}, {"name": "preload", "hostPath": preload}],
            [
                {"name": "clock", "mountPath": str(INSIDE), "readOnly": True},
                {"name": "preload", "mountPath": PRELOAD, "readOnly": True},
            ],
        )
        for node in self.kube.nodes:
            for name in PROCESSES:
                node.run(["sh", "-c", f"grep -q {INSIDE}/page /proc/$(pgrep -n -x {name})/maps"])

    def remove(self) -> None:
        """Roll out edges with the clock of their node."""
        gone = {"$patch": "delete"}
        self._roll(
            [{"name": name, **gone} for name in ("clock", "preload")],
            [{"mountPath": place, **gone} for place in (str(INSIDE), PRELOAD)],
        )
        for node in self.kube.nodes:
            node.run(["rm", "-r", ON_NODE])

    def _roll(self, volumes: list[dict[str, object]], mounts: list[dict[str, object]]) -> None:
        pod = {"volumes": volumes, "containers": [{"name": "edge", "volumeMounts": mounts}]}
        patch = json.dumps({"spec": {"template": {"spec": pod}}})
        self.kube.kubectl("-n", NAMESPACE, "patch", "daemonset", NAME, "-p", patch)
        self.edge.rolled()

    # ---- What others see ---------------------------------------------------------------------

    def show(self) -> None:
        """Wait until every node's data plane and controller tell the wrong time."""
        for node in self.kube.nodes:

            def shows(node: Node = node) -> bool:
                return all(abs(wrong - self.now) < NEAR_S for wrong in self.wrong(node))

            self.kube.wait(f"{node.name} tells another time", shows, 60)

    def wrong(self, node: Node) -> list[float]:
        """By how many seconds: the Date of an answer of its own, the Lease by which a node reports."""
        date = self.edge.ask(node, "nobody.test").headers["date"]
        lease = self.kube.api.get("coordination.k8s.io/v1", "Lease", f"{NAME}-node-{node.name}", NAMESPACE)
        renewed = datetime.datetime.fromisoformat(lease["spec"]["renewTime"])
        told = (email.utils.parsedate_to_datetime(date), renewed)
        return [moment.timestamp() - time.time() for moment in told]
