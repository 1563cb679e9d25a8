"""The control socket: what other commands, controllers and holders may ask a running holder.

Called by holder/main.py, which names the verbs. Only root and the holder's own user are heard. A client
that asks for more than one answer (an upgrade, a hand-over) stays a Client with ears of its own.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping

from edge.channel import Channel, Peer, peer_of
from edge.holder.loop import Loop, Moment
from edge.messages import Message

CLIENTS_MAX = 32
BREATH_S = 1.0


class Client:
    """One connection. ``hear`` and ``gone`` may be replaced by whoever goes on with it."""

    def __init__(self, loop: Loop, channel: Channel, peer: Peer) -> None:
        self.channel, self.peer, self._loop = channel, peer, loop
        self.hear: Callable[[Message], bool] = lambda _message: False  # True: descriptors were kept
        self.gone: Callable[[], None] = lambda: None

    def send(self, verb: str, descriptors: tuple[int, ...] = (), **fields: object) -> None:
        """Send; a client that has gone, or does not read, is noticed elsewhere."""
        try:
            self.channel.send(verb, descriptors, **fields)
            self._loop.adjust(self.channel)
        except BrokenPipeError:
            self._loop.forget(self.channel)
            self.channel.close()

    def is_gone(self) -> bool:
        """Say whether it has closed its end; what it has said meanwhile is dropped."""
        if self.channel.closed:
            return True
        try:
            message = self.channel.receive()
        except BlockingIOError:
            return False
        if message:
            message.close()
        return message is None


Verb = Callable[[Client, Message], None]


def may_ask(peer: Peer) -> bool:
    """Say whether a peer is root or our own user."""
    return peer.uid in (0, os.geteuid())


class ControlSocket:
    """Accepts clients and gives what they say to the verb's function."""

    def __init__(self, loop: Loop, listening: socket.socket, verbs: Mapping[str, Verb]) -> None:
        self.listening, self._loop, self._verbs = listening, loop, verbs
        self.clients: set[Client] = set()
        self._closed = False
        self._breath: Moment | None = None

    def begin(self) -> None:
        """Answer from now on."""
        if self._closed:
            return
        self.pause()
        self._loop.watch_descriptor(self.listening.fileno(), self._accept)

    def pause(self) -> None:
        """Accept nobody new: who comes waits in the queue, which another holder may serve."""
        if self._breath:
            self._breath.cancel()
        self._loop.forget(self.listening.fileno())

    def _accept(self) -> None:
        try:
            end, _ = self.listening.accept()
        except BlockingIOError:
            return
        except OSError as error:  # no descriptor is left: who comes waits in the queue
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self.pause()
                self._breath = self._loop.after(BREATH_S, self.begin)
            return
        if len(self.clients) >= CLIENTS_MAX or not may_ask(peer_of(end)):
            end.close()
            return
        self.add(Client(self._loop, Channel(end), peer_of(end)))

    def answer(self, end: socket.socket, message: Message) -> None:
        """Answer a client that was accepted, and whose first message was read, before there was a loop."""
        client = Client(self._loop, Channel(end), peer_of(end))
        self.add(client)
        if not client.hear(message):
            message.close()

    def add(self, client: Client) -> None:
        """Hear a client, and answer it by the verb's function."""
        self.clients.add(client)
        client.hear = lambda message: self._dispatch(client, message)
        self._loop.watch(client.channel, lambda: self._read(client))

    def _dispatch(self, client: Client, message: Message) -> bool:
        verb = self._verbs.get(message.verb)
        if verb is None:
            client.send("refused", reason=f"{message.verb[:32]} is not a verb of this version")
        else:
            verb(client, message)
        return False

    def _read(self, client: Client) -> None:
        message = None
        try:
            if not client.channel.closed:
                message = client.channel.receive()
        except BlockingIOError:
            return
        if message is None:
            self.drop(client)
            client.gone()
        elif not client.hear(message):
            message.close()
        if client.channel.closed:
            self.drop(client)

    def drop(self, client: Client) -> None:
        """Close a client; twice is harmless."""
        self.clients.discard(client)
        self._loop.forget(client.channel)
        client.channel.close()

    def close(self) -> None:
        """Close the socket and its clients."""
        self._closed = True
        self.pause()
        self.listening.close()
        for client in list(self.clients):
            self.drop(client)
