"""What the controller says to an operator on the terminal: one line at a time."""

from __future__ import annotations

import datetime

from edge import stderr

YEAR_9999 = 253_370_764_800  # its first second; a clock that says more is not worth a calendar


def say(text: str) -> None:
    """Write one line for an operator."""
    stderr.say("edge-controller", text)


def moment(seconds: float) -> str:
    """Shape: a time of the wall clock in UTC, to the second."""
    if not 0 <= seconds < YEAR_9999:
        return f"{seconds} s after 1970"
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_moment(seconds: float) -> str:
    """Shape: the same to the microsecond, as Leases and Events have it; the API takes no year above 9999."""
    shown = min(max(seconds, 0.0), YEAR_9999 - 1.0)
    return datetime.datetime.fromtimestamp(shown, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
