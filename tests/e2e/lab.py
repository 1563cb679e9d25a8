"""A small network in namespaces: a node, clients and pods, each on its own veth to the node.

Used by the demo and by end-to-end tests; needs root. Namespaces are entered by setns(2) (`ip netns
exec` would hide /sys/fs/bpf), so processes started inside keep this machine's mounts. Everything made is
undone in reverse order by remove(), also after a failure or Ctrl-C. No namespace has a route out.

    node      198.18.0.1/32 and fd00:198::1/128 on lo (the served address), forwarding on
    client I  198.18.I.2 on eth0, node's end clientI; checksums complete (tx off), GRO on
    pod J     198.18.(100+J).2 on eth0, node's end podJ
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, netns

ROOT = Path(__file__).parent.parent.parent
ADDRESS = "198.18.0.1"
ADDRESS6 = "fd00:198::1"
CLONE_NEWNET = 0x40000000
IFA_F_NODAD = 0x02
SIOCETHTOOL, ETHTOOL_STXCSUM, ETHTOOL_SGRO = 0x8946, 0x17, 0x2C
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The network could not be made, or not be removed whole."""


def enter(descriptor: int) -> None:
    """Move the calling thread into a network namespace."""
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Run a block in a named namespace: this thread, and what it starts, sockets included."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(there)
        try:
            yield
        finally:
            enter(home)
    finally:
        os.close(home)
        os.close(there)


def set_offload(interface: str, command: int, value: int) -> None:
    """Set one ethtool flag of an interface in this thread's namespace."""
    order = ctypes.create_string_buffer(struct.pack("=II", command, value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        request = struct.pack("16sQ16x", interface.encode(), ctypes.addressof(order))
        fcntl.ioctl(channel, SIOCETHTOOL, request)


class Lab:
    """The network; a context manager. `log` is called with a line for each thing made or removed."""

    def __init__(self, clients: int = 2, pods: int = 3) -> None:
        self.prefix = f"edge-lab-{os.getpid()}"
        self.clients = clients
        self.pods = pods
        self.undo: list[tuple[str, Callable[[], object]]] = []
        self.removed: list[str] = []

    # ---- Making ------------------------------------------------------------------------------

    def __enter__(self) -> Lab:
        sweep()
        try:
            self.make()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_reason: object) -> None:
        self.remove()

    def make(self) -> None:
        """Make namespaces, links, addresses and routes."""
        node = self.namespace("node")
        with inside(node), IPRoute() as route:
            for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
                Path("/proc/sys", name).write_text("1")
            raise_link(route, "lo")
            give(route, "lo", ADDRESS, 32)
            give(route, "lo", ADDRESS6, 128)
        for number in range(1, self.clients + 1):
            self.link(node, f"client{number}", number)
        for number in range(1, self.pods + 1):
            self.link(node, f"pod{number}", 100 + number)

    def namespace(self, role: str) -> str:
        """Make the namespace of a role; return its name under /run/netns."""
        name = f"{self.prefix}-{role}"
        netns.create(name)
        self.undo.append((f"namespace {name}", lambda: netns.remove(name)))
        return name

    def link(self, node: str, role: str, network: int) -> None:
        """Join a new namespace to the node by a veth pair with its own network."""
        there = self.namespace(role)
        with inside(node), IPRoute() as route:
            descriptor = os.open(f"/run/netns/{there}", os.O_RDONLY)
            try:
                route.link(
                    "add",
                    ifname=role,
                    kind="veth",
                    peer={"ifname": "eth0", "net_ns_fd": descriptor},
                )
            finally:
                os.close(descriptor)
            self.undo.append((f"veth {role} of {node}", lambda: unlink(node, role)))
            give(route, role, f"198.18.{network}.1", 24)
            give(route, role, f"fd00:198:0:{network}::1", 64)
            raise_link(route, role)
        with inside(there), IPRoute() as route:
            raise_link(route, "lo")
            give(route, "eth0", f"198.18.{network}.2", 24)
            give(route, "eth0", f"fd00:198:0:{network}::2", 64)
            raise_link(route, "eth0")
            route.route("add", dst="198.18.0.0/15", gateway=f"198.18.{network}.1")
            route.route("add", dst="fd00:198::/32", gateway=f"fd00:198:0:{network}::1")
            set_offload("eth0", ETHTOOL_STXCSUM, 0)
            set_offload("eth0", ETHTOOL_SGRO, 1)

    # ---- Using -------------------------------------------------------------------------------

    def name(self, role: str) -> str:
        """Return a role's namespace: node, client1, pod1, ..."""
        return f"{self.prefix}-{role}"

    def inside(self, role: str) -> contextlib.AbstractContextManager[None]:
        """Run a block in a role's namespace."""
        return inside(self.name(role))

    def mac(self, role: str, interface: str) -> bytes:
        """Return the hardware address of an interface in a role's namespace."""
        with self.inside(role), IPRoute() as route:
            link = route.link("get", index=route.link_lookup(ifname=interface)[0])[0]
        return bytes.fromhex(str(link.get_attr("IFLA_ADDRESS")).replace(":", ""))

    def interfaces(self) -> list[str]:
        """Return the node's interfaces that face clients."""
        return [f"client{number}" for number in range(1, self.clients + 1)]

    def pod_address(self, number: int) -> str:
        """Return the address of pod `number` (from 1)."""
        return f"198.18.{100 + number}.2"

    def start(self, role: str, what: str, command: Sequence[object], **popen: Any) -> subprocess.Popen[Any]:
        """Start a process in a role's namespace; it is ended by remove()."""
        with self.inside(role):
            process = subprocess.Popen([str(word) for word in command], cwd=ROOT, **popen)
        self.undo.append((f"process {process.pid} {what}", lambda: end(process)))
        return process

    def start_pod(self, number: int, name: str, port: int = 8080) -> subprocess.Popen[Any]:
        """Start an endpoint in pod `number` and wait until it listens."""
        address = f"{self.pod_address(number)}:{port}"
        pod = self.start(
            f"pod{number}",
            f"pod {name}",
            [sys.executable, "-m", "tests.fakes.endpoint", "--name", name, "--listen", address],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert pod.stdout is not None
        line = pod.stdout.readline()
        pod.stdout.close()
        if not line.startswith("listening"):
            raise LabError(f"pod {name} did not start")
        return pod

    def on_remove(self, what: str, action: Callable[[], object]) -> None:
        """Have `action` run by remove(), before what was made earlier is undone."""
        self.undo.append((what, action))

    # ---- Removing ----------------------------------------------------------------------------

    def remove(self) -> list[str]:
        """Undo everything, newest first; return what was removed.

        Errors: LabError that lists what could not be removed.
        """
        failures = []
        before = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            while self.undo:
                what, action = self.undo.pop()
                try:
                    action()
                    self.removed.append(what)
                except Exception as error:
                    failures.append(f"{what}: {error!r}")
        finally:
            signal.signal(signal.SIGINT, before)
        if failures:
            raise LabError("not removed: " + "; ".join(failures))
        return self.removed


def raise_link(route: IPRoute, name: str) -> None:
    """Set an interface up."""
    route.link("set", index=route.link_lookup(ifname=name)[0], state="up")


def give(route: IPRoute, name: str, address: str, prefix: int) -> None:
    """Add an address; IPv6 without duplicate address detection, so that it serves at once."""
    index = route.link_lookup(ifname=name)[0]
    if ":" in address:
        route.addr("add", index=index, address=address, prefixlen=prefix, flags=IFA_F_NODAD)
    else:
        route.addr("add", index=index, address=address, prefixlen=prefix)


def unlink(namespace: str, name: str) -> None:
    """Delete an interface and with it its peer."""
    with inside(namespace), IPRoute() as route:
        for index in route.link_lookup(ifname=name):
            route.link("del", index=index)


def end(process: subprocess.Popen[Any], seconds: float = 10.0) -> None:
    """End a process that we started: SIGTERM, and SIGKILL when it does not listen."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def sweep() -> list[str]:
    """Remove namespaces of labs whose process is gone (killed before it could); return their names."""
    swept = []
    for name in netns.listnetns():
        match = re.fullmatch(r"edge-lab-(\d+)-\w+", name)
        if match and not Path("/proc", match[1]).exists():
            with contextlib.suppress(OSError):
                netns.remove(name)
                swept.append(name)
    return swept


def wait_for(
    what: str, condition: Callable[[], object], seconds: float = 20.0, interval: float = 0.01
) -> Any:
    """Wait until `condition` returns something true, and return that. Errors: AssertionError."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(interval)
    return result
