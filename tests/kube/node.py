"""One node: containerd, kubelet and kube-proxy in namespaces of their own on this machine.

A node is a mount, PID, UTS and IPC namespace whose PID 1 is nodeinit.py, in the network namespace that
network.py made, with its own cgroup. Killing its PID 1 is the power cut. What is written below /run/nN of
the place survives it as a disk would; /run inside does not.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.e2e.lab import inside, wait_for
from tests.kube import images, network
from tests.kube.place import Place, PlaceError, make_cgroup

INIT = Path(__file__).parent / "nodeinit.py"
CONTAINERD = "/run/containerd/containerd.sock"
CTR = ("ctr", "-a", CONTAINERD, "-n", "k8s.io")
DAEMONS = ("containerd", "kubelet", "kube-proxy")


class Node:
    """Boot, cut and repair one node. `number` counts from 1; its name is nN."""

    def __init__(
        self, place: Place, number: int, programs: Mapping[str, Path], *, dies_with_us: bool = True
    ) -> None:
        self.place = place
        self.number = number
        self.name = f"n{number}"
        self.programs = programs
        self.dies_with_us = dies_with_us
        self.address = network.node_address(number)
        self.address6 = network.node_address6(number)
        self.namespace = place.namespace(self.name)
        self.folder = place.run / self.name
        self.power: subprocess.Popen[bytes] | None = None

    # ---- Power -------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start PID 1 and the daemons; returns when the kubelet was started, not when the node is Ready."""
        self.power_on()
        self.start_daemons()

    def power_on(self) -> None:
        """Start PID 1, which dies with this thread."""
        self.write_settings()
        make_cgroup(self.namespace)
        command: list[object] = ["unshare", "--mount", "--propagation", "slave", "--pid", "--fork"]
        command += ["--kill-child", "--mount-proc", "--uts", "--ipc"]
        command += [sys.executable, "-I", INIT, self.name, self.folder]
        if self.dies_with_us:
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        with inside(self.place.namespace(self.name)), self.place.log(f"{self.name}-init").open("ab") as log:
            self.power = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.folder / "power.pid").write_text(str(self.power.pid))

    def start_daemons(self) -> None:
        """Start containerd, import all images, start kubelet and kube-proxy."""
        wait_for(f"{self.name} has booted", self.booted)
        self.start("containerd")
        wait_for(f"containerd of {self.name}", lambda: self.run([*CTR, "version"], check=False), 30, 0.05)
        for path in sorted((self.place.run / "images").glob("*.tar")):
            self.load(path)
        self.start("kubelet")
        self.start("kube-proxy")

    def booted(self) -> bool:
        """Say whether PID 1 has made its mounts."""
        if self.power and self.power.poll() is not None:
            raise PlaceError(self.place.log(f"{self.name}-init").read_text()[-2000:])
        with contextlib.suppress(OSError, IndexError):
            return Path("/proc", str(self.first()), "root", "run", "ready").exists()
        return False

    def cut_power(self) -> None:
        """Kill everything on the node at once; its disk stays as it was."""
        pid = int((self.folder / "power.pid").read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.reap()
        wait_for(f"{self.name} is dark", lambda: not self.processes(), 30)
        # The kernel that would have died with its power kept the pods' ends of the CNI bridge.
        with inside(self.namespace):
            subprocess.run(["ip", "link", "del", "cni0"], capture_output=True)

    def reap(self) -> None:
        """Collect PID 1's parent once it was killed."""
        if self.power is not None:
            self.power.wait(10)
            self.power = None

    def first(self) -> int:
        """Return the machine's number of the node's PID 1. Errors: IndexError when there is none."""
        pid = (self.folder / "power.pid").read_text()
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def processes(self) -> list[int]:
        """List what runs in the node's network namespace and mount namespace."""
        inode = os.stat(f"/run/netns/{self.namespace}").st_ino
        found = []
        for text in os.listdir("/proc"):
            if text.isdigit() and int(text) != os.getpid():
                with contextlib.suppress(OSError):
                    if os.stat(f"/proc/{text}/ns/net").st_ino == inode:
                        found.append(int(text))
        return found

    # ---- Cable -------------------------------------------------------------------------------

    def cut_link(self) -> None:
        """Pull the node's cable: the link goes down on both sides."""
        network.set_link(self.place, self.name, "down")

    def restore_link(self) -> None:
        """Plug the cable in again."""
        network.set_link(self.place, self.name, "up")

    # ---- Daemons -----------------------------------------------------------------------------

    def run(
        self, command: Sequence[object], *, check: bool = True, give: bytes | None = None
    ) -> subprocess.CompletedProcess[str] | None:
        """Run a command on the node; without `check` a failure gives None. Errors: PlaceError."""
        enter = ["nsenter", "-t", str(self.first()), "--mount", "--pid", "--net", "--uts", "--ipc"]
        done = subprocess.run([*enter, *map(str, command)], capture_output=True, input=give)
        text = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )
        if done.returncode:
            if check:
                words = shlex.join(map(str, command))
                raise PlaceError(f"{self.name}: {words}: {done.returncode}: {text.stderr[-1500:]}")
            return None
        return text

    def start(self, daemon: str) -> None:
        """Start one of containerd, kubelet, kube-proxy; one that ends is started again, as systemd would."""
        environment = ["env", "-i", f"PATH={os.environ['PATH']}", "HOME=/nonexistent"]
        log = self.place.log(f"{self.name}-{daemon}")
        supervise = ["setsid", "-f", "sh", "-c", SUPERVISE, daemon, log, *self.command(daemon)]
        self.run([*environment, *supervise])

    def stop(self, daemon: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End one daemon and wait for its end; what containerd started goes on."""
        self.run(["sh", "-c", STOP, daemon, how.name.removeprefix("SIG")])

    def kill(self, daemon: str) -> None:
        """Kill one daemon; it comes back by itself."""
        self.run(["sh", "-c", "kill -KILL $(cat /run/$0.pid)", daemon])

    def restart(self, daemon: str) -> None:
        """End and start one daemon."""
        self.stop(daemon)
        self.start(daemon)

    def load(self, archive: Path) -> None:
        """Import the images of a docker-archive."""
        self.run([*CTR, "images", "import", archive])

    def command(self, daemon: str) -> Sequence[object]:
        """Return the command line of a daemon."""
        if daemon == "containerd":
            return ["containerd", "-c", self.folder / "containerd.toml"]
        if daemon == "kube-proxy":
            return [self.programs["kube-proxy"], f"--config={self.folder / 'proxy.json'}"]
        assert daemon == "kubelet", daemon
        return [
            self.programs["kubelet"],
            f"--config={self.folder / 'kubelet.json'}",
            f"--kubeconfig={self.place.run / f'{self.name}.kubeconfig'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address},{self.address6}",
            f"--node-labels=topology.kubernetes.io/zone=zone-{self.number}",
            "--root-dir=/var/lib/kubelet",
            "--cert-dir=/var/lib/kubelet/pki",
            "--v=2",
        ]

    def write_settings(self) -> None:
        """Write the daemons' settings and make the folders of the node's disk."""
        for part in ("containerd", "kubelet", "cni", "xdp-edge", "net.d", "var-lib", "var-lib-work"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "containerd.toml").write_text(CONTAINERD_SETTINGS.format(node=self, images=images))
        (self.folder / "net.d" / "10-lab.conflist").write_text(json.dumps(self.pod_network()))
        (self.folder / "kubelet.json").write_text(json.dumps(self.kubelet_settings()))
        (self.folder / "proxy.json").write_text(json.dumps(self.proxy_settings()))
        (self.folder / "resolv.conf").write_text(
            f"nameserver {network.CLIENT}\noptions timeout:1 attempts:1\n"
        )

    def pod_network(self) -> object:
        """Return the CNI configuration."""
        ranges = [[{"subnet": subnet}] for subnet in network.pod_networks(self.number)]
        routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        ipam = {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": ranges, "routes": routes}
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False}
        return {
            "cniVersion": "0.4.0",
            "name": "lab",
            "plugins": [bridge | {"hairpinMode": True, "ipam": ipam}],
        }

    def kubelet_settings(self) -> object:
        """Return the kubelet's configuration: what a small machine without systemd needs."""
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            # Its own root: with a common one each kubelet would take the others' Pods for orphans.
            "cgroupRoot": f"/{self.namespace}",
            "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "address": "0.0.0.0",
            "healthzBindAddress": "127.0.0.1",
            "clusterDNS": [network.CLIENT],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.folder / "resolv.conf"),
            "podLogsDir": "/var/log/pods",
            "oomScoreAdj": 0,
            "maxOpenFiles": 20000,
            "failSwapOn": False,
            "serializeImagePulls": False,
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 4,
            "syncFrequency": "10s",
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
            },
            "volumePluginDir": str(self.folder / "volumes"),
        }

    def proxy_settings(self) -> object:
        """Return kube-proxy's configuration."""
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(self.place.run / "proxy.kubeconfig")},
            "clusterCIDR": f"{network.PODS},{network.PODS6}",
            "hostnameOverride": self.name,
            "nodePortAddresses": ["primary"],
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "oomScoreAdj": 0,
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        }


SUPERVISE = """\
exec >>$1 2>&1 </dev/null; shift
echo $$ >/run/$0.supervisor
until [ -e /run/$0.stop ]; do
    "$@" &
    echo $! >/run/$0.pid; wait $!
    [ -e /run/$0.stop ] || sleep 0.3
done
rm /run/$0.stop
"""
STOP = """\
supervisor=$(cat /run/$0.supervisor); touch /run/$0.stop; kill -$1 $(cat /run/$0.pid)
for i in $(seq 600); do [ -d /proc/$supervisor ] || exit 0; sleep 0.05; done
echo "does not end" >&2; exit 1
"""
CONTAINERD_SETTINGS = """\
version = 2
root = "{node.folder}/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{node.folder}/net.d"
"""
