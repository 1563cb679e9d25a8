"""Keeps the last-known-good state: reads it at the start, writes what was accepted, behind the publishes.

Owned by the controller's loop. Writing is one thread's work at most once a second, so that no publish waits
for a disk; what cannot be written is said once, shown as a finding, and tried until there is room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from edge.controller import lastgood
from edge.controller.lastgood import Contents, LastGood
from edge.controller.log import moment, say
from edge.controller.state import BYTES_MAX, DEFAULT_CERTIFICATE, StateDirectory
from edge.errors import SourceError
from edge.model.diagnostics import Diagnostic, ObjectRef, Severity
from edge.resources.kinds import KINDS, Raw
from edge.resources.store import Key, ResourceStore

CURRENT = "last-good.jsonl"
PREVIOUS = "last-good.old.jsonl"
SECRETS = "secrets.jsonl"
SLOTS_ALONE = "slots.json"  # what versions before this file wrote
APART_S = 1.0  # between two writes
SHARE_MAX = 100  # and at least so many times as long as the last one took,
APART_MAX_S = 10.0  # but no longer than this
RETRY_S = 2.0
LOOK_S = 10.0  # whether the file is still there


@dataclass(slots=True)
class Recovered:
    """What a start finds. ``files``: objects by file; empty where nothing was kept."""

    slots: str = ""
    files: Mapping[str, tuple[tuple[Key, Raw], ...]] = field(default_factory=dict)
    written: int = 0


class Accepted:
    """The objects of the last version that was accepted, followed by what changes."""

    def __init__(self) -> None:
        self._objects: dict[Key, Raw] = {}
        self._left_out: set[Key] = set()

    def follow(self, store: ResourceStore, changed: Iterable[Key], refused: Iterable[ObjectRef]) -> None:
        """Take over what changed in the store, without what was refused."""
        left_out: set[Key] = {(ref.kind, ref.namespace, ref.name) for ref in refused}
        for key in {*changed, *(left_out ^ self._left_out)}:
            if key[0] not in KINDS:  # what we have found out ourselves
                continue
            raw = None if key in left_out else store.get(*key)
            if raw is None:
                self._objects.pop(key, None)
            else:
                self._objects[key] = raw
        self._left_out = left_out

    def objects(self) -> Mapping[Key, Raw]:
        """Shape: a copy, for the thread that writes."""
        return dict(self._objects)


class Keeper:
    """``findings``: of the start, and of writing now.

    ``written``: when the state was last written of a source that was there. Units: seconds since 1970.
    """

    def __init__(
        self, directory: StateDirectory, keep_secrets: bool, note: Callable[[str, str], None]
    ) -> None:
        self._directory = directory
        self._keep_secrets = keep_secrets
        self._note = note
        self._at_start: list[Diagnostic] = []
        self._not_kept: tuple[Key, ...] = ()
        self._pending: Callable[[], Contents] | None = None
        self._written: Contents | None = None
        self._wake = asyncio.Event()
        self._hurried = asyncio.Event()
        self._writing = threading.Lock()
        self._lines = lastgood.Lines()
        self._rotate = False  # the present file is worth keeping as the one before
        self._written_monotonic = 0.0
        self.written = 0
        self.version = 0
        self.error = ""
        self.errors = 0

    @property
    def current(self) -> bool:
        """Say whether the file holds what was accepted last."""
        return self._pending is None and self._written is not None

    @property
    def age_s(self) -> float:
        """How old the file is; -1 without one. A clock that jumps while we run does not matter."""
        return max(0.0, time.monotonic() - self._written_monotonic) if self.written else -1.0

    @property
    def findings(self) -> tuple[Diagnostic, ...]:
        """Shape: what is wrong with the state, by object."""
        found = list(self._at_start)
        if self.error:
            found.append(_finding("NotWritten", f"{self.error}; serving goes on, a start would find less"))
        text = "has no form in JSON: a start without its file would not know it"
        found += [
            Diagnostic(ObjectRef(*key), "", "NotKept", text, Severity.WARNING) for key in self._not_kept
        ]
        return tuple(sorted(found))

    # ---- start ---------------------------------------------------------------------------

    def recover(self) -> Recovered:
        """Read the best that is left; what is wrong is said and is a finding. Blocks."""
        if not self._keep_secrets:
            self._forget_secrets()
        for name in (CURRENT, PREVIOUS):
            found = self._read(name)
            if found is None:
                continue
            self._rotate = name == CURRENT
            self.written, self.version = found.written, found.version
            self._written_monotonic = time.monotonic() - max(0.0, time.time() - found.written)
            if name == PREVIOUS:
                self._complain("Older", f"the state before it is used, of {moment(found.written)}")
            if found.unknown:
                self._complain("UnknownKind", f"{name} has {found.unknown} objects that nobody here reads")
            return Recovered(found.slots, self._with_secrets(found.files), found.written)
        return Recovered(self._slots_alone())

    def _read(self, name: str) -> LastGood | None:
        try:
            data = self._directory.read(name)
        except SourceError as error:
            self._complain("Unusable", str(error))
            return None
        if data is None:
            return None
        collecting = gc.isenabled()
        gc.disable()  # one for each thousand objects, which all stay, takes three times as long as reading
        try:
            return lastgood.decode(data)
        except ValueError as error:
            self._complain("Unusable", f"{self._directory.path / name} {error}")
            return None
        finally:
            if collecting:
                gc.enable()

    def _with_secrets(
        self, files: Mapping[str, tuple[tuple[Key, Raw], ...]]
    ) -> Mapping[str, tuple[tuple[Key, Raw], ...]]:
        if not self._keep_secrets:
            return files
        whole: dict[Key, Raw] = {}
        try:
            data = self._directory.read(SECRETS)
            whole = lastgood.decode_secrets(data) if data is not None else {}
        except SourceError as error:
            self._complain("Unusable", str(error))
        except ValueError as error:
            self._complain("Unusable", f"{self._directory.path / SECRETS} {error}")
        return {
            file: tuple((key, lastgood.restore(raw, whole.get(key))) for key, raw in objects)
            for file, objects in files.items()
        }

    def _slots_alone(self) -> str:
        try:
            data = self._directory.read(SLOTS_ALONE)
        except SourceError as error:
            self._complain("Unusable", str(error))
            return ""
        if data is None:
            return ""
        self._complain(
            "Older", f"{self._directory.path / SLOTS_ALONE} is of an older version: slots, no objects"
        )
        return data.decode("utf-8", "replace")

    def _forget_secrets(self) -> None:
        """Leave no key on disk where none may be."""
        try:
            removed = [name for name in (SECRETS, DEFAULT_CERTIFICATE) if self._directory.remove(name)]
        except SourceError as error:
            self._complain("Unusable", f"without --state-secrets no key may stand here: {error}")
            return
        if removed:
            say(f"--state-secrets is not given: removed {', '.join(removed)} from {self._directory.path}")

    def _complain(self, reason: str, text: str) -> None:
        say(f"state: {text}")
        self._note("state", text)
        self._at_start.append(_finding(reason, text))

    # ---- run -----------------------------------------------------------------------------

    def keep(self, contents: Callable[[], Contents]) -> None:
        """Have the contents written soon; the last of several wins, and is asked when it is its turn."""
        self._pending = contents
        self._wake.set()

    def hurry(self) -> None:
        """Write what is pending at once: the instance stops."""
        self._hurried.set()

    async def run(self) -> None:
        """Write what is pending until cancelled, and at last what is left."""
        try:
            while True:
                await _within(self._wake, LOOK_S)
                self._wake.clear()
                if self._pending is None and not await asyncio.to_thread(self._is_lost):
                    continue
                if self._pending is None:
                    self._pending = self._again
                began = time.monotonic()
                await self._write()
                took = time.monotonic() - began
                pause = max(APART_S - took, min(took * SHARE_MAX, APART_MAX_S))
                await _within(self._hurried, RETRY_S if self.error else pause)
                self._hurried.clear()
                if self._pending is not None:
                    self._wake.set()
        finally:
            if self._pending is not None and not self.error:
                contents = self._pending()
                self._settle(self._pending, contents, self._store(contents))

    def _is_lost(self) -> bool:
        """Say whether somebody took away what was written."""
        return self._written is not None and not (self._directory.path / CURRENT).exists()

    async def _write(self) -> None:
        pending = self._pending
        assert pending is not None
        contents = pending()
        self._settle(pending, contents, await asyncio.to_thread(self._store, contents))

    def _again(self) -> Contents:
        assert self._written is not None
        return self._written

    def _store(self, contents: Contents) -> tuple[str, tuple[Key, ...]]:
        """Write all files, in a thread. Shape: "" or why not, and the objects that have no form."""
        now = contents.written or int(time.time())
        try:
            with self._writing:
                if contents == self._written and not self._is_lost():
                    return "", self._not_kept
                if self._keep_secrets:
                    self._directory.write(SECRETS, *lastgood.encode_secrets(contents))
                data, lost = lastgood.encode(contents, now, self._lines)
                if (size := sum(map(len, data))) > BYTES_MAX:
                    return f"--state-dir: {size >> 20} MiB of objects are more than is kept", lost
                self._directory.write(CURRENT, *data, previous=PREVIOUS if self._rotate else "")
                self._rotate = True
                self._directory.remove(SLOTS_ALONE)
        except SourceError as error:
            return str(error), ()
        return "", lost

    def _settle(
        self, pending: Callable[[], Contents], contents: Contents, outcome: tuple[str, tuple[Key, ...]]
    ) -> None:
        error, lost = outcome
        if error:
            self.errors += 1
            if error != self.error:
                say(f"{error}; serving goes on")
                self._note("state", error)
        else:
            if self.error:
                say("the state is written again")
                self._note("state", "written again")
            self._written, self.version = contents, contents.version
            if not contents.written:
                self.written, self._written_monotonic = int(time.time()), time.monotonic()
            self._not_kept = lost
            if self._pending is pending:
                self._pending = None
        self.error = error


def _finding(reason: str, text: str) -> Diagnostic:
    return Diagnostic(ObjectRef("State", "", "last-known-good"), "", reason, text, Severity.WARNING)


async def _within(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
