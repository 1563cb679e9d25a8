"""The control socket: what other commands may ask a running holder.

Called by holder/main.py. Verbs: `status`; hand-over to a successor comes as `take-over` on the same
socket, with the peer's credentials checked. Only root and the holder's own user are answered.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Mapping

from edge.channel import Channel

CLIENTS_MAX = 32


class ControlSocket:
    """Accepts control clients and answers them; every client is one Channel."""

    def __init__(self, listening: socket.socket, status: Callable[[], Mapping[str, object]]) -> None:
        self.listening = listening
        self.clients: set[Channel] = set()
        self._status = status

    def accept(self) -> Channel | None:
        """Accept one client; None when there is none, or it may not ask."""
        try:
            client, _ = self.listening.accept()
        except OSError:
            return None
        if len(self.clients) >= CLIENTS_MAX or not self._may_ask(client):
            client.close()
            return None
        channel = Channel(client)
        self.clients.add(channel)
        return channel

    @staticmethod
    def _may_ask(client: socket.socket) -> bool:
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _pid, uid, _gid = struct.unpack("3i", credentials)
        return uid in (0, os.geteuid())

    def answer(self, channel: Channel) -> bool:
        """Answer one message; False when the client is gone, and is to be closed."""
        try:
            message = channel.receive()
        except BlockingIOError:
            return True
        if message is None:
            self.clients.discard(channel)
            return False
        message.close()
        if message.verb == "status":
            channel.send("status", (), **self._status())
        else:
            channel.send("refused", reason=f"{message.verb} is not a verb of this version")
        return True

    def close(self) -> None:
        """Close the socket and its clients."""
        self.listening.close()
        for channel in self.clients:
            channel.close()
        self.clients.clear()
