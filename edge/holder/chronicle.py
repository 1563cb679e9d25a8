"""What happened to the instance: counts and the last events, kept in the holdings, told to the controller.

Called by everything in edge/holder that restarts, hands over or gives up. Never decides anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.holder.log import say
from edge.holdings import Event, Holdings


class Chronicle:
    """Writes the counts and events of the holdings; ``tell`` sends to the controller, where one lives."""

    def __init__(self, holdings: Holdings, tell: Callable[..., None]) -> None:
        self._holdings, self._tell = holdings, tell

    def count(self, name: str) -> None:
        """Add one to a count."""
        self._holdings.counts[name] += 1
        self._tell("counts", (), **self._holdings.counts)

    def note(self, kind: str, text: str) -> None:
        """Say it on stderr, and keep it as an event."""
        say(text)
        event = Event(int(time.time()), kind, text)
        self._holdings.events.append(event)
        self._tell("event", (), at=event.at, kind=kind, text=text)
