"""The holder's one loop: descriptors that are watched, and moments that come.

Called by everything in edge/holder. One thread; a turn waits until a descriptor is ready or a moment has
come. Never waits for a peer: what a peer does not read yet waits in its Channel.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import time
from collections.abc import Callable

from edge.channel import Channel


class Moment:
    """A call that comes later, unless it is called off."""

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Call it off; after it came this does nothing."""
        self.call = None


class Loop:
    """Units: seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._moments: list[tuple[float, int, Moment]] = []
        self._order = itertools.count()

    # ---- what is watched -----------------------------------------------------------------

    def watch(self, channel: Channel, read: Callable[[], None]) -> None:
        """Call ``read`` when a message waits; what could not be sent is sent when the peer takes it."""

        def ready(events: int) -> None:
            if events & selectors.EVENT_WRITE:
                channel.flush()
            if events & selectors.EVENT_READ:
                read()
            self.adjust(channel)

        self._selector.register(channel, selectors.EVENT_READ, ready)
        self.adjust(channel)

    def watch_descriptor(self, number: int, ready: Callable[[], None]) -> None:
        """Call ``ready`` when it is readable: a pidfd, a listening socket, a pipe."""
        self._selector.register(number, selectors.EVENT_READ, lambda _events: ready())

    def adjust(self, channel: Channel) -> None:
        """Ask for writability only while messages wait."""
        if channel.closed or channel not in self._selector.get_map():
            return
        key = self._selector.get_key(channel)
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.waiting else 0)
        if key.events != wanted:
            self._selector.modify(channel, wanted, key.data)

    def forget(self, watched: Channel | int | None) -> None:
        """Watch it no more; to be called before it is closed."""
        if watched is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(watched)

    # ---- what comes ----------------------------------------------------------------------

    def after(self, seconds: float, call: Callable[[], None]) -> Moment:
        """Call something once, later."""
        moment = Moment(time.monotonic() + seconds, call)
        heapq.heappush(self._moments, (moment.at, next(self._order), moment))
        return moment

    def turn(self) -> None:
        """Wait for what comes first, and do it."""
        for key, events in self._selector.select(self._timeout()):
            try:
                if self._selector.get_key(key.fileobj) is not key:
                    continue  # watched anew, or differently, by what came before it in this turn
            except (KeyError, ValueError):
                continue
            key.data(events)
        now = time.monotonic()
        while self._moments and self._moments[0][0] <= now:
            call = heapq.heappop(self._moments)[2].call
            if call is not None:
                call()

    def _timeout(self) -> float | None:
        while self._moments and self._moments[0][2].call is None:
            heapq.heappop(self._moments)
        return max(self._moments[0][0] - time.monotonic(), 0.0) if self._moments else None

    def close(self) -> None:
        """Close the selector; what it watched stays open."""
        self._selector.close()
