"""Listening sockets of the holder: members of a served address, those of the controller, the control socket.

Called by holder/main.py. Sockets stay open while the holder lives: a closed SO_REUSEPORT member resets
its queue, and one without an acceptor hangs its clients (design page §1). Never accepts a client here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from pathlib import Path

from edge.errors import HolderError
from edge.holder.log import say

SO_ATTACH_FILTER = 26  # asm-generic/socket.h
BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn


def family(address: str) -> socket.AddressFamily:
    """Return AF_INET6 for an address with a colon."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def show(address: str, port: int) -> str:
    """Shape: ADDR:PORT, IPv6 in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def show_name(descriptor: int) -> str:
    """Shape: ADDR:PORT that a socket of ours listens on; "" for one that does not listen."""
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        listens = copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return show(*copy.getsockname()[:2]) if listens else ""


def _tcp(address: str) -> socket.socket:
    fresh = socket.socket(family(address), socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if fresh.family == socket.AF_INET6:
        fresh.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return fresh


def _refusal(address: str, port: int, error: OSError) -> HolderError:
    reasons = {
        errno.EADDRINUSE: "the address is in use by another process",
        errno.EADDRNOTAVAIL: "this host does not have that address",
        errno.EACCES: "no privilege for ports below 1024",
    }
    return HolderError(
        f"cannot listen on {show(address, port)}: {reasons.get(error.errno or 0, error.strerror)}"
    )


def open_members(address: str, port: int, count: int) -> list[socket.socket]:
    """Open ``count`` sockets that share one address; port 0 picks a free one, the same for all.

    Errors: HolderError that names the address. SO_REUSEPORT alone would share the port with a stranger
    of the same user, so a plain socket asks first whether anyone listens: by bind alone, because a client
    that came while it listened itself would be reset.
    """
    members: list[socket.socket] = []
    try:
        with _tcp(address) as probe:
            probe.bind((address, port))
            port = probe.getsockname()[1]
        for _ in range(count):
            member = _tcp(address)
            members.append(member)
            member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # What waits in the queue inherits it here, before any data plane has the socket: without it
            # an answer in two parts waits 40 ms for the client's delayed acknowledgement.
            member.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            member.setblocking(False)
            member.bind((address, port))
        for member in members:
            member.listen(BACKLOG)
    except OSError as error:
        for member in members:
            member.close()
        raise _refusal(address, port, error) from error
    return members


def drop_new_connections(descriptor: int) -> None:
    """Have the kernel drop SYNs to a listening socket, without an answer; what is in its queue stays.

    The filter sees a segment from its TCP header on: byte 13 has the flags.
    """
    load_flags, mask, is_syn, drop, take = (
        struct.pack("=HBBI", *words)
        for words in (
            (0x30, 0, 0, 13),  # BPF_LD | BPF_B | BPF_ABS
            (0x54, 0, 0, 0x12),  # BPF_ALU | BPF_AND | BPF_K: SYN and ACK
            (0x15, 0, 1, 0x02),  # BPF_JMP | BPF_JEQ | BPF_K: SYN alone
            (0x06, 0, 0, 0),  # BPF_RET: no byte of it
            (0x06, 0, 0, 0xFFFFFFFF),
        )
    )
    program = ctypes.create_string_buffer(load_flags + mask + is_syn + drop + take)
    filter_ = struct.pack("HP", 5, ctypes.addressof(program))
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        copy.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)


def open_own(address: str, port: int, what: str) -> socket.socket:
    """Open the socket of something that the controller answers: the admin API, the admission webhook.

    Where somebody else has the address the socket stays unbound, and the controller tries again: clients come
    before these. Errors: HolderError for an address that cannot be right.
    """
    fresh = _tcp(address)
    try:
        fresh.setblocking(False)
        fresh.bind((address, port))
        fresh.listen(128)
    except OSError as error:
        refusal = _refusal(address, port, error)
        if error.errno == errno.EADDRINUSE:
            say(f"{refusal}; serving without {what} until it is free")
            return fresh
        fresh.close()
        raise refusal from error
    return fresh


def open_control(path: Path) -> socket.socket:
    """Open the control socket, for root and our own user only; a stale path is replaced.

    Errors: HolderError. The instance lock is held, so whoever left the path is dead.
    """
    if len(os.fsencode(path)) > 107:  # sun_path
        raise HolderError(f"--run-dir: {path} is too long for a socket's path")
    fresh = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        fresh.setblocking(False)
        fresh.bind(str(path))
        os.chmod(path, 0o600)
        fresh.listen(16)
    except OSError as error:
        fresh.close()
        raise HolderError(f"cannot open the control socket {path}: {error.strerror}") from error
    return fresh
