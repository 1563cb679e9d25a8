"""Load through the nodes of a Kubernetes: the survival program's client, denied source and tap.

1,000 requests a second through each node (kept, fresh and echo), a download a second, and a tunnel; a
source that an EdgePolicy denies; and a look at eth0's XDP program all the time. Nothing is judged here but
by `judge`, which says what of it a client would call a failure.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

from pyroute2 import IPRoute

from tests.e2e.lab import give
from tests.e2e.survival.traffic import HOST, Client, DeniedSource, Seen, Tap
from tests.kube.api import Object
from tests.kube.cluster import Cluster
from tests.kube.node import Node
from tests.kube.workload import deployment

RATES = (700, 280, 20)  # requests a second: kept, fresh, echo
DENIED = "198.18.77.66"
LOOK_S = 0.02
__all__ = ["DENIED", "HOST", "Load", "denied_address", "denies", "judge", "plain"]


def plain(name: str, namespace: str, replicas: int, version: str = "1") -> Object:
    """Return the Deployment that answers what the client checks; its Pods leave as a user's should.

    Before SIGTERM they wait until the endpoint has left every node (preStop).
    """
    made = deployment(
        name,
        namespace,
        replicas=replicas,
        version=version,
        linger="0s",
        environment={"PLAIN": "1"},
    )
    (container,) = made["spec"]["template"]["spec"]["containers"]
    container["readinessProbe"] |= {"timeoutSeconds": 5}  # on a machine that is busy with all of this
    container["lifecycle"] = {"preStop": {"sleep": {"seconds": 3}}}
    made["spec"]["strategy"] = {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    return made


def denies(source: str = DENIED) -> Object:
    """Return an EdgePolicy that denies the source."""
    return {
        "apiVersion": "xdp-edge.dev/v1alpha1",
        "kind": "EdgePolicy",
        "metadata": {"name": "denies"},
        "spec": {"deny": [f"{source}/32"]},
    }


@contextlib.contextmanager
def denied_address(kube: Cluster) -> Iterator[None]:
    """Give the client the denied source as a second address."""
    with kube.on("client"), IPRoute() as route:
        give(route, "eth0", DENIED, 32)
    try:
        yield
    finally:
        with kube.on("client"), IPRoute() as route:
            route.addr("del", index=route.link_lookup(ifname="eth0")[0], address=DENIED, prefixlen=32)


class Seat:
    """A node between clients, as the survival program's parts know it."""

    def __init__(self, kube: Cluster, node: Node) -> None:
        self._kube, self._node = kube, node

    def inside(self, role: str) -> contextlib.AbstractContextManager[None]:
        """Run a block in the namespace of `node`, or of a client."""
        return self._kube.on(self._node.name if role == "node" else "client")


class XdpWatch:
    """Looks which XDP program eth0 of a node has; a context manager."""

    def __init__(self, kube: Cluster, node: Node) -> None:
        self._kube, self._node = kube, node
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.looks = self.off = 0
        self.programs: set[int] = set()

    def __enter__(self) -> XdpWatch:
        self._thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        with self._kube.on(self._node.name), IPRoute() as route:
            index = route.link_lookup(ifname="eth0")[0]
            while not self._stop.wait(LOOK_S):
                xdp = route.link("get", index=index)[0].get_attr("IFLA_XDP")
                found = {value for name, value in xdp["attrs"] if name.endswith("PROG_ID")} if xdp else set()
                self.looks += 1
                self.off += not found
                self.programs |= found


class Load:
    """All of it on some nodes, from its start to finish(); a context manager."""

    def __init__(
        self,
        kube: Cluster,
        nodes: Sequence[Node] = (),
        *,
        denied: bool = False,
        rates: tuple[int, int, int] | None = None,
    ) -> None:
        self.kube, self.nodes, self.denied, self.rates = kube, nodes or kube.nodes, denied, rates or RATES
        self.clients: dict[str, Client] = {}
        self.sources: dict[str, DeniedSource] = {}
        self.taps: dict[str, Tap] = {}
        self.watches: dict[str, XdpWatch] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Load:
        with contextlib.ExitStack() as stack:
            for node in self.nodes:
                seat = Seat(self.kube, node)
                if self.denied:
                    self.taps[node.name] = stack.enter_context(Tap(seat, DENIED))
                    source = DeniedSource(seat, DENIED, node.address)
                    self.sources[node.name] = stack.enter_context(source)
                    self.watches[node.name] = stack.enter_context(XdpWatch(self.kube, node))
                client = Client(seat, node.address, rates=self.rates)
                self.clients[node.name] = stack.enter_context(client)
            for client in self.clients.values():
                client.wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._stack.close()

    def finish(self) -> dict[str, Seen]:
        """End all of it. Shape: what was seen of each node."""
        found = {name: client.finish() for name, client in self.clients.items()}
        for name, source in self.sources.items():
            found[name].denied = source.finish()
            found[name].passed = self.taps[name].read()
        return found


def judge(load: Load, seen: dict[str, Seen], *, tunnels: int = 0) -> list[str]:
    """Shape: what of it a client would call a failure, the first of each kind; so many tunnels may be cut."""
    wrong: list[str] = []
    for name, one in seen.items():
        cut = [event for event in one.events if event.failed and event.kind == "tunnel"]
        lost = [event for event in one.events if event.failed and event.kind != "tunnel"]
        if len(cut) > tunnels:
            lost += cut
        for kind, number in Counter((event.kind, event.what, event.status) for event in lost).items():
            first = next(event for event in lost if (event.kind, event.what, event.status) == kind)
            wrong.append(f"{name}: {number} of {one.requests} requests, the first: {first.describe()}")
        if one.refused:
            wrong.append(f"{name}: {one.refused} connections refused")
        if one.denied and (one.denied["accepted"] or one.passed):
            wrong.append(f"{name}: {one.denied} and {len(one.passed)} packets of the denied source")
        watch = load.watches.get(name)
        if watch and (watch.off or not watch.looks):
            wrong.append(f"{name}: eth0 was without XDP in {watch.off} of {watch.looks} looks")
    return wrong
