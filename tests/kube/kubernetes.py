"""What stories do with a Kubernetes, whoever provided it: this machine's namespaces, kind or Vagrant.

Each provider makes the parts: `api`, `nodes`, `control`, on(), load(); the rest is here.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.e2e.lab import inside, wait_for
from tests.kube import build
from tests.kube.api import Kube, KubeError, Object
from tests.kube.place import Place
from tests.kube.workload import daemon_set, service


class AnyNode(Protocol):
    """What stories do to one node."""

    name: str
    address: str

    def cut_power(self) -> None:
        """End everything on the node at once; its disk stays."""

    def boot(self) -> None:
        """Give it power again."""

    def cut_link(self) -> None:
        """Pull its cable."""

    def restore_link(self) -> None:
        """Plug the cable in again."""

    def restart(self, daemon: str) -> None:
        """End and start containerd, kubelet or kube-proxy."""

    def run(
        self, command: Sequence[object], *, check: bool = True, give: bytes | None = None
    ) -> subprocess.CompletedProcess[str] | None:
        """Run a command on the node; without `check` a failure gives None."""


class AnyControl(Protocol):
    """What stories do to the control plane: `api`, `etcd`, `controller-manager`, `scheduler` by name."""

    def start(self, name: str) -> None:
        """Start one daemon."""

    def stop(self, name: str) -> None:
        """End one daemon and wait for its end."""

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Wait until the API server calls itself ready."""


class Kubernetes:
    """Common to all providers. `admin` is a kubeconfig; `place` names the network namespaces."""

    place: Place
    api: Kube
    admin: Path
    nodes: Sequence[AnyNode]
    control: AnyControl
    count: int

    def on(self, role: str) -> contextlib.AbstractContextManager[None]:
        """Run a block in the network of `client`, `control` or a node (`n1`): this thread and its sockets."""
        return inside(self.place.namespace(role))

    def load(self, archive: Path) -> None:
        """Import a docker-archive into every node."""
        raise NotImplementedError

    def kubectl(self, *arguments: object, give: str | None = None, check: bool = True) -> str:
        """Run kubectl as admin; return its output. Errors: AssertionError with its words."""
        done = self.run_as_admin("kubectl", arguments, give)
        assert not check or done.returncode == 0, f"kubectl {arguments}: {done.stderr}"
        return done.stdout if done.returncode == 0 else done.stderr

    def run_as_admin(
        self, name: str, arguments: tuple[object, ...], give: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `kubectl` or `helm` in the control namespace as admin."""
        environment = os.environ | {
            "KUBECONFIG": str(self.admin),
            "KUBECACHEDIR": str(self.place.run / "kubectl"),
            "HOME": str(self.place.run),
        }
        program = build.programs((name,))[name]
        with self.on("control"):
            return subprocess.run(
                [str(program), *map(str, arguments)],
                capture_output=True,
                text=True,
                input=give,
                env=environment,
                timeout=180,
            )

    def ready_pods(
        self, namespace: str, selector: str, count: int | None = None, seconds: float = 60.0
    ) -> list[Object]:
        """Wait until `count` Pods (default: one a node) are Ready and no other is there; return them."""
        wanted = len(self.nodes) if count is None else count

        def found() -> list[Object] | None:
            pods = self.api.list("v1", "Pod", namespace, selector)
            good = [pod for pod in pods if condition(pod, "Ready") == "True" and not going(pod)]
            return [*good, {}] if len(good) == len(pods) == wanted else None

        try:
            pods: list[Object] = self.wait(f"{wanted} Pods {selector}", found, seconds)
            return pods[:-1]
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.explain(namespace, selector)}") from None

    def wait(self, what: str, predicate: Callable[[], Any], seconds: float = 60.0) -> Any:
        """Wait until a predicate holds; an API server that cannot be reached counts as not yet."""

        def holds() -> Any:
            try:
                return predicate()
            except KubeError as error:
                if error.status not in (0, 404, 409, 429, 500, 503, 504):
                    raise
                return None

        return wait_for(what, holds, seconds, 0.05)

    def explain(self, namespace: str, selector: str) -> str:
        """Return what an operator would look at when Pods do not come up."""
        pods = self.kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "wide", check=False)
        events = self.kubectl("-n", namespace, "get", "events", "--sort-by=.lastTimestamp", check=False)
        logs = self.kubectl(
            "-n", namespace, "logs", "-l", selector, "--tail=20", "--all-containers", check=False
        )
        return "\n".join((pods, *events.splitlines()[-15:], logs))

    def settles(self, namespace: str, seconds: float = 240.0) -> None:
        """Wait until the cluster's own parts all follow the API server again: each has its back-off.

        A Pod on every node shows controllers, scheduler and kubelets, its Service's endpoints the rest.
        """
        name = f"settles-{time.monotonic_ns()}"
        things = [daemon_set(name, namespace), service(name, namespace)]
        self.api.apply(things)

        def ready() -> int:
            slices = self.api.list(
                "discovery.k8s.io/v1", "EndpointSlice", namespace, f"kubernetes.io/service-name={name}"
            )
            known = [one for each in slices for one in each.get("endpoints") or ()]
            return sum(one["conditions"].get("ready", False) for one in known)

        self.wait(
            "every node runs a new Pod, and its Service knows it", lambda: ready() == self.count, seconds
        )
        self.api.delete(things)

    def takes_pods(self) -> bool:
        """Say whether every node is Ready and without taints."""
        nodes = self.api.list("v1", "Node")
        good = [n for n in nodes if condition(n, "Ready") == "True" and not n["spec"].get("taints")]
        return len(good) == self.count

    def has_account(self, namespace: str = "default") -> bool:
        """Say whether Pods can be made: they need a service account and the CA's ConfigMap."""
        with contextlib.suppress(KubeError):
            self.api.get("v1", "ServiceAccount", "default", namespace)
            self.api.get("v1", "ConfigMap", "kube-root-ca.crt", namespace)
            return True
        return False


def condition(thing: Object, kind: str) -> str:
    """Return the status of a condition of an object, empty where it has none."""
    for entry in thing.get("status", {}).get("conditions", []):
        if entry["type"] == kind:
            return str(entry["status"])
    return ""


def going(thing: Object) -> bool:
    """Say whether an object is being deleted."""
    return "deletionTimestamp" in thing["metadata"]
