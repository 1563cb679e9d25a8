"""`edge doctor`: tries what the proxy needs on this host, by doing it, and prints what works.

Called by edge/cli/main.py. Every probe removes what it made. Exit status 0 when requests can be served
(with or without XDP), 1 when they cannot. Never changes the host.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge import privileges
from edge.errors import EdgeError
from edge.options import Options

# linux/io_uring.h, linux/seccomp.h and the system calls' numbers on x86-64 and arm64, which agree here.
_SYS_IO_URING_SETUP = 425
_SETUP_SINGLE_ISSUER = 1 << 12
_SETUP_DEFER_TASKRUN = 1 << 13
_SETUP_R_DISABLED = 1 << 6
_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SECCOMP_GET_ACTION_AVAIL = 2
_SECCOMP_RET_KILL_PROCESS = 0x80000000


@dataclass(frozen=True, slots=True)
class Finding:
    """One probe. ``needed``: without it nothing is served."""

    name: str
    works: bool
    text: str
    needed: bool = False


def examine(options: Options) -> int:
    """Try everything and print it. Shape: the exit status."""
    probes: list[Callable[[], Finding]] = [
        _kernel,
        _native,
        _io_uring,
        _seccomp,
        lambda: _user(options.user),
        lambda: _folder("run directory", Path(options.instance_run_dir)),
        lambda: _folder("state directory", Path(options.instance_state_dir)),
        _bpffs,
        _bpf_map,
        _bcc,
        _xdp_native,
    ]
    findings = [_tried(probe) for probe in probes]
    for finding in findings:
        mark = "ok  " if finding.works else ("FAIL" if finding.needed else "no  ")
        print(f"{mark}  {finding.name:<16} {finding.text}")
    by_name = {finding.name: finding for finding in findings}
    ring = by_name["io_uring"]
    if ring.works:
        print("loop: uring, because io_uring gives rings with SINGLE_ISSUER and DEFER_TASKRUN")
    else:
        print(f"loop: epoll, because {ring.text}")
    lacking = [name for name in ("bpf", "bpffs", "packet program", "native XDP") if not by_name[name].works]
    if lacking:
        print(f"xdp: off or generic, because {by_name[lacking[0]].text}")
    else:
        print("xdp: native, on interfaces whose driver has it")
    return 1 if any(finding.needed and not finding.works for finding in findings) else 0


def _tried(probe: Callable[[], Finding]) -> Finding:
    try:
        return probe()
    except (EdgeError, OSError) as error:
        name = getattr(probe, "__name__", "probe").strip("_")
        return Finding(_NAMES.get(name, name), False, str(error))


_NAMES = {"bpf_map": "bpf", "bcc": "packet program", "xdp_native": "native XDP"}


def _kernel() -> Finding:
    release = os.uname().release
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in release.split(".")[:2])
    supported = (major, minor) >= (6, 1)
    words = "supported" if supported else "older than 6.1: epoll and no SYN cookies"
    return Finding("kernel", (major, minor) >= (5, 15), f"{release}, {words}", needed=True)


def _native() -> Finding:
    """In a child: a library that cannot be loaded must not end the examination."""
    done = _child("import edge.dataplane.tables")
    text = "the C data plane loads" if done.returncode == 0 else _last_line(done.stderr)
    return Finding("data plane", done.returncode == 0, text, needed=True)


def _io_uring() -> Finding:
    parameters = (ctypes.c_uint32 * 30)()
    parameters[2] = _SETUP_SINGLE_ISSUER | _SETUP_DEFER_TASKRUN | _SETUP_R_DISABLED
    ring = ctypes.CDLL(None, use_errno=True).syscall(_SYS_IO_URING_SETUP, 8, parameters)
    if ring < 0:
        reason = os.strerror(ctypes.get_errno())
        return Finding("io_uring", False, f"io_uring_setup is refused ({reason}): kernel, sysctl or seccomp")
    os.close(ring)
    return Finding("io_uring", True, "rings with SINGLE_ISSUER, DEFER_TASKRUN and restrictions")


def _seccomp() -> Finding:
    number = _SYS_SECCOMP.get(os.uname().machine)
    if number is None:
        return Finding("seccomp", False, f"unknown on {os.uname().machine}", needed=True)
    action = ctypes.c_uint32(_SECCOMP_RET_KILL_PROCESS)
    rc = ctypes.CDLL(None, use_errno=True).syscall(number, _SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(action))
    if rc != 0:
        return Finding("seccomp", False, f"no filters: {os.strerror(ctypes.get_errno())}", needed=True)
    return Finding("seccomp", True, "system call filters can be installed", needed=True)


def _user(name: str) -> Finding:
    if os.geteuid() != 0:
        return Finding("user", True, f"not root: the data plane runs as uid {os.geteuid()}", needed=True)
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return Finding("user", False, f"there is no user {name!r} (--user)", needed=True)
    works = entry.pw_uid != 0
    return Finding("user", works, f"the data plane runs as {name} (uid {entry.pw_uid})", needed=True)


def _folder(name: str, wanted: Path) -> Finding:
    """Write to the folder, or to the nearest one above it that exists."""
    path = next(folder for folder in (wanted, *wanted.parents) if folder.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=path, prefix=".edge-doctor-"):
            pass
    except OSError as error:
        return Finding(name, False, f"cannot write to {path}: {error.strerror}", needed=True)
    return Finding(name, True, str(wanted), needed=True)


def _bpffs() -> Finding:
    if privileges.bpffs_is_mounted():
        return Finding("bpffs", True, f"mounted on {privileges.BPFFS}")
    if os.geteuid() == 0:
        return Finding("bpffs", True, f"not mounted on {privileges.BPFFS}; `edge run` mounts it")
    return Finding("bpffs", False, f"no BPF file system is mounted on {privileges.BPFFS}")


def _bpf_map() -> Finding:
    done = _child(_AS_CONTROLLER + _MAP_CHILD)
    if done.returncode != 0:
        return Finding("bpf", False, f"BPF maps are refused: {_last_line(done.stderr)}")
    return Finding("bpf", True, "maps can be made")


def _bcc() -> Finding:
    done = _child(_AS_CONTROLLER + _COMPILE_CHILD)
    text = _last_line(done.stdout if done.returncode == 0 else done.stderr)
    return Finding("packet program", done.returncode == 0, text)


def _xdp_native() -> Finding:
    """Attach to one end of a veth pair and start again over it, as a controller does.

    In a child with namespaces of its own, for network and mounts, which take all that it made along.
    """
    if os.geteuid() != 0:
        return Finding("native XDP", False, "it needs root, or CAP_BPF and CAP_NET_ADMIN")
    done = _child(_NAMESPACE + _AS_CONTROLLER + _XDP_CHILD)
    if done.returncode == 0:
        return Finding("native XDP", True, "the packet program attaches to a veth, and is updated in place")
    return Finding("native XDP", False, _last_line(done.stderr))


# What works for root may not for the controller: every probe of BPF drops what the controller drops.
_AS_CONTROLLER = """
import os, sys
from edge import privileges
from edge.errors import EdgeError
try:
    privileges.keep_capabilities(privileges.CONTROLLER_KEEPS)
except EdgeError as error:
    sys.exit(str(error))
"""

_MAP_CHILD = """
from edge.xdp import syscalls
try:
    syscalls.map_create(syscalls.MapShape(2, 4, 8, 1, 0), "edge_doctor")
except OSError as error:
    sys.exit(error.strerror)
"""

_COMPILE_CHILD = """
from edge.xdp.compiler import edge_object
try:
    found = edge_object()
except EdgeError as error:
    sys.exit(str(error))
if found.origin == "compiled":
    print("bcc compiles it")
else:
    print(f"the object in the package is used: {found.why}")
"""

_NAMESPACE = """
import ctypes, os, sys
from pyroute2 import IPRoute
libc = ctypes.CDLL(None, use_errno=True)
NEW_NETWORK, NEW_MOUNTS, PRIVATE = 0x40000000, 0x20000, 1 << 18 | 1 << 14
if libc.unshare(NEW_NETWORK | NEW_MOUNTS) != 0:
    sys.exit("namespaces cannot be made, so this cannot be tried")
libc.mount(b"none", b"/", None, PRIVATE, None)
if libc.mount(b"bpf", b"/sys/fs/bpf", b"bpf", 0, None) != 0:
    sys.exit("no BPF file system can be mounted")
with IPRoute() as ip:
    ip.link("add", ifname="doctor0", kind="veth", peer={"ifname": "doctor1"})
"""

_XDP_CHILD = """
from edge.xdp.plane import XdpPlane, detach
try:
    try:
        for _ in range(2):
            XdpPlane.open("doctor", ["doctor0"], "native").close()
    finally:
        detach("doctor")
except EdgeError as error:
    sys.exit(str(error))
"""


def _child(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it ended without a word"
