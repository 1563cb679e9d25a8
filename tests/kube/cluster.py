"""A real Kubernetes on this machine: control plane, one or three nodes, a client; up, down, and broken.

    with Cluster(nodes=3) as kube:                  # 6 s to Ready nodes once the programs are built
        kube.load(image_archive)                    # docker-archive into every node, now and at its boot
        kube.api.apply([object, ...])               # dicts; also create, patch, delete, get, list, request
        kube.kubectl("apply", "-k", "manifests/")   # as a user does; returns stdout
        kube.ready_pods("default", "app=web", 3)    # waits; returns the Pods
        with kube.on("client"): ...                 # a block in the client's network (sockets, processes)
        kube.nodes[0].cut_power() / .boot() / .cut_link() / .restore_link() / .restart("kubelet")
        kube.control.stop("api") / .start("api") / .wait_ready()    # also etcd, controller-manager, scheduler
        kube.nodes[0].run(["bpftool", "prog"])      # a command on the node

Tests take the fixture `kube`. Needs root. By hand: python -m tests.kube.cluster [--nodes N] runs until
Ctrl-C and prints what EDGE_KUBE must be for tests to use it instead of starting their own.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.lab import wait_for
from tests.kube import build, images, keys, network
from tests.kube.control import Control
from tests.kube.kubernetes import Kubernetes, condition, going
from tests.kube.node import Node
from tests.kube.nodeinit import SYSCTLS
from tests.kube.place import Place, PlaceError, sweep

__all__ = ["Cluster", "condition", "going"]


class Cluster(Kubernetes):
    """One Kubernetes; a context manager. `owner`: the process whose running one is used instead."""

    def __init__(self, nodes: int = 1, *, owner: int | None = None) -> None:
        self.place = Place(owner)
        self.attached = owner is not None
        self.count = nodes
        self.programs: Mapping[str, Path] = {}
        self.times: dict[str, float] = {}
        self.nodes: list[Node] = []
        self.loaded: set[tuple[Path, int]] = set()
        self.sysctls: set[tuple[str, str]] = set()

    # ---- Up and down -------------------------------------------------------------------------

    def __enter__(self) -> Cluster:
        sweep()
        self.programs = build.programs()
        if self.attached:
            self.know()
            return self
        atexit.register(self.down)
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_reason: object) -> None:
        if self.attached:
            self.api.close()
        else:
            self.down()

    def know(self) -> None:
        """Know the parts, of this one or of a running one."""
        alive = not self.attached
        self.control = Control(self.place, self.programs, dies_with_us=alive)
        self.api = self.control.api
        self.admin = self.place.run / "admin.kubeconfig"
        if self.attached:
            self.count = len(list(self.place.run.glob("n[0-9].kubeconfig")))
        self.nodes = [
            Node(self.place, number, self.programs, dies_with_us=alive) for number in range(1, self.count + 1)
        ]

    def up(self) -> None:
        """Start everything; returns when all nodes are Ready and take Pods."""
        started = time.monotonic()

        def reached(what: str) -> None:
            self.times[what] = time.monotonic() - started

        self.sysctls = machine_settings()
        self.place.make()
        keys.make(self.place.run, self.count)
        images.make(self.place.run / "images")
        network.make(self.place, self.count)
        reached("namespaces")
        self.know()
        self.control.start_all()
        reached("API server ready")
        for node in self.nodes:  # not in threads: a node dies with the thread that gave it power
            node.power_on()
        with ThreadPoolExecutor(self.count) as pool:
            list(pool.map(Node.start_daemons, self.nodes))
        wait_for("all nodes are Ready and take Pods", self.takes_pods, 60, 0.1)
        wait_for("the default service account", self.has_account, 60, 0.1)
        reached("nodes Ready")

    def down(self) -> None:
        """End and remove everything. Errors: PlaceError that lists what is left."""
        atexit.unregister(self.down)
        if self.nodes:
            self.api.close()
        left = self.place.remove()
        if self.sysctls:
            left += [f"{name}: {value}" for name, value in machine_settings() - self.sysctls]
        if self.nodes:
            self.control.reap()
            for node in self.nodes:
                node.reap()
        if left:
            raise PlaceError(f"left behind: {', '.join(left)}")

    # ---- Using -------------------------------------------------------------------------------

    def load(self, archive: Path) -> None:
        """Import a docker-archive into every node, once; a node that boots later gets it too."""
        kept = images.add(self.place.run / "images", archive)
        key = (archive, archive.stat().st_mtime_ns)
        if key in self.loaded:
            return
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(lambda node: node.load(kept), self.nodes))
        self.loaded.add(key)


def machine_settings() -> set[tuple[str, str]]:
    """Return those sysctls of the machine that a kubelet would change."""
    paths = [path for path in (Path("/proc/sys", name) for name in SYSCTLS) if path.exists()]
    return {(str(path), path.read_text().strip()) for path in paths}


def main() -> int:
    """Run one until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Run a Kubernetes for tests by hand until Ctrl-C.")
    parser.add_argument("--nodes", type=int, default=1, choices=(1, 2, 3))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Cluster(parser.parse_args().nodes) as kube:
        for what, seconds in kube.times.items():
            print(f"{seconds:6.1f} s  {what}")
        control = f"nsenter --net=/run/netns/{kube.place.namespace('control')}"
        print(f"{control} {build.find('kubectl')} --kubeconfig={kube.admin} get nodes")
        print(f"EDGE_KUBE={os.getpid()}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
