"""The shared pages that the holder writes or sizes: commit page, heartbeat, statistics memory.

Called by everything in edge/holder. What is published stands in edge/holdings.py.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time

from edge.holder.log import say

COMMIT_PAGE_BYTES = 4096
COMMIT_PAGE_MAGIC = 0x31544D4345474445  # "EDGECMT1" read as little-endian 64 bit


class CommitPage:
    """The page that says which version runs (struct edge_commit_page in edge.h); holders alone write it.

    Shape: ``descriptor`` is for holders, ``reader`` for data planes: what it opens can be mapped for reading
    alone, and a data plane's user may not open it again.
    """

    def __init__(self, descriptor: int = -1) -> None:
        """Make one, or go on with the one of another holder."""
        fresh = descriptor < 0
        if fresh:
            descriptor = os.memfd_create("edge-commit", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, COMMIT_PAGE_BYTES)
            fcntl.fcntl(
                descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            )
        self.descriptor = descriptor
        self.reader = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        self._page = mmap.mmap(descriptor, COMMIT_PAGE_BYTES)
        if fresh:
            self._page[0:8] = struct.pack("=Q", COMMIT_PAGE_MAGIC)

    def write(self, version: int) -> None:
        """Name the running version. One aligned 8-byte store."""
        memoryview(self._page).cast("Q")[1] = version

    def close(self) -> None:
        """Close what is ours alone: the descriptor is the holdings'."""
        self._page.close()
        os.close(self.reader)


class Heartbeat:
    """The page that XDP reads (struct edge_heartbeat); the holder's stamp is its first word."""

    def __init__(self) -> None:
        self._page: mmap.mmap | None = None

    def map(self, descriptor: int) -> None:
        """Stamp this page from now on."""
        try:
            self._page = mmap.mmap(descriptor, mmap.PAGESIZE)
        except (OSError, ValueError) as error:
            say(f"the heartbeat page cannot be mapped: {error}")
            self._page = None

    def stamp(self) -> None:
        """Say that we live, where there is a page."""
        if self._page is not None:
            memoryview(self._page).cast("Q")[0] = time.clock_gettime_ns(time.CLOCK_MONOTONIC)


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
