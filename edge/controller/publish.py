"""Publishing: prepare everywhere, then commit everywhere (design note 0002).

Called by the controller's loop, one version at a time. Prepare may fail and leaves the running version
alone; commit cannot fail: the XDP word first, then the holder's commit page. Never judges an object.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from edge.dataplane.link import FULL, PATCH, HolderLink
from edge.dataplane.refusals import owner, refused_object
from edge.dataplane.tables import Tables, sealed_memfd, secrets, subject
from edge.errors import PublishError
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.types import Address, Policy
from edge.snapshot.diff import Change, ChangeKind
from edge.snapshot.types import Snapshot

PATIENCE_S = 10.0  # a restarted data plane answers in well under a second; large images take longer
# Then a whole image is due, and sent when nothing else is to be; a stream that never rests has it sooner or
# later between two of its changes.
PATCHES_DUE, PATCHES_MAX = 64, 192
SHARE_DUE, SHARE_MAX = 0.25, 0.5  # patches together, of the image

Vip = tuple[Address, int, int]  # address, port, protocol number
Policed = tuple[tuple[Policy, ...], tuple[Vip, ...], frozenset[Address]]


class Plane(Protocol):
    """The part of edge/xdp's plane that publishing needs; every call blocks."""

    def prepare(self, version: int, vips: Iterable[Vip], policies: Iterable[Policy]) -> None:
        """Fill the next generation."""

    def commit(self) -> None:
        """Make it the running one: one word."""

    def moved_heartbeat(self) -> int | None:
        """Shape: the page that packets are judged by from now on, None where it is the same."""

    def retire(self) -> None:
        """Drop what the generation before it held."""


@dataclass(frozen=True, slots=True)
class PublishResult:
    """What became of one version. ``refused``: None, or the finding that names what was refused."""

    version: int
    kind: str
    size_bytes: int
    refused: Diagnostic | None = None


class Publisher:
    """Knows what runs, and what a patch would be laid upon."""

    def __init__(self, link: HolderLink, tables: Tables) -> None:
        self._link = link
        self._tables = tables
        self.vips: tuple[Vip, ...] = ()
        self.local: frozenset[Address] = frozenset()
        self.plane: Plane | None = None
        self.running: Snapshot | None = None
        self._policed: Policed | None = None
        self._full_bytes = 0
        self._patches = 0
        self._patch_bytes = 0

    async def publish(
        self, snapshot: Snapshot, change: Change, before_commit: Callable[[], Awaitable[None]]
    ) -> PublishResult:
        """Prepare and commit one snapshot. ``before_commit`` runs when all have prepared
        and packets are judged by this version.

        Errors: PublishError, NativeError, XdpError; the running version stays.
        """
        kind, image, size = self._encode(snapshot, change)
        descriptors = [image]
        try:
            if kind == FULL:
                descriptors.append(sealed_memfd("edge-secrets", secrets(snapshot)))
            return await self._agree(snapshot, kind, descriptors, size, before_commit)
        finally:
            for number in descriptors:
                os.close(number)

    async def _agree(
        self,
        snapshot: Snapshot,
        kind: int,
        descriptors: list[int],
        size: int,
        before_commit: Callable[[], Awaitable[None]],
    ) -> PublishResult:
        """Prepare and commit what was encoded."""
        wanted = (snapshot.policies, self.vips, self.local)
        policed = wanted != self._policed and self.plane is not None
        prepared = self._link.prepare(snapshot.version, kind, tuple(descriptors), PATIENCE_S)
        if policed and self.plane is not None:
            refusal, _ = await asyncio.gather(
                prepared,
                asyncio.to_thread(self.plane.prepare, snapshot.version, self.vips, snapshot.policies),
            )
        else:
            refusal = await prepared
        name = "full" if kind == FULL else "patch"
        if refusal:
            image = os.pread(descriptors[0], size, 0)
            found = refused_object(snapshot, image, refusal.section, refusal.index)
            reason = refusal.reason or f"code {refusal.code}"
            if found is None:
                self.begin_anew()
                raise PublishError(
                    f"version {snapshot.version} was refused: {reason} {refusal.field}".strip()
                )
            return PublishResult(snapshot.version, name, size, blame(found, refusal.field, reason))
        if policed and self.plane is not None:
            await self._judge(self.plane, wanted)
        await before_commit()  # opens sockets: no connection may come past the filter
        self._link.commit(snapshot.version)
        if policed and self.plane is not None:
            await asyncio.to_thread(self.plane.retire)
        self._note(snapshot, kind, size)
        return PublishResult(snapshot.version, name, size)

    async def police(self, snapshot: Snapshot) -> bool:
        """Publish to XDP alone: the data plane has nothing that would change. Shape: False if XDP neither.

        Errors: XdpError; the running version stays.
        """
        wanted = (snapshot.policies, self.vips, self.local)
        if self.plane is None or wanted == self._policed:
            return False
        await asyncio.to_thread(self.plane.prepare, snapshot.version, self.vips, snapshot.policies)
        await self._judge(self.plane, wanted)
        await asyncio.to_thread(self.plane.retire)
        return True

    async def _judge(self, plane: Plane, wanted: Policed) -> None:
        """Let packets see what was prepared; who stamps the heartbeat follows it."""
        await asyncio.to_thread(plane.commit)
        self._policed = wanted
        page = plane.moved_heartbeat()
        if page is not None:
            self._link.heartbeat(page)

    def _encode(self, snapshot: Snapshot, change: Change) -> tuple[int, int, int]:
        """Shape: kind, descriptor, size."""
        if self.running is not None and change.kind is ChangeKind.ENDPOINTS and self._patches < PATCHES_MAX:
            patch = self._tables.patch(self.running, snapshot)
            if patch and (not self._patches or self._patch_bytes + len(patch) < self._full_bytes * SHARE_MAX):
                return PATCH, sealed_memfd("edge-image", patch), len(patch)
        return FULL, *self._tables.full_memory(snapshot)

    @property
    def whole_due(self) -> bool:
        """Say whether so many patches lie upon the image that a whole one should come, when there is time."""
        share = self._patch_bytes / max(1, self._full_bytes)
        return self._patches >= PATCHES_DUE or (self._patches > 1 and share >= SHARE_DUE)

    def begin_anew(self) -> None:
        """Make the next version a whole image, whatever it changes."""
        self.running = None

    def _note(self, snapshot: Snapshot, kind: int, size: int) -> None:
        self.running = snapshot
        if kind == FULL:
            self._full_bytes, self._patches, self._patch_bytes = size, 0, 0
        else:
            self._patches += 1
            self._patch_bytes += size


def fragment_object(snapshot: Snapshot, index: int) -> ObjectRef | None:
    """Find the object behind a fragment that the image's build refused."""
    return owner(subject(snapshot, index))


def blame(found: ObjectRef, field: str, reason: str) -> Diagnostic:
    """Shape: the finding that leaves an object out of the next try."""
    if found.kind == "Secret" and field.startswith("tls."):
        field = f"data[{field}]"  # as the model names them
    return Diagnostic(found, field, "Refused", f"left out, the data plane refuses it: {reason}")
