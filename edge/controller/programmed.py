"""Which versions hold which EdgePolicy, so that a node's digest says whether the policy is at work there.

Written by reporter.py after each publish, by every instance, so that a new leader knows it too. A node may be
a few versions behind: any digest from the one on that first held the policy will do. Bounded.
"""

from __future__ import annotations

HISTORY_MAX = 512


class Versions:
    """The digests that were published here, by number, and the number that first held an object."""

    def __init__(self) -> None:
        self._number = 0
        self._last = ""
        self._numbers: dict[str, int] = {}  # the latest of each digest; the oldest first
        self._since: dict[str, tuple[str, int, int]] = {}  # name: uid, generation, number

    def published(self, digest: str) -> None:
        """Note what is published from now on."""
        if digest == self._last:
            return
        self._number += 1
        self._last = digest
        self._numbers.pop(digest, None)
        self._numbers[digest] = self._number
        while len(self._numbers) > HISTORY_MAX:
            del self._numbers[next(iter(self._numbers))]

    def holds(self, name: str, uid: str, generation: int) -> None:
        """Note that what is published now holds this generation of an object."""
        known = self._since.get(name)
        if known is None or known[:2] != (uid, generation):
            self._since[name] = (uid, generation, self._number)

    def gone(self, name: str) -> None:
        """Forget an object."""
        self._since.pop(name, None)

    def served(self, name: str, uid: str, generation: int, digest: str) -> bool:
        """Say whether a node that serves ``digest`` serves this generation of an object."""
        known = self._since.get(name)
        number = self._numbers.get(digest)
        return (
            known is not None and known[:2] == (uid, generation) and number is not None and number >= known[2]
        )
