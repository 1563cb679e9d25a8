"""The table of what xdp-edge may ask of the API server: each line is a verb that the code calls, and why.

Used by test_access.py, which compares it with the manifests and with the calls in edge/, and by
tests/kube/test_access.py, which asks a real API server.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Right:
    """`where`: cluster (no namespace), watched (each watched namespace), events, own (its own namespace).

    `name`: the one object, "" for all.
    """

    where: str
    resource: str
    verb: str
    name: str = ""

    @property
    def group(self) -> str:
        """The API group."""
        return self.resource.partition(".")[2]

    @property
    def plural(self) -> str:
        """The resource without its group, its subresource with it."""
        return self.resource.partition(".")[0]


def _rights(where: str, resources: str, verbs: str, name: str = "") -> list[Right]:
    return [
        Right(where, resource, verb, name) for resource, verb in product(resources.split(), verbs.split())
    ]


HOOKS = "validatingwebhookconfigurations.admissionregistration.k8s.io"
TABLE = frozenset(
    [
        # edge/sources: what is followed
        *_rights("cluster", "ingressclasses.networking.k8s.io edgepolicies.xdp-edge.dev nodes", "list watch"),
        *_rights("watched", "ingresses.networking.k8s.io services secrets", "list watch"),
        *_rights("watched", "endpointslices.discovery.k8s.io", "list watch"),
        *_rights("own", "configmaps", "list watch", "xdp-edge"),
        # edge/controller/status_writer.py: an object is read again before what is not ours is touched
        *_rights("watched", "ingresses.networking.k8s.io", "get"),
        *_rights("watched", "ingresses/status.networking.k8s.io", "patch"),
        *_rights("cluster", "edgepolicies.xdp-edge.dev", "get"),
        *_rights("cluster", "edgepolicies/status.xdp-edge.dev", "patch"),
        # edge/controller/events.py
        *_rights("events", "events.events.k8s.io", "create patch"),
        # edge/controller/leader.py and node_report.py: Leases; the uid of the Node that one belongs to
        *_rights("own", "leases.coordination.k8s.io", "get create patch"),
        *_rights("cluster", "nodes", "get"),
        # edge/controller/reporter.py: its own Pods and what each node reports
        *_rights("own", "leases.coordination.k8s.io", "list watch"),
        *_rights("own", "pods", "get list watch"),
        # edge/admission/secret.py: the webhook's certificate, and where the API server looks for it
        *_rights("own", "secrets", "create"),
        *_rights("own", "secrets", "get update", "xdp-edge-webhook"),
        *_rights("cluster", HOOKS, "get patch", "xdp-edge"),
    ]
)  # fmt: skip

# Which objects bind a `where`, in the base.
BOUND = {
    "cluster": ("ClusterRole", "xdp-edge"),
    "watched": ("ClusterRole", "xdp-edge-watched"),
    "events": ("ClusterRole", "xdp-edge-events"),
    "own": ("Role", "xdp-edge"),
}

# Roles for people: what each may write, and where nobody but the operator's own namespace is meant.
PEOPLE = {
    "xdp-edge-viewer": "",
    "xdp-edge-route-author": "ingresses.networking.k8s.io",
    "xdp-edge-operator": "ingressclasses.networking.k8s.io edgepolicies.xdp-edge.dev",
}

# Every request that edge/ makes by itself, file by file; lists and watches are edge/sources/follow.py's.
CALLS = {
    "admission/secret.py": ["GET", "GET", "PATCH", "POST", "PUT"],
    "controller/events.py": ["PATCH", "POST"],
    "controller/leader.py": ["GET", "PATCH", "PATCH", "POST"],
    "controller/node_report.py": ["GET", "PATCH", "POST"],
    "controller/addresses.py": ["GET"],
    "controller/reporter.py": ["GET"],
    "controller/status_writer.py": ["GET", "PATCH"],
    "sources/follow.py": ["GET"],
}
# Every resource that is followed.
FOLLOWED = {
    "sources/kubernetes.py": {
        "CONFIG_MAPS",
        "EDGE_POLICIES",
        "ENDPOINT_SLICES",
        "INGRESSES",
        "INGRESS_CLASSES",
        "NODES",
        "SECRETS",
        "SERVICES",
    },
    "controller/reporter.py": {"LEASES", "NODES", "PODS"},
}
