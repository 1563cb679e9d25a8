"""Hand-over from one Pod to the next, as a DaemonSet with hostNetwork and maxSurge 1 does it.

Each Pod has its own PID and mount namespace, its own /run and /var/lib, and edge as PID 1. They share the
node's network, its BPF file system, and two host paths: the run directory and the state directory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pyroute2 import IPRoute

from bench.proxy import processes
from tests.e2e.lab import ADDRESS, ROOT, Lab, give, wait_for
from tests.e2e.objects import endpoints, ingress, policy, service, write
from tests.e2e.running import EDGE, Running
from tests.e2e.survival.scene import HOST, Asking, ask_inside
from tests.e2e.survival.table import Line, render
from tests.e2e.survival.traffic import DENIED, DENIED_ROLE, DeniedSource, Tap
from tests.e2e.test_pid1 import Container

pytestmark = [pytest.mark.root, pytest.mark.slow]

ENTER = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir /run/edge /var/lib/edge
mount --bind "$1" /run/edge
mount --bind "$2" /var/lib/edge
shift 2
exec "$@"
"""


class Pod(Container):
    """One Pod; its log is its own, its instance is the node's."""

    def command(self) -> list[str]:
        shared = {"run_dir": "/run/edge", "state_dir": "/var/lib/edge"}
        places = [str(self.options[name]) for name in shared]
        options, self.options = self.options, {**self.options, **shared}
        unshare, words = super().command()[:5], Running.command(self)
        self.options = options
        return [*unshare, "sh", "-c", ENTER, "sh", *places, *words]

    def rests(self) -> bool:
        """Tell whether nothing of it is left but its PID 1. Errors: AssertionError when that has ended."""
        assert self.process.poll() is None, f"the Pod ended:\n{self.lines()}"
        return processes.descendants(self.init) == [self.init]


@pytest.fixture
def lab() -> Lab:
    return Lab(clients=2, pods=1)


class Node:
    """The network, the objects, and the Pods that were started on it; a context manager."""

    def __init__(self, folder: Path, lab: Lab) -> None:
        self.folder, self.lab = folder, lab
        self.config = folder / "config"
        self.pods: list[Pod] = []
        self.grace_s = 5
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Node:
        lab = self.lab
        for name in ("config", "run", "state"):
            (self.folder / name).mkdir(mode=0o755)
        with contextlib.ExitStack() as stack:
            stack.enter_context(lab)
            lab.start_pod(1, "web")
            with lab.inside(DENIED_ROLE), IPRoute() as route:
                give(route, "eth0", DENIED, 32)
            slices = endpoints("web", 8080, [lab.pod_address(1)])
            write(self.config, "objects.yaml", service("web"), slices, ingress("a", [(HOST, "/", "web")]))
            write(self.config, "policy.yaml", policy(deny=[f"{DENIED}/32"]))
            stack.callback(self.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *reason: object) -> None:
        self._stack.close()

    def start(self) -> Pod:
        """Start the next Pod; all have the same command line, as those of a DaemonSet have."""
        one = Pod(
            self.folder, self.config, lab=self.lab, http=f"{ADDRESS}:80", xdp="native", workers=2,
            interface=self.lab.interfaces(), grace_period=self.grace_s, take_over=True,
        )  # fmt: skip
        if self.pods:
            one.name, one.admin_port = self.pods[0].name, self.pods[0].admin_port
            one.options = self.pods[0].options
        one.log = self.folder / f"pod{len(self.pods)}.log"
        self.pods.append(one)
        one.start()
        return one

    def start_ready(self) -> Pod:
        """Start the next Pod and wait until it is ready, as the kubelet does."""
        one = self.start()
        wait_for("the Pod is ready", one.ready, 30)
        return one

    def close(self) -> None:
        """End all Pods, and detach."""
        for one in self.pods:
            if one.process.poll() is None:
                os.kill(one.init, signal.SIGKILL)
                one.process.wait(10)
        assert not [pid for one in self.pods for pid in processes.descendants(one.process.pid)[1:]]
        with self.lab.inside("node"):
            run_dir = str(self.folder / "run")
            words = [EDGE, "detach", "--instance", self.pods[0].name, "--run-dir", run_dir]
            subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def node(tmp_path: Path, lab: Lab) -> Iterator[Node]:
    with Node(tmp_path, lab) as made:
        yield made


def startup_probe() -> list[str]:
    """The command of the DaemonSet's startup probe."""
    objects = yaml.safe_load_all((ROOT / "manifests" / "base" / "daemonset.yaml").read_text())
    (one,) = (found for found in objects if found["kind"] == "DaemonSet")
    return list(one["spec"]["template"]["spec"]["containers"][0]["startupProbe"]["exec"]["command"])


def started(one: Pod) -> bool:
    """Run the probe in a Pod, as the kubelet does."""
    enter = ["nsenter", "--target", str(one.init), "--pid", "--mount", "--net"]
    return subprocess.run([*enter, *startup_probe()], capture_output=True, timeout=10).returncode == 0


def test_a_pod_is_not_ready_by_what_the_one_before_it_answers(node: Node) -> None:
    """They share the node's network: the admin address answers for either, the startup probe does not."""
    old = node.start_ready()
    assert started(old)
    next_one = node.start()
    os.kill(next_one.init, signal.SIGSTOP)
    assert next_one.ready(), "the old one answers"
    assert not started(next_one)
    os.kill(next_one.init, signal.SIGCONT)
    wait_for("the next Pod has taken over", lambda: started(next_one) and next_one.ready(), 30)
    assert next_one.holder()["handovers"] == "1"
    assert old.stop() == 0 and next_one.stop() == 0


def test_pods_hand_over_and_nobody_notices(node: Node) -> None:
    lab, line = node.lab, Line("hand-over between Pods", times=3)
    old = node.start_ready()
    inside = ask_inside(lab)
    with Asking(old, client=inside) as asking, Tap(lab) as tap, DeniedSource(lab) as denied:
        for number in range(3):
            asking.go_on(50)
            before, counted = old.holder(), old.metrics()["edge_requests_total"]
            with inside(ADDRESS, 80) as tunnel:
                upgrade = {"Connection": "upgrade", "Upgrade": "echo"}
                assert tunnel.ask(HOST, "/tunnel", headers=upgrade).status == 101
                next_one = node.start_ready()
                wait_for("the next Pod holds", lambda one=next_one: one.holder()["data_state"] == "up")
                tunnel.send(b"still there")
                assert tunnel.read_exactly(11) == b"still there", "the tunnel ended before the grace period"
            wait_for("the old Pod has drained", old.rests, 30)
            # A container that ended by itself would be started again; it is told to, with its Pod.
            assert old.stop() == 0, old.lines()
            after = next_one.holder()
            assert int(after["committed"]) >= int(before["committed"]), (before, after)
            assert int(after["handovers"]) == number + 1, after
            now = next_one.metrics()["edge_requests_total"]
            assert now >= counted, f"the counter went back from {counted} to {now}"
            old = next_one
        asking.go_on(50)
        asking.finish(line, 0)
        tried = denied.finish()
        line.denied = len(tap.read())
    assert tried["accepted"] == 0 and line.denied == 0, tried
    assert not line.wrong and not line.resets and not line.refused, "\n" + render([line])
    write(node.config, "b.yaml", ingress("b", [("b.example", "/", "web")]))
    with lab.inside("client1"):
        wait_for("a change is served", lambda: old.served("b.example") == 200)
    assert old.stop() == 0


def test_a_pod_that_is_deleted_while_it_drains_keeps_its_grace_period(node: Node) -> None:
    """A rolling update deletes the old Pod as soon as the new one is ready, long before it has drained."""
    node.grace_s = 60
    old, inside = node.start_ready(), ask_inside(node.lab)
    with inside(ADDRESS, 80) as tunnel:
        upgrade = {"Connection": "upgrade", "Upgrade": "echo"}
        assert tunnel.ask(HOST, "/tunnel", headers=upgrade).status == 101
        next_one = node.start()
        wait_for("the next Pod has taken over", lambda: started(next_one) and next_one.ready(), 30)
        os.kill(old.init, signal.SIGTERM)
        until = time.monotonic() + 1.5  # a cut would come at once
        while time.monotonic() < until:
            tunnel.send(b"still there")
            assert tunnel.read_exactly(11) == b"still there"
    assert old.process.wait(30) == 0, old.lines()  # the last exchange is over, and its signal is remembered
    assert next_one.stop() == 0


def test_a_container_that_dies_is_started_again_behind_its_filter(node: Node) -> None:
    """With PID 1 everything of it dies: clients see connections refused, and those inside end; no more."""
    lab, line = node.lab, Line("kill -9 of a container")
    old = node.start_ready()
    with Asking(old, client=ask_inside(lab)) as asking, Tap(lab) as tap, DeniedSource(lab) as denied:
        asking.go_on(50)
        os.kill(old.init, signal.SIGKILL)
        old.process.wait(10)
        node.start_ready()
        asking.go_on(50)
        asking.finish(line, 10**6)
        tried = denied.finish()
        line.denied = len(tap.read())
    assert tried["accepted"] == 0 and line.denied == 0, tried
    other = [text for text in asking.failed if "refused" not in text]
    assert len(other) <= 4, other  # each of the two who ask: inside, and then in the queue


def test_a_pod_that_cannot_start_takes_nothing_over(node: Node) -> None:
    line = Line("a successor that fails")
    old = node.start_ready()
    with Asking(old, client=ask_inside(node.lab)) as asking:
        asking.go_on(50)
        before = old.holder()
        node.pods[0].options, options = {**old.options, "user": "root"}, old.options
        failing = node.start()
        assert failing.process.wait(15) == 2, failing.lines()
        node.pods[0].options = options
        asking.go_on(50)
        after = old.holder()
        asking.finish(line, 0)
    assert "--user" in failing.lines() and not line.wrong, "\n" + render([line])
    kept = ("data_pid", "controller_pid", "handovers")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
