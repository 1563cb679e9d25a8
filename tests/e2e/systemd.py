"""A real systemd, PID 1 of a PID namespace, that runs one unit of ours; a context manager.

Used by test_systemd.py; needs root and Debian's systemd. It sees this machine's files, but has its own
/run, /tmp, /var/lib, /var/log, unit folder and cgroup, so that nothing of it outlives it. The unit is the
shipped one with a drop-in that says where this checkout and the test's folders are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from bench.proxy import processes
from tests.e2e.lab import ROOT, Lab, wait_for
from tests.e2e.running import Running

UNIT = ROOT / "manifests" / "systemd" / "xdp-edge.service"
NAME = UNIT.name
LOG = "/var/log/xdp-edge/access.log"
CONFIG = "/run/edge-objects"  # where the folder of objects is seen inside

BOOT = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system /run/lock {config} /run/checkout
mount --bind {objects} {config}
mount --bind {root} /run/checkout
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t tmpfs -o mode=755 tmpfs /var/log
mount -t tmpfs -o mode=755 tmpfs /etc/systemd/system
mkdir -p {root}
mount --bind /run/checkout {root}
umount -R -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cp {unit} /run/systemd/system/
mkdir /run/systemd/system/{name}.d
printf '%s' "$EDGE_DROP_IN" >/run/systemd/system/{name}.d/test.conf
printf '[Unit]\\nDefaultDependencies=no\\n' >/run/systemd/system/test.target
unset EDGE_DROP_IN NOTIFY_SOCKET
export container=test
exec /lib/systemd/systemd --system --unit=test.target --log-level=notice --log-target=console
"""


class Managed(Running):
    """An instance that systemd runs; `process` is unshare(1), whose child is systemd."""

    def __init__(
        self, folder: Path, config: Path, *, lab: Lab | None = None, drop_in: str = "", **options: object
    ) -> None:
        super().__init__(folder, config, lab=lab, **options)
        self.options.update({"config": CONFIG, "run_dir": "/run/edge", "access_log": LOG})
        self.options.update({"state_dir": "/var/lib/edge"})
        self.objects = config
        self.drop_in = drop_in
        self.cgroup = cgroup_root() / f"edge-test-{os.getpid()}-{self.name}"

    def settings(self) -> str:
        """Shape: the drop-in of the unit."""
        words = []
        for option, value in self.options.items():
            texts = [str(one) for one in (value if isinstance(value, list | tuple) else [value])]
            words.append(f"Environment=EDGE_{option.upper()}={','.join(texts)}")
        command = f"ExecStart=\nExecStart={Path(sys.executable).parent / 'edge'} run"
        # The checkout may be where the sandbox hides everything.
        places = f"ProtectHome=tmpfs\nBindReadOnlyPaths={ROOT}"
        output = f"StandardOutput=append:{'/run/edge.log'}\nStandardError=append:/run/edge.log"
        unit = "[Unit]\nDefaultDependencies=no\n[Service]"
        return "\n".join([unit, command, places, output, *words, self.drop_in, ""])

    def start(self) -> None:
        """Boot systemd and start the unit; systemctl waits until it says that it is ready."""
        self.cgroup.mkdir()
        self.folder.chmod(0o755)
        places = {"config": CONFIG, "objects": self.objects, "root": ROOT, "unit": UNIT, "name": NAME}
        script = BOOT.format(**places)
        join = f"echo 0 >{self.cgroup}/cgroup.procs && exec "
        unshare = "unshare --pid --mount --cgroup --fork --kill-child sh -c"
        environment = {"PATH": os.environ["PATH"], "EDGE_DROP_IN": self.settings(), "EDGE_BOOT": script}
        with self.log.open("ab") as sink, self.inside():
            self.process = subprocess.Popen(
                ["sh", "-c", f'{join}{unshare} "$EDGE_BOOT"'],
                stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, cwd="/", env=environment,
            )  # fmt: skip
        try:
            wait_for("systemd runs", self.booted, 20)
            done = self.systemctl("start", NAME)
            assert done.returncode == 0, f"systemctl start: {done.stderr}\n{self.journal()}"
        except BaseException:
            self.close()
            raise

    @property
    def manager(self) -> int:
        """Return systemd's pid as we see it, 0 before it is there."""
        for pid in processes.descendants(self.process.pid)[1:]:
            if processes.command_name(pid) == "systemd":
                return pid
        return 0

    def booted(self) -> bool:
        """Tell whether systemd answers. Errors: AssertionError when it has ended."""
        assert self.process.poll() is None, f"systemd ended:\n{self.lines()}"
        return self.manager != 0 and self.systemctl("is-active", "test.target").returncode == 0

    def run_inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command where systemd runs."""
        enter = ["nsenter", "--target", str(self.manager), "--pid", "--mount", "--cgroup"]
        with self.inside():
            return subprocess.run([*enter, *words], capture_output=True, text=True, timeout=60)

    def systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Ask systemd."""
        return self.run_inside("systemctl", *words)

    def edge(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of edge on the instance, as an operator of the host does."""
        program = str(Path(sys.executable).parent / "edge")
        return self.run_inside(program, command, "--instance", self.name, "--run-dir", "/run/edge")

    def show(self, *names: str) -> dict[str, str]:
        """Return properties of the unit."""
        text = self.systemctl("show", NAME, f"--property={','.join(names)}").stdout
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def journal(self) -> str:
        """Return what the unit has said, and systemd about it."""
        return self.run_inside("cat", "/run/edge.log").stdout + self.lines()

    def members(self) -> dict[str, int]:
        """Shape: name to pid, as we see them, of the processes in the unit's cgroup."""
        found = {}
        for path in self.cgroup.rglob(f"{NAME}/cgroup.procs"):
            for pid in map(int, path.read_text().split()):
                found[processes.command_name(pid)] = pid
        return found

    def close(self) -> None:
        """Stop the unit, end systemd, and remove its cgroup."""
        if self.process.poll() is None and self.manager:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.systemctl("stop", NAME)
        if self.options["xdp"] != "off" and self.manager:
            self.edge("detach")
        manager = self.manager
        if manager:
            os.kill(manager, signal.SIGKILL)
        self.process.kill()
        self.process.wait(10)

        def removed() -> bool:
            # A process that has ended leaves its cgroup busy for a moment after it is no longer listed there.
            folders = [path for path in self.cgroup.rglob("*") if path.is_dir()]
            try:
                for path in (*sorted(folders, reverse=True), self.cgroup):
                    path.rmdir()
            except OSError:
                return False
            return True

        wait_for("its cgroup is removed", removed, 10)


def cgroup_root() -> Path:
    """Return where this machine's cgroups of version 2 are. Errors: AssertionError."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 "):
            return Path(left.split()[4])
    raise AssertionError("no cgroup2 is mounted on this machine")


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze, which set-up installs."""
    assert shutil.which("systemd-analyze"), "set-up has not installed systemd"
    command = ["systemd-analyze", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)
