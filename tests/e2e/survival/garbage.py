"""A controller that spoils what it publishes, on order.

Runs inside the controller of faults_inside.py, before it is one. The order is a file that names a
member of SPOILED; it is obeyed once, and the file removed: what is published next is good again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.dataplane.link import HolderLink
from edge.dataplane.tables import sealed_memfd


def content(descriptor: int) -> bytes:
    """Return all bytes of a memfd."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def sealed(change: Callable[[bytes], bytes]) -> Callable[[int], int]:
    """Make a sealed memfd of a changed content."""
    return lambda descriptor: sealed_memfd("spoiled", change(content(descriptor)))


def flipped(data: bytes) -> bytes:
    """Turn one bit in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def unsealed(descriptor: int) -> int:
    """Make a memfd that its maker can still change."""
    fresh = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.write(fresh, content(descriptor))
    return fresh


def pipe(_descriptor: int) -> int:
    """Make what cannot be mapped."""
    read, write = os.pipe()
    os.close(write)
    return read


SPOILED: dict[str, Callable[[int], int]] = {
    "noise": sealed(lambda data: random.Random(4).randbytes(len(data))),
    "zeros": sealed(lambda data: bytes(len(data))),
    "cut": sealed(lambda data: data[: len(data) // 2]),
    "longer": sealed(lambda data: data + bytes(64)),
    "flipped": sealed(flipped),
    "one byte": sealed(lambda data: data[:1]),
    "unsealed": unsealed,
    "pipe": pipe,
    "folder": lambda _descriptor: os.open("/", os.O_RDONLY),
}


def obey(order: Path) -> None:
    """Have images spoiled as the order says."""
    prepare = HolderLink.prepare

    async def spoil(self: HolderLink, version: int, kind: int, descriptors: Any, patience_s: float) -> Any:
        try:
            what = order.read_text()
            order.unlink()
        except OSError:
            return await prepare(self, version, kind, descriptors, patience_s)
        if what == "wrong version":
            return await prepare(self, version + 7, kind, descriptors, patience_s)
        spoiled = SPOILED[what](descriptors[0])
        try:
            return await prepare(self, version, kind, (spoiled, *descriptors[1:]), patience_s)
        finally:
            os.close(spoiled)

    HolderLink.prepare = spoil  # type: ignore[method-assign]


ORDERS = (*SPOILED, "wrong version")
