"""A listening socket of the holder that was bound to nothing, because somebody else had its address.

Used by the admin API and the admission webhook. The holder starts without them; they come when they can.
"""

from __future__ import annotations

import asyncio
import socket

from edge.controller.log import say
from edge.options import parse_address

BACKLOG = 128
RETRY_S = 2.0  # whether an address that was taken is free


async def until_open(listening: socket.socket, place: str, option: str, what: str) -> bool:
    """Return when the socket listens on its place (ADDR:PORT). Shape: False when that cannot be."""
    while not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        try:
            if not listening.getsockname()[1]:
                listening.bind(parse_address(place, option))
            listening.listen(BACKLOG)
        except PermissionError:  # a port below 1024; the holder alone may
            say(f"{what} waits for the next start: no privilege to open {place} later")
            return False
        except OSError:
            await asyncio.sleep(RETRY_S)
    return True
