"""The same stories on kind: nodes are Docker containers. NOT run where this was written: no Docker there.

    EDGE_KUBE_ON=kind EDGE_KUBE_NODES=3 .venv/bin/python -m pytest tests/kube        # as root

Needs docker and kind on PATH. The Docker network has the addresses of tests/kube/network.py, so that
stories find the same ones; the client is one more container. Only how things are made differs.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.lab import wait_for
from tests.kube import images, network
from tests.kube.api import Kube
from tests.kube.kubernetes import Kubernetes
from tests.kube.place import Place

IMAGE = "kindest/node:v1.36.3"
MANIFESTS = "/etc/kubernetes/manifests"
AWAY = "/kind/away"


def call(*command: object, give: bytes | None = None, check: bool = True) -> str:
    """Run a program of the machine; return its output."""
    done = subprocess.run([str(word) for word in command], capture_output=True, input=give)
    if check and done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.decode()[-1500:]}")
    return done.stdout.decode()


def static(name: str) -> str:
    """Return the name of a static Pod for a daemon's name in tests/kube/control.py."""
    return {"etcd": "etcd", "api": "kube-apiserver"}.get(name, f"kube-{name}")


class KindNode:
    """One worker: a container with systemd in it."""

    def __init__(self, name: str, docker_network: str) -> None:
        self.name = name
        self.network = docker_network
        self.address, self.address6 = self.inspect("IPAddress"), self.inspect("GlobalIPv6Address")

    def inspect(self, field: str) -> str:
        """Return a field of the container's end in the network."""
        form = f'{{{{(index .NetworkSettings.Networks "{self.network}").{field}}}}}'
        return call("docker", "inspect", "-f", form, self.name).strip()

    def cut_power(self) -> None:
        """Kill the container."""
        call("docker", "kill", self.name)

    def boot(self) -> None:
        """Start the container again."""
        call("docker", "start", self.name)

    def cut_link(self) -> None:
        """Take the container from the network."""
        call("docker", "network", "disconnect", self.network, self.name)

    def restore_link(self) -> None:
        """Put it back, under its address."""
        addresses = ("--ip", self.address, "--ip6", self.address6)
        call("docker", "network", "connect", *addresses, self.network, self.name)

    def restart(self, daemon: str) -> None:
        """End and start a daemon; kube-proxy is a Pod there and comes back by itself."""
        if daemon == "kube-proxy":
            self.run(["pkill", "kube-proxy"])
        else:
            self.run(["systemctl", "restart", daemon])

    def run(
        self, command: Sequence[object], *, check: bool = True, give: bytes | None = None
    ) -> subprocess.CompletedProcess[str] | None:
        """Run a command in the container."""
        done = subprocess.run(
            ["docker", "exec", "-i", self.name, *map(str, command)], capture_output=True, input=give
        )
        if done.returncode and check:
            raise RuntimeError(f"{self.name}: {command}: {done.stderr.decode()}")
        text = (done.stdout.decode(), done.stderr.decode())
        return None if done.returncode else subprocess.CompletedProcess(done.args, 0, *text)


class KindControl:
    """The control plane: static Pods of its own container, ended by moving their manifests away."""

    def __init__(self, name: str, api: Kube) -> None:
        self.name = name
        self.api = api

    def start(self, name: str) -> None:
        """Put the manifest back."""
        call("docker", "exec", self.name, "mv", f"{AWAY}/{static(name)}.yaml", MANIFESTS)

    def stop(self, name: str) -> None:
        """Move the manifest away and wait until its container is gone."""
        what = static(name)
        script = f"mkdir -p {AWAY} && mv {MANIFESTS}/{what}.yaml {AWAY}/ && "
        script += f"while crictl ps -q --name {what} | grep -q .; do sleep 0.2; done"
        call("docker", "exec", self.name, "sh", "-c", script)

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Wait until the API server calls itself ready."""
        wait_for("the API server is ready", self.api.ready, seconds, 0.1)


class Kind(Kubernetes):
    """A kind cluster; a context manager."""

    def __init__(self, nodes: int = 3) -> None:
        self.place = Place()
        self.count = nodes

    def __enter__(self) -> Kind:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_reason: object) -> None:
        self.down()

    def up(self) -> None:
        """Make the network, the nodes, the client."""
        name = self.place.name
        self.place.make()
        subnets = ("--subnet=198.18.77.0/24", "--ipv6", "--subnet=fd00:198:77::/64")
        call("docker", "network", "create", *subnets, name)
        os.environ["KIND_EXPERIMENTAL_DOCKER_NETWORK"] = name
        config = {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "networking": {
                "ipFamily": "dual",
                "podSubnet": f"{network.PODS},{network.PODS6}",
                "serviceSubnet": f"{network.SERVICES},{network.SERVICES6}",
            },
            "nodes": [{"role": "control-plane"}, *[{"role": "worker"}] * self.count],
        }
        create = ("kind", "create", "cluster", "--name", name, "--image", IMAGE, "--wait", "180s")
        call(*create, "--config", "-", give=json.dumps(config).encode())
        workers = [f"{name}-worker{'' if number == 1 else number}" for number in range(1, self.count + 1)]
        self.nodes = [KindNode(worker, name) for worker in workers]
        for node in self.nodes:
            node.run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])
        client = ("--cap-add=NET_ADMIN", "--ip", network.CLIENT, "--ip6", network.CLIENT6)
        images.make(self.place.run / "images")
        call("docker", "load", "-i", self.place.run / "images" / "web.tar")
        call("docker", "run", "-d", "--name", f"{name}-client", "--network", name, *client, images.WEB)
        roles = {"client": f"{name}-client", **{f"n{i}": w for i, w in enumerate(workers, 1)}}
        for role, container in roles.items():
            pid = call("docker", "inspect", "-f", "{{.State.Pid}}", container).strip()
            call("ip", "netns", "attach", self.place.namespace(role), pid)
        self.admin = self.place.run / "admin.kubeconfig"
        self.admin.write_text(call("kind", "get", "kubeconfig", "--name", name))
        plain = self.place.run / "admin.json"
        plain.write_text(self.kubectl("config", "view", "--raw", "-o", "json"))
        self.api = Kube(plain, "")
        self.control = KindControl(f"{name}-control-plane", self.api)
        self.load(self.place.run / "images" / "web.tar")

    def down(self) -> None:
        """Remove the nodes, the client and the network."""
        call("kind", "delete", "cluster", "--name", self.place.name, check=False)
        call("docker", "rm", "-f", f"{self.place.name}-client", check=False)
        call("docker", "network", "rm", self.place.name, check=False)
        self.place.remove()

    def on(self, role: str) -> contextlib.AbstractContextManager[None]:
        """Run a block in a container's network; the API server is reached from the machine's own."""
        if role == "control":
            return contextlib.nullcontext()
        names = {node.name: f"n{number}" for number, node in enumerate(self.nodes, 1)}
        return super().on(names.get(role, role))

    def load(self, archive: Path) -> None:
        """Import a docker-archive into every node."""
        call("kind", "load", "image-archive", archive, "--name", self.place.name)
