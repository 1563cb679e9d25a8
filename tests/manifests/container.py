"""The image in a container as its Pod's manifest asks for one: runc, without a Kubernetes.

Root file system, capabilities, no_new_privs and mounts are those of the DaemonSet's container; its host paths
are folders of the test. The seccomp profile is the one of components/io-uring. The network is the lab's node.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.e2e.running import Running
from tests.fakes.client import Closed
from tests.manifests.written import MANIFESTS, container, one, written

BASE = written("base")
PROFILE = MANIFESTS / "components/io-uring/io-uring.json"


def unpack(archive: Path, root: Path) -> None:
    """Lay the layers of a docker-archive over each other."""
    root.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["tar", "-x", "-C", scratch, "-f", archive], check=True)
        for name in json.loads(Path(scratch, "manifest.json").read_text())[0]["Layers"]:
            subprocess.run(["tar", "-x", "-C", root, "-f", Path(scratch, name)], check=True)
            for mark in list(root.rglob(".wh.*")):
                gone = mark.with_name(mark.name.removeprefix(".wh."))
                subprocess.run(["rm", "-rf", gone, mark], check=True)


class Contained(Running):
    """An instance in a container; `process` is runc, which ends with PID 1's status."""

    root: Path

    def command(self) -> list[str]:
        """Write the bundle; return runc's command line."""
        assert self.lab is not None
        bundle = self.folder / "bundle"
        bundle.mkdir(exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(self.settings()))
        return ["runc", "run", "--bundle", str(bundle), self.name]

    def settings(self) -> dict[str, Any]:
        """Shape: an OCI runtime configuration."""
        context = container(BASE)["securityContext"]
        sets = [f"CAP_{name}" for name in context["capabilities"]["add"]]
        assert self.lab is not None
        network = f"/run/netns/{self.lab.name('node')}"
        words = super().command()[1:]
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"]},
                "args": ["edge", *words],
                "env": ["PATH=/opt/xdp-edge/bin:/usr/bin:/bin"],
                "cwd": "/",
                "capabilities": {kind: sets for kind in ("bounding", "effective", "permitted")},
                "noNewPrivileges": not context["allowPrivilegeEscalation"],
            },
            "root": {"path": str(self.root), "readonly": context["readOnlyRootFilesystem"]},
            "mounts": [*SYSTEM, *self.mounts()],
            "linux": {
                "namespaces": [
                    *({"type": kind} for kind in ("pid", "mount", "ipc", "uts")),
                    {"type": "network", "path": network},
                ],
                "seccomp": json.loads(PROFILE.read_text()),
                "cgroupsPath": f"/{self.name}",
            },
        }

    def mounts(self) -> list[dict[str, Any]]:
        """The volumes of the Pod, its host paths in our folder, and the objects."""
        pod = one(BASE, "DaemonSet")["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        found = []
        for mount in container(BASE)["volumeMounts"]:
            path = volumes[mount["name"]].get("hostPath", {}).get("path")
            if path is None:
                found.append({"destination": mount["mountPath"], "type": "tmpfs", "source": "tmpfs"})
                continue
            if not path.startswith("/sys/"):
                ours = self.folder / mount["name"]
                ours.mkdir(exist_ok=True)
                path = str(ours)
            found.append(bind(path, mount["mountPath"], "ro" if mount.get("readOnly") else "rw"))
        # Last: it is below /tmp, which is the container's own.
        return [*found, bind(str(self.options["config"]), str(self.options["config"]), "ro")]

    def inside_of(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container."""
        return subprocess.run(
            ["runc", "exec", self.name, *words], capture_output=True, text=True, check=False
        )

    def stop(self, seconds: float = 15) -> int:
        """Signal PID 1 as a runtime does."""
        subprocess.run(["runc", "kill", self.name, "TERM"], check=True, capture_output=True)
        return self.process.wait(seconds)

    def close(self) -> None:
        """End the container, whatever its state, and detach what it leaves in the kernel."""
        subprocess.run(["runc", "delete", "--force", self.name], capture_output=True, check=False)
        self.process.wait(10)
        with self.inside():
            words = ["edge", "detach", "--instance", self.name, "--run-dir", str(self.folder / "run")]
            subprocess.run([self.edge(), *words[1:]], check=True, capture_output=True)

    def edge(self) -> str:
        """The command outside of the container."""
        return super().command()[0]

    def ready(self) -> bool:
        """Tell whether it says it is ready."""
        assert self.process.poll() is None, f"the container ended:\n{self.lines()}"
        try:
            return self.admin("/readyz").status == 200
        except (OSError, Closed):
            return False


def bind(source: str, target: str, mode: str) -> dict[str, Any]:
    """A bind mount."""
    return {"destination": target, "type": "bind", "source": source, "options": ["rbind", mode]}


SYSTEM = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    bind("/sys", "/sys", "ro"),
]
