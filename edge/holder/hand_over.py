"""The old holder's side of a take-over: gives all it holds to a successor, or goes on (design note 0005).

Made by holder/main.py for `take-over` on the control socket. In one PID namespace the children change hands;
across two, the successor starts its own, our controller ends (two writers of one set of pins would be one
too many), and our data plane drains once the successor serves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edge.holder import record as records
from edge.holder.children import Child
from edge.holder.control import Client, ControlSocket
from edge.holder.controller_side import ControllerSide
from edge.holder.data_planes import DataPlanes
from edge.holder.log import say
from edge.holder.loop import Loop, Moment
from edge.holder.take_over import PROTOCOL
from edge.holdings import HeldChild, Holdings
from edge.messages import Message

READ_PATIENCE_S = 5.0  # for a child to read what waits for it
SILENT_S = 10.0  # for the successor to say `taken`
LOOK_S = 0.01


class Parts(Protocol):
    """What a hand-over needs of the holder."""

    loop: Loop
    holdings: Holdings
    controller: ControllerSide
    data: DataPlanes
    control: ControlSocket
    lock: int

    def children(self) -> list[Child]:
        """Shape: those that live."""


def refusal(message: Message, data: DataPlanes) -> str:
    """Shape: why a successor cannot have what it asks for, "" if it can."""
    protocol = message.number("protocol")
    if protocol != PROTOCOL:
        return f"it speaks protocol {protocol}, this holder {PROTOCOL}"
    apart = message.number("pidns") != records.pid_namespace()
    if apart and len(data.everyone()) > 1:
        return "a data plane drains here, there are no lanes for another one until it has left"
    return ""


class HandOver:
    """One attempt. ``ended(True)``: a successor has all; ``ended(False)``: we go on."""

    def __init__(self, parts: Parts, client: Client, message: Message, ended: Callable[[bool], None]) -> None:
        self._parts, self._client, self._ended = parts, client, ended
        self.successor = client.peer.pid
        self.together = message.number("pidns") == records.pid_namespace()
        self.over = False
        self._handed = self._let_go = False
        self._deadline: Moment | None = None
        client.hear, client.gone = self._hear, lambda: self.give_up("the successor went away")
        parts.data.stopping = parts.controller.stopping = True  # nothing is started meanwhile
        parts.control.pause()
        self._deadline = parts.loop.after(
            READ_PATIENCE_S, lambda: self.give_up("a child does not read its messages")
        )
        if self.together:
            for child in parts.children():
                child.pause()
            self._wait_for_readers()
        else:
            parts.controller.end_and(self._hand)

    def _wait_for_readers(self) -> None:
        """What is not sent yet would be lost: the successor gets the channel, not our queue."""
        if self.over:
            return
        for child in self._parts.children():
            child.channel.flush()
        if any(child.channel.waiting for child in self._parts.children()):
            self._parts.loop.after(LOOK_S, self._wait_for_readers)
        else:
            self._hand()

    def _hand(self) -> None:
        if self.over:
            self._parts.controller.start()  # it was ended for a successor that has gone meanwhile
            return
        parts, send = self._parts, self._client.send
        children: list[HeldChild] = []
        if self.together:
            children = [one.held() for one in parts.data.everyone()]
            controller = parts.controller.held()
            children += [controller] if controller else []
        parts.holdings.tell(send, children)
        if not self.together:
            for one in parts.data.everyone():  # their lanes are taken
                send("holding", (), what="lanes", first=one.lane_first)
        send("holding", (parts.lock, parts.control.listening.fileno()), what="instance")
        send("handed", (), children="come" if self.together else "stay")
        self._handed = True
        if self._deadline:
            self._deadline.cancel()
        self._deadline = parts.loop.after(SILENT_S, lambda: self.give_up("the successor is silent"))

    def _hear(self, message: Message) -> bool:
        if message.verb == "taken" and self._handed and not self._let_go:
            self._leave()
        elif message.verb == "serving" and self._let_go and not self.over:
            self.over = True
            self._ended(True)
        return False

    def _leave(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._client.send("left")
        if self._client.is_gone():
            self.give_up("the successor went away")
            return
        self._let_go = True
        if self.together:
            self.over = True
            self._ended(True)
        # Apart: our data plane serves on until the successor's does; if that dies before, we are the holder.

    def conclude(self) -> bool:
        """Leave it to the successor, if that has everything and only does not serve yet; for who must stop.

        Shape: False when we are still the holder, and have given up handing over.
        """
        if not self._let_go:
            self.give_up("this holder is told to stop")
            return False
        self.over = True
        self._parts.control.drop(self._client)
        return True

    def give_up(self, reason: str) -> None:
        """Go on as if nobody had asked."""
        if self.over:
            return
        self.over = True
        if self._deadline:
            self._deadline.cancel()
        parts = self._parts
        say(f"no hand-over: {reason}; this holder goes on")
        self._client.send("kept", reason=reason)
        parts.control.drop(self._client)
        parts.data.stopping = parts.controller.stopping = False
        if self.together:
            for child in parts.children():
                child.resume()
        parts.control.begin()
        parts.data.start()
        parts.controller.start()
        self._ended(False)
