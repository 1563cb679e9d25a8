"""The holder's parts put together without a process: children are channels, what they are told is read.

Used by the tests beside it. Time is the loop's: `until` turns it until something is so.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.holder.children import Child
from edge.holder.control import ControlSocket
from edge.holder.controller_side import ControllerSide
from edge.holder.data_plane import Setup
from edge.holder.data_planes import DataPlanes
from edge.holder.loop import Loop
from edge.holder.sockets import open_control
from edge.holder.store import CommitPage
from edge.holdings import IMAGE_FULL, Holdings, Stored
from edge.options import Options
from tests.edge.holder.fakes import Peer


class World:
    """What `Parts` of a hand-over, a drain or an upgrade name."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.options = Options(run_dir=str(folder), instance="world", grace_period=0.05)
        self.options.instance_run_dir.mkdir()
        self.loop = Loop()
        self.page = CommitPage()
        self.holdings = Holdings(workers=2, commit_page=self.page.descriptor)
        self.holdings.statistics, self.holdings.admin = os.memfd_create("s"), os.memfd_create("a")
        self.lock = os.memfd_create("lock")
        self.controllers: list[Peer] = []
        self.data_planes: list[Peer] = []
        self.controller = ControllerSide(self.loop, self.holdings, self.options, self.page)
        setup = Setup(self.page.reader, "auto", 1, 1, 50, "text")
        tell = self.controller.send
        self.data = DataPlanes(self.loop, self.holdings, setup, self.controller.chronicle, tell)
        self.controller.data = self.data
        control = open_control(self.options.instance_run_dir / "control.sock")
        self.control = ControlSocket(self.loop, control, {})
        self.control.begin()
        for program, peers in (
            (self.controller.program, self.controllers),
            (self.data.program, self.data_planes),
        ):
            monkeypatch.setattr(program, "start", self.starter(program.name, peers))

    @staticmethod
    def starter(name: str, peers: list[Peer]) -> Callable[..., Child]:
        def start(loop: Loop, executable: str) -> Child:
            peers.append(Peer(loop, name))
            peers[-1].child.executable = executable
            return peers[-1].child

        return start

    def begin(self) -> None:
        """Start both children, with one committed version that is served."""
        self.data.start()
        self.controller.start()
        self.publish(1)
        self.serve(self.data_planes[0], 1)
        for peer in (*self.controllers, *self.data_planes):
            peer.heard()

    def publish(self, version: int) -> None:
        """Stage and commit a version, as the controller would."""
        stored = Stored(version, IMAGE_FULL, (os.memfd_create("i"), os.memfd_create("k")))
        self.holdings.store.stage(stored)
        self.data.stage(stored)
        self.holdings.store.commit(version)
        self.data.commit(version)

    def serve(self, peer: Peer, version: int) -> None:
        """Have a data plane become ready and serve a version."""
        peer.says("ready", loop="epoll", workers=2)
        peer.says("prepared", version=version)
        peer.says("serving", version=version)
        one = next(one for one in self.data.everyone() if one.child is peer.child)
        self.until(lambda: one.serving == version)

    def children(self) -> list[Child]:
        """Shape: those that live."""
        living = [one.child for one in self.data.everyone()]
        return [*living, *([self.controller.child] if self.controller.child else [])]

    def until(self, reached: Callable[[], object]) -> None:
        """Turn the loop until something is so."""
        late = self.loop.after(10, lambda: pytest.fail("it never came"))
        while not reached():
            self.loop.turn()
        late.cancel()

    def connect(self) -> socket.socket:
        """Connect to the control socket."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.connect(str(self.options.instance_run_dir / "control.sock"))
        return end

    def close(self) -> None:
        """Leave nothing open."""
        for peer in (*self.controllers, *self.data_planes):
            peer.close()
        self.control.close()
        self.loop.close()
        self.holdings.close()
        self.page.close()
        os.close(self.lock)
