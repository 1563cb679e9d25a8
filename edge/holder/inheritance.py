"""What a holder starts with when it is not the first: from a living holder, or from a dead one's processes.

Made by holder/take_over.py and holder/adopt.py, used by holder/main.py.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from edge.channel import Channel
from edge.holdings import HeldChild, Holdings
from edge.messages import Message


@dataclass(slots=True)
class Inheritance:
    """Shape: ``how`` is handed, adopted or orphans; ``holdings.children`` are those that we go on with.

    ``orphans`` serve, but nobody can talk to them: they are told to leave when another serves.
    ``buried``: data planes that the controller believed alive, or that could not be gone on with.
    ``waiting``: clients of the control socket that asked before we could answer.
    ``predecessor``: the old holder, which leaves, or in another PID namespace waits for us to serve.
    """

    how: str
    holdings: Holdings
    lock: int = -1
    control: socket.socket | None = None
    orphans: list[HeldChild] = field(default_factory=list)
    buried: list[int] = field(default_factory=list)
    predecessor: Channel | None = None
    waiting: list[tuple[socket.socket, Message]] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Say whether a holder can go on with it."""
        holdings = self.holdings
        return holdings.workers > 0 and holdings.statistics >= 0 and holdings.commit_page >= 0
