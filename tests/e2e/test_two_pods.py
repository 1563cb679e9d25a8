"""Hand-over from one Pod to the next, as a DaemonSet with hostNetwork and maxSurge 1 does it.

Each Pod has its own PID and mount namespace, its own /run and /var/lib, and edge as PID 1. They share the
node's network, its BPF file system, and two host paths: the run directory and the state directory.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from bench.proxy import processes
from tests.e2e.lab import ADDRESS, Lab, give, wait_for
from tests.e2e.objects import endpoints, ingress, policy, service, write
from tests.e2e.running import EDGE, Running
from tests.e2e.survival.scene import HOST, Asking
from tests.e2e.survival.table import Line, render
from tests.e2e.survival.traffic import DENIED, DENIED_ROLE, DeniedSource, Tap
from tests.e2e.test_pid1 import Container
from tests.fakes.client import Client

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


def ask_inside(lab: Lab) -> type[Client]:
    """Make clients whose sockets are in the client's namespace."""

    class Inside(Client):
        def __init__(self, address: str, port: int, *, timeout: float = 10.0) -> None:
            with lab.inside("client1"):
                super().__init__(address, port, timeout=timeout)

    return Inside


def test_pods_hand_over_and_nobody_notices(tmp_path: Path, lab: Lab) -> None:
    config = tmp_path / "config"
    config.mkdir()
    for name in ("run", "state"):
        (tmp_path / name).mkdir(mode=0o755)
    line = Line("hand-over between Pods", times=3)
    with lab:
        lab.start_pod(1, "web")
        with lab.inside(DENIED_ROLE), IPRoute() as route:
            give(route, "eth0", DENIED, 32)
        slices = endpoints("web", 8080, [lab.pod_address(1)])
        write(config, "objects.yaml", service("web"), slices, ingress("a", [(HOST, "/", "web")]))
        write(config, "policy.yaml", policy(deny=[f"{DENIED}/32"]))
        pods: list[Pod] = []
        try:
            first = Pod(
                tmp_path, config, lab=lab, http=f"{ADDRESS}:80", xdp="native", interface=lab.interfaces(),
                workers=2, grace_period=5,
            )  # fmt: skip
            pods.append(first)
            first.start()
            wait_for("the first Pod is ready", first.ready, 30)
            with (
                Asking(first, client=ask_inside(lab)) as asking,
                Tap(lab) as tap,
                DeniedSource(lab) as denied,
            ):
                counted = 0.0
                for number in range(3):
                    old = pods[-1]
                    asking.go_on(50)
                    before = old.holder()
                    counted = old.metrics()["edge_requests_total"]
                    successor = Pod(tmp_path, config, lab=lab, http=f"{ADDRESS}:80")
                    successor.options = {**old.options, "take_over": True}
                    successor.name, successor.admin_port = old.name, old.admin_port
                    successor.log = tmp_path / f"pod{number}.log"
                    pods.append(successor)
                    successor.start()
                    wait_for("the old Pod has drained", old.rests, 30)
                    wait_for("the next Pod is ready", successor.ready, 30)
                    # A container that ended by itself would be started again; it is told to, with its Pod.
                    assert old.stop() == 0, old.lines()
                    after = successor.holder()
                    assert int(after["committed"]) >= int(before["committed"]), (before, after)
                    assert int(after["handovers"]) == number + 1, after
                    now = successor.metrics()["edge_requests_total"]
                    assert now >= counted, f"the counter went back from {counted} to {now}"
                asking.go_on(50)
                asking.finish(line, 0)
                tried = denied.finish()
                line.denied = len(tap.read())
            assert tried["accepted"] == 0 and line.denied == 0, tried
            assert not line.wrong and not line.resets and not line.refused, "\n" + render([line])
            last = pods[-1]
            write(config, "b.yaml", ingress("b", [("b.example", "/", "web")]))
            with lab.inside("client1"):
                wait_for("a change is served", lambda: last.served("b.example") == 200)
            assert last.stop() == 0
        finally:
            for one in pods:
                if one.process.poll() is None:
                    os.kill(one.init, signal.SIGKILL)
                    one.process.wait(10)
            with lab.inside("node"):
                words = [EDGE, "detach", "--instance", pods[0].name, "--run-dir", str(tmp_path / "run")]
                subprocess.run(words, check=True, capture_output=True)
    assert not [pid for one in pods for pid in processes.descendants(one.process.pid)[1:]]
