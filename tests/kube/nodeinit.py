"""PID 1 of a node: makes the mounts that the node alone shall have, then reaps.

Run as a script inside the node's namespaces by node.py: nodeinit.py NAME FOLDER. Everything it mounts ends
with it. Its last act is /run/ready; daemons are started from outside.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

# The kubelet insists on these, for the whole machine (panic_on_oops among them): it is shown files that
# hold its values already.
SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def mount(*arguments: object) -> None:
    """Mount, or end with mount's own words."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def main(name: str, folder: Path) -> None:
    """Make the mounts, say ready, reap for ever."""
    socket.sethostname(name)
    mount("--make-rshared", "/")
    mount("-t", "tmpfs", "tmpfs", "/run")
    for path in ("/run/netns", "/run/lock"):
        os.mkdir(path)
    mount("-t", "tmpfs", "tmpfs", "/var/log")
    os.mkdir("/var/log/containers")
    # What Pods and the kubelet keep there survives a reboot, and is not the machine's.
    options = f"lowerdir=/var/lib,upperdir={folder}/var-lib,workdir={folder}/var-lib-work"
    mount("-t", "overlay", "overlay", "-o", options, "/var/lib")
    for part in ("kubelet", "cni", "xdp-edge"):
        Path("/var/lib", part).mkdir(exist_ok=True)
        mount("--bind", folder / part, f"/var/lib/{part}")
    mount("-t", "bpf", "bpf", "/sys/fs/bpf")
    for number, (path, value) in enumerate(SYSCTLS.items()):
        shown = Path(f"/run/sysctl.{number}")
        shown.write_text(f"{value}\n")
        if Path("/proc/sys", path).exists():
            mount("--bind", shown, f"/proc/sys/{path}")
    Path("/run/ready").touch()
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.5)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
