"""What the holder keeps of the published state: image, secrets, patches, commit page, statistics memory.

Called by holder/main.py. Holds descriptors and version numbers; never looks into an image: the data
plane checks it, the controller made it. Everything here survives the death of both.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from dataclasses import dataclass, field

IMAGE_FULL = 1
IMAGE_PATCH = 2
COMMIT_PAGE_BYTES = 4096
DEATHS_MAX = 2
COMMIT_PAGE_MAGIC = 0x31544D4345474445  # "EDGECMT1" read as little-endian 64 bit


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


class CommitPage:
    """The page that says which version runs (struct edge_commit_page in edge.h); we are its one writer."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("edge-commit", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, COMMIT_PAGE_BYTES)
        self._page = mmap.mmap(self.descriptor, COMMIT_PAGE_BYTES)
        self._page[0:8] = struct.pack("=Q", COMMIT_PAGE_MAGIC)
        # Later mappings can only read: the data plane gets the page, not the say. Nobody can resize it.
        fcntl.fcntl(
            self.descriptor,
            fcntl.F_ADD_SEALS,
            fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL,
        )

    def write(self, version: int) -> None:
        """Name the running version. One aligned 8-byte store."""
        memoryview(self._page).cast("Q")[1] = version


_F_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h, since 5.1


def make_statistics_memory() -> int:
    """Make the statistics memfd, still empty.

    Its layout is the C side's (struct edge_stats_header), which the holder does not import: the first
    data plane gives it size and header before its first thread; later ones find it formatted.
    """
    return os.memfd_create("edge-stats", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def seal_size(descriptor: int) -> None:
    """Forbid resizing: a reader must not be killed by a data plane that cuts its memory off."""
    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & wanted != wanted and os.fstat(descriptor).st_size:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, wanted)
