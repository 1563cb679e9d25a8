"""Messages between holder, controller and data plane: one datagram each, with descriptors.

Form: ``verb key=value key=value`` in ASCII over a SOCK_SEQPACKET pair, values percent-encoded,
descriptors beside it (SCM_RIGHTS). Text, so that strace shows what is said; typed by verb, and read
in C by csrc/worker/control.c, which only ever needs integers. The verbs and who may send them
stand in design note 0001.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

MESSAGE_BYTES_MAX = 16384
DESCRIPTORS_MAX = 250  # the kernel's SCM_MAX_FD is 253


@dataclass(frozen=True, slots=True)
class Message:
    """One message: a verb, its fields, its descriptors (owned by whoever holds the Message)."""

    verb: str
    fields: Mapping[str, str] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()

    def number(self, key: str, default: int = 0) -> int:
        """Return a field as an integer; a missing or malformed one is the default."""
        try:
            return int(self.fields.get(key, default))
        except ValueError:
            return default

    def close(self) -> None:
        """Close the descriptors that came with it."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def encode(verb: str, fields: Mapping[str, object]) -> bytes:
    """Shape: the datagram of a message, without its descriptors."""
    parts = [verb, *(f"{key}={quote(str(value), safe='/:.,[]@+')}" for key, value in fields.items())]
    return " ".join(parts).encode("ascii")


def decode(datagram: bytes, descriptors: Sequence[int] = ()) -> Message:
    """Shape: the message of a datagram. A word without '=' is dropped, bytes outside ASCII replaced."""
    verb, *words = datagram.decode("ascii", "replace").split(" ")
    pairs = (word.partition("=") for word in words)
    return Message(verb, {key: unquote(value) for key, equal, value in pairs if equal}, tuple(descriptors))


def send(channel: socket.socket, verb: str, descriptors: Sequence[int] = (), **fields: object) -> None:
    """Send one message. Errors: OSError of the socket (BrokenPipeError: the peer is gone)."""
    socket.send_fds(channel, [encode(verb, fields)], list(descriptors), socket.MSG_NOSIGNAL)


def receive(channel: socket.socket) -> Message | None:
    """Receive one message; None when the peer is gone. Errors: BlockingIOError, OSError."""
    # Not socket.recv_fds: it drops its flags, and every child would inherit what was received.
    space = socket.CMSG_LEN(DESCRIPTORS_MAX * struct.calcsize("i"))
    datagram, beside, _flags, _address = channel.recvmsg(MESSAGE_BYTES_MAX, space, socket.MSG_CMSG_CLOEXEC)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    descriptors = [
        number
        for *kind, data in beside
        if tuple(kind) == rights
        for (number,) in struct.iter_unpack("i", data)
    ]
    if not datagram:
        return None
    return decode(datagram, descriptors)
