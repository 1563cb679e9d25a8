"""What is to be written to the API server: one entry an object, at a limited rate, later after a failure.

Used by reporter.py. An object that changes often is one entry; one that cannot be written comes back at
ever longer intervals; an API server that asks for time (429, Retry-After) is given it by all. Holds keys
only: what is written is worked out when its turn has come. One task takes.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_S = 1.0  # after one failure; doubled by each
LAST_S = 300.0
ROUNDING_S = 1e-6  # less is no reason to wait
PAUSE_MAX_S = 60.0  # an API server that asks for more is asked again


class WorkQueue(Generic[K]):
    """``per_second``, ``burst``: a bucket of tokens, one a key that is taken."""

    def __init__(
        self,
        per_second: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._chance = chance
        self._tokens = float(burst)
        self._filled = clock()
        self._paused_until = 0.0
        self._due: dict[K, float] = {}
        self._order: list[tuple[float, int, K]] = []  # may hold entries that _due does not confirm
        self._number = 0
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: K, delay: float = 0.0) -> None:
        """Want a key to be taken after so long; of two times, the earlier counts."""
        due = self._clock() + delay
        known = self._due.get(key)
        if known is not None and known <= due:
            return
        self._due[key] = due
        self._number += 1
        heapq.heappush(self._order, (due, self._number, key))
        if len(self._order) > 2 * len(self._due) + 64:
            self._order = [entry for entry in self._order if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._order)
        self._wake.set()

    def done(self, key: K) -> None:
        """Say that a key was written."""
        self._failures.pop(key, None)

    def failed(self, key: K, retry_after: float = 0.0) -> float:
        """Say that it was not. Shape: the seconds after which it is taken again."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        wait = min(FIRST_S * 2.0 ** min(failures, 20), LAST_S)
        wait = max(wait * (0.5 + self._chance()), retry_after)  # jittered: many fail at once
        self.add(key, wait)
        return wait

    def forget(self, key: K) -> None:
        """Drop a key: its object is gone."""
        self._due.pop(key, None)
        self._failures.pop(key, None)

    def clear(self) -> None:
        """Drop everything."""
        self._due.clear()
        self._order.clear()
        self._failures.clear()

    def pause(self, seconds: float) -> None:
        """Take nothing for so long."""
        self._paused_until = max(self._paused_until, self._clock() + min(seconds, PAUSE_MAX_S))

    def poll(self) -> tuple[K | None, float | None]:
        """Take the key whose turn it is. Shape: the key, or None and how long; None: until one is added."""
        now = self._clock()
        while self._order and self._due.get(self._order[0][2]) != self._order[0][0]:
            heapq.heappop(self._order)
        if not self._order:
            return None, None
        due, _, key = self._order[0]
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._filled) * self._per_second)
        self._filled = now
        wait = max(due - now, self._paused_until - now, (1.0 - self._tokens) / self._per_second)
        if wait > ROUNDING_S:
            return None, wait
        self._tokens -= 1.0
        heapq.heappop(self._order)
        del self._due[key]
        return key, 0.0

    async def take(self) -> K:
        """Wait for the next key."""
        while True:
            self._wake.clear()
            key, wait = self.poll()
            if key is not None:
                return key
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass
