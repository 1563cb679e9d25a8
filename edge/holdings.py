"""Holdings: all that outlives a process, as one record.

The holder's own, and the controller's copy of it, kept by the same calls (design note 0005). Descriptors
and numbers alone: nothing here looks into an image, starts a process or knows who holds it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

IMAGE_FULL = 1
IMAGE_PATCH = 2
DEATHS_MAX = 2
COUNTS = (
    "data_restarts",
    "controller_restarts",
    "handovers",
    "adoptions",
    "upgrades",
    "watchdog_kills",
)  # of an instance, over all its holders


@dataclass(slots=True)
class Stored:
    """One image or patch as it came from the controller; owns its descriptors."""

    version: int
    kind: int
    descriptors: tuple[int, ...]
    deaths: int = 0  # of data planes that had it to prepare

    def close(self) -> None:
        """Close the descriptors."""
        for number in self.descriptors:
            os.close(number)


@dataclass(slots=True)
class ImageStore:
    """Shape: ``chain`` is the committed full image and its patches in order; ``staged`` waits for commit.

    ``slots``: the newest slot table, a memfd that only controllers read. It is of no version: a slot that a
    refused version was given is taken all the same.
    """

    chain: list[Stored] = field(default_factory=list)
    staged: Stored | None = None
    slots: int | None = None

    @property
    def committed(self) -> int:
        """Return the committed version, 0 for none."""
        return self.chain[-1].version if self.chain else 0

    def knows(self, version: int) -> bool:
        """Say whether a version is stored here."""
        return any(one.version == version for one in self.all())

    def all(self) -> list[Stored]:
        """Shape: the chain, then what is staged: the order in which a fresh data plane takes them."""
        return [*self.chain, *([self.staged] if self.staged else [])]

    def stage(self, fresh: Stored) -> None:
        """Keep a new version until its commit; one that was never committed is dropped."""
        if self.staged:
            self.staged.close()
        self.staged = fresh

    def keep_slots(self, descriptor: int) -> None:
        """Replace the slot table; owns the descriptor."""
        if self.slots is not None:
            os.close(self.slots)
        self.slots = descriptor

    def count_death(self) -> int:
        """Count a death of the data plane that had the staged version to prepare.

        Shape: the version when it is to be refused, dropped already; 0 for another try. One death may be of
        another cause; at the second we would kill one after the other.
        """
        if not self.staged:
            return 0
        self.staged.deaths += 1
        version = self.staged.version if self.staged.deaths >= DEATHS_MAX else 0
        self.drop(version)
        return version

    def drop(self, version: int) -> None:
        """Forget a staged version that was refused."""
        if self.staged and self.staged.version == version:
            self.staged.close()
            self.staged = None

    def commit(self, version: int) -> bool:
        """Make the staged version the running one; False when it is not the staged one.

        A full image ends the older chain, a patch is kept after its base.
        """
        if not self.staged or self.staged.version != version:
            return False
        if self.staged.kind == IMAGE_FULL:
            for old in self.chain:
                old.close()
            self.chain = []
        self.chain.append(self.staged)
        self.staged = None
        return True

    def close(self) -> None:
        """Close everything."""
        for one in self.all():
            one.close()
        if self.slots is not None:
            os.close(self.slots)
        self.chain, self.staged, self.slots = [], None, None


@dataclass(slots=True)
class Listener:
    """One served address: descriptors of its member sockets, as long as the instance lives."""

    slot: int
    address: str
    port: int
    members: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Close the members."""
        while self.members:
            os.close(self.members.pop())


@dataclass(slots=True)
class Holdings:
    """Shape: descriptors, -1 where there is none; it owns them."""

    workers: int = 0
    statistics: int = -1
    admin: int = -1
    commit_page: int = -1
    log: int = -1
    heartbeat: int = -1
    listeners: dict[int, Listener] = field(default_factory=dict)
    store: ImageStore = field(default_factory=ImageStore)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    def replace(self, name: str, descriptor: int) -> None:
        """Put a descriptor in the place of the one that is kept under this name."""
        old = getattr(self, name)
        setattr(self, name, descriptor)
        if old >= 0:
            os.close(old)

    def close_listeners(self) -> None:
        """Close our copies of all listening sockets."""
        for listener in self.listeners.values():
            listener.close()
        self.listeners.clear()

    def close(self) -> None:
        """Close everything; twice is harmless."""
        self.close_listeners()
        self.store.close()
        for name in ("statistics", "admin", "commit_page", "log", "heartbeat"):
            self.replace(name, -1)
