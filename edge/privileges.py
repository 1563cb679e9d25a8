"""Capabilities, limits and process names: what holder and controller do to themselves at their start.

Linux calls that Python lacks, through ctypes, in one place. Called before the first thread. The data
plane does its own, stricter, in C (csrc/net/sandbox.c). Never gives a right back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from edge.errors import HolderError

# Numbers of linux/capability.h.
CAPABILITIES = {
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_ADMIN": 12,
    "PERFMON": 38,
    "BPF": 39,
}
HOLDER_KEEPS = ("BPF", "NET_ADMIN", "SETUID", "SETGID", "SETPCAP", "KILL", "NET_BIND_SERVICE", "PERFMON")
CONTROLLER_KEEPS = ("BPF", "NET_ADMIN", "PERFMON")
COMPILER_KEEPS = ("BPF",)

_SYS_PIDFD_GETFD = 438  # the same on every architecture
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION_3 = 0x20080522
BPFFS = "/sys/fs/bpf"


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def name_process(name: str) -> None:
    """Set comm, at most 15 bytes, as `ps` and `pgrep` show it."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write(name)


def keep_capabilities(names: Iterable[str]) -> None:
    """Drop every capability but these, from the bounding set too; does nothing without root.

    Errors: HolderError when the kernel refuses: going on with too much is not an option.
    """
    if os.geteuid() != 0:
        return
    libc = _libc()
    mask = 0
    keep = {CAPABILITIES[name] for name in names}
    for number in range(64):
        if number in keep:
            mask |= 1 << number
            continue
        if libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) != 1:
            continue  # unknown to this kernel, or gone already
        if libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            raise HolderError(f"cannot drop capability {number}: {os.strerror(ctypes.get_errno())}")
    _set_capabilities(libc, mask)


def only_capabilities(names: Iterable[str]) -> None:
    """Drop every capability but these from this process, which starts no other; does nothing without root.

    Unlike keep_capabilities it leaves the bounding set, and so needs no capability itself.
    Errors: HolderError when the kernel refuses.
    """
    if os.geteuid() == 0:
        _set_capabilities(_libc(), sum(1 << CAPABILITIES[name] for name in names))


def _set_capabilities(libc: ctypes.CDLL, mask: int) -> None:
    mask &= _held()
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)  # effective, permitted, inheritable; twice
    if libc.capset(header, sets) != 0:
        raise HolderError(f"cannot drop capabilities: {os.strerror(ctypes.get_errno())}")
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise HolderError(f"cannot set no_new_privs: {os.strerror(ctypes.get_errno())}")


def _held() -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    return 0


def raise_limits() -> None:
    """Allow as many descriptors and as much locked memory as this user may have.

    Locked memory: io_uring rings are charged against it once CAP_IPC_LOCK is gone.
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(hard, 1_048_576) if os.geteuid() == 0 else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    infinity = resource.RLIM_INFINITY
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (infinity, infinity))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))


def pidfd_getfd(pidfd: int, number: int) -> int:
    """Duplicate a descriptor of another process into this one; needs SYS_PTRACE over it. Errors: OSError."""
    found = _libc().syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
    if found < 0:
        raise OSError(ctypes.get_errno(), f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    return int(found)


def bpffs_is_mounted() -> bool:
    """Say whether a BPF file system is mounted where pins are kept."""
    with open("/proc/self/mountinfo") as table:
        return any(line.split()[4] == BPFFS and " - bpf " in line for line in table)


def mount_bpffs() -> str:
    """Mount the BPF file system where it is missing; needs SYS_ADMIN, so before the drop.

    Shape: "" or why it could not be done.
    """
    if bpffs_is_mounted():
        return ""
    if _libc().mount(b"bpf", BPFFS.encode(), b"bpf", 0, None) != 0:
        return f"no BPF file system on {BPFFS}: {os.strerror(ctypes.get_errno())}"
    return ""


def close_on_exec_all() -> None:
    """Mark everything above stderr close-on-exec: whoever started us may have left something open."""
    for text in os.listdir("/proc/self/fd"):
        if int(text) > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(int(text), False)


@contextmanager
def inherited_channel() -> Iterator[socket.socket]:
    """Give the control descriptor that the holder named in EDGE_CONTROL_FD.

    Errors: HolderError when started by hand.
    """
    text = os.environ.get("EDGE_CONTROL_FD", "")
    if not text.isdigit():
        raise HolderError("this process is started by `edge run`, not by hand (EDGE_CONTROL_FD is not set)")
    end = socket.socket(fileno=int(text))
    end.set_inheritable(False)
    try:
        yield end
    finally:
        end.close()
