"""A folder of YAML and JSON files as a source of objects, followed by inotify.

Used by the controller's loop and by `edge check` and `edge explain` (load only). Subfolders are not
read (as `kubectl apply -f` has it), nor names that begin with a dot; links are followed, so the
`..data` layout of a mounted ConfigMap is a folder whose files all change at once. A file that cannot be read
keeps its last good objects. Never judges an object beyond its identity.

    source = FileSource(folder)
    store.apply(source.load())                 # once, synchronous; SourceError if there is no folder
    async for batch in source.watch():         # lists of ResourceEvent; may be empty: then only
        store.apply(batch)                     # source.diagnostics are others than before
    source.reread()                            # from the loop's thread (SIGHUP): look at every file again

A start may give it what was known of each file before (`kept`): that stands in for a file that cannot be
read, for the folder while it is away, and, unless an empty folder is to be trusted, while it has no object.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edge.errors import SourceError
from edge.model.diagnostics import Diagnostic, ObjectRef, Severity
from edge.resources.kinds import Problem, Unknown, identify
from edge.resources.store import Key, ResourceEvent
from edge.sources.documents import FILE_BYTES_MAX, DocumentError, read_documents
from edge.sources.inotify import CLOSE_WRITE, DELETE, MODIFY, MOVED, Inotify

SUFFIXES = (".yaml", ".yml", ".json")
QUIET_S = 0.005  # a burst of events ends after so long without one
BURST_S = 0.1  # and is read after so long in any case
WRITING_S = 1.0  # a file that is being written is left alone for at most so long
POLL_S = 1.0  # where inotify cannot be had
EMPTY = (
    "holds no object; the last known good ones are served until it does, or until a start with --accept-empty"
)
# A file changed so shortly before it was read may change again within one tick of its clock.
RACY_NS = 100_000_000

Known = Mapping[str, tuple[tuple[Key, Mapping[str, Any]], ...]]  # objects by file
Signature = tuple[int, int, int, int, int]
_NEVER: Signature = (0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one file says. ``objects`` are the last good ones; findings are about its newest text."""

    signature: Signature
    settled: bool
    objects: tuple[tuple[Key, Mapping[str, Any]], ...]
    findings: tuple[Diagnostic, ...]
    ignored: tuple[Diagnostic, ...]


class FileSource:
    """One folder. ``diagnostics``: what is wrong with files; ``ignored``: folders, unknown kinds.

    ``origins``: the file of each object. ``lost_since``: since when objects are served that the folder does
    not hold now, as it is away or empty; None: it is there. Units: seconds since 1970.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        kept: Known = MappingProxyType({}),
        trust_empty: bool = True,
        lost_since: float | None = None,
    ) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.diagnostics: tuple[Diagnostic, ...] = ()
        self.ignored: tuple[Diagnostic, ...] = ()
        self.origins: Mapping[Key, str] = {}
        self.lost_since = lost_since
        self._readings = {name: _Reading(_NEVER, False, objects, (), ()) for name, objects in kept.items()}
        self._doubt = bool(kept) and not trust_empty  # an empty folder is taken for a lost one
        self._sent: dict[Key, Mapping[str, Any]] = {}
        self._writing: dict[str, float] = {}  # real path → when to read it all the same
        self._inotify: Inotify | None = None
        self._followed: set[str] = set()  # folders whose every event is ours
        self._blind = ""  # why inotify cannot be had
        self._away = False  # the folder could not be read
        self._wake: asyncio.Event | None = None
        self._again = False

    def load(self) -> list[ResourceEvent]:
        """Read the folder for the first time and begin to watch it.

        Errors: SourceError when it is no folder that we may read, and nothing was kept.
        """
        try:
            with os.scandir(self.folder):
                pass
        except OSError as error:
            if not self._readings:
                raise SourceError(f"--config {self.folder}: {error.strerror or error}") from error
        self._open()
        return self._scan()

    async def watch(self) -> AsyncIterator[list[ResourceEvent]]:
        """Give the changes after `load`, a burst as one batch; ends only when it is closed."""
        loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        if self._again:
            self._wake.set()
        if self._inotify is not None:
            loop.add_reader(self._inotify.descriptor, self._wake.set)
        try:
            while True:
                await self._burst(loop)
                before = self.diagnostics
                # In a thread: 10 MB of YAML take seconds, and the loop also answers probes.
                events = await asyncio.to_thread(self._scan)
                if events or before != self.diagnostics:
                    yield events
        finally:
            if self._inotify is not None:
                loop.remove_reader(self._inotify.descriptor)
            self._wake = None

    def reread(self) -> None:
        """Have `watch` look at every file again, as if each had changed."""
        self._again = True
        if self._wake is not None:
            self._wake.set()

    def close(self) -> None:
        """Stop watching; `watch` must have ended."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    # ---- watching -------------------------------------------------------------------------

    def _open(self) -> None:
        if self._inotify is not None:
            return
        try:
            self._inotify = Inotify()
        except OSError as error:
            self._blind = f"inotify: {error.strerror}; the folder is looked at every second"

    async def _burst(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return when something of ours happened and then nothing for QUIET_S."""
        assert self._wake is not None
        while True:
            pending = [due - time.monotonic() for due in self._writing.values()]
            if self._blind or self._away:
                pending.append(POLL_S)
            if pending and not await _within(self._wake, max(0.0, min(pending))):
                return
            await self._wake.wait()
            end, ours = loop.time() + BURST_S, False
            while True:
                self._wake.clear()
                ours = self._note() or ours
                left = min(QUIET_S, end - loop.time())
                if left <= 0 or not await _within(self._wake, left):
                    break
            if ours or self._again:
                return

    def _note(self) -> bool:
        """Take the events: which files are open for writing decides what is read now.

        Shape: whether one was ours; of the parent only the folder's own name is.
        """
        if self._inotify is None:
            return True
        ours, parent = False, str(self.folder.parent)
        for change in self._inotify.read():
            path = os.path.join(change.folder, change.name)
            if change.folder == parent and parent not in self._followed and change.name != self.folder.name:
                continue
            ours = True
            if change.mask & MODIFY:
                self._writing.setdefault(path, time.monotonic() + WRITING_S)
            elif change.mask & (CLOSE_WRITE | MOVED | DELETE):
                self._writing.pop(path, None)
        return ours

    def _follow(self, folder: str) -> None:
        if self._inotify is None:
            return
        self._followed.add(folder)
        try:
            self._inotify.watch(folder)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return  # gone again, or a parent that we may not list: nothing to see there
        except OSError as error:
            self._blind = f"inotify: {error.strerror}; the folder is looked at every second"

    # ---- reading --------------------------------------------------------------------------

    def _scan(self) -> list[ResourceEvent]:
        """Read what changed; shape: the events against what was sent before."""
        force, self._again = self._again, False
        findings: list[Diagnostic] = []
        ignored: list[Diagnostic] = []
        found: dict[str, _Reading] = {}
        lost = ""
        try:
            # The folder itself may be a link, or be made anew: its parent knows.
            self._follow(str(self.folder.parent))
            self._followed.clear()
            for path, name in self._walk(ignored):
                found[name] = self._read(path, name, None if force else self._readings.get(name))
        except OSError as error:
            # The folder is away (being replaced, or unmounted): everything stays as it was.
            found, lost = self._readings, f"cannot be read ({error.strerror}); the last good objects stay"
        self._away = bool(lost)
        if not lost and self._doubt:
            if any(reading.objects and not self._is_kept(name, reading) for name, reading in found.items()):
                self._doubt = False
            else:
                findings += [finding for reading in found.values() for finding in reading.findings]
                found, lost = self._readings, EMPTY
        findings += self._note_lost(lost)
        now = time.monotonic()
        self._writing = {path: due for path, due in self._writing.items() if due > now}
        self._readings = found
        if self._blind:
            findings.append(_finding("", "Blind", self._blind, Severity.WARNING))

        objects: dict[Key, Mapping[str, Any]] = {}
        first: dict[Key, str] = {}
        for name, reading in found.items():
            findings.extend(reading.findings)
            for key, raw in reading.objects:
                if key in first:
                    text = f"stands in {first[key]!a} and in {name!a}; the first is used"
                    findings.append(Diagnostic(ObjectRef(*key), "", "Duplicate", text))
                else:
                    objects[key], first[key] = raw, name
        self.origins = first
        self.diagnostics = tuple(sorted(set(findings)))
        for reading in found.values():
            ignored.extend(reading.ignored)
        self.ignored = tuple(sorted(set(ignored)))

        events = [ResourceEvent(*key, None) for key in sorted(self._sent.keys() - objects.keys())]
        events += [
            ResourceEvent(*key, raw)
            for key, raw in objects.items()
            if key not in self._sent or (self._sent[key] is not raw and self._sent[key] != raw)
        ]
        self._sent = objects
        return events

    def _is_kept(self, name: str, reading: _Reading) -> bool:
        """Say whether these objects are those of before, as the file itself cannot be read."""
        old = self._readings.get(name)
        return old is not None and reading.objects is old.objects

    def _note_lost(self, why: str) -> list[Diagnostic]:
        if not why:
            self.lost_since = None
            return []
        if self.lost_since is None:
            self.lost_since = time.time()
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.lost_since))
        return [_finding("", "Unreadable" if self._away else "SourceEmpty", f"{why} (since {since})")]

    def _walk(self, ignored: list[Diagnostic]) -> Iterator[tuple[str, str]]:
        """Shape: (path, name) of every file that we read, by name."""
        folder = str(self.folder)
        self._follow(folder)
        self._follow(os.path.realpath(folder))
        with os.scandir(folder) as entries:
            listed = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        for name in listed:
            path = os.path.join(folder, name)
            try:
                mode = os.stat(path).st_mode
            except OSError:
                continue  # a link to nothing, or gone meanwhile: an event tells when it comes back
            if stat.S_ISREG(mode) and name.endswith(SUFFIXES):
                self._follow(os.path.dirname(os.path.realpath(path)))
                yield path, name
            elif stat.S_ISDIR(mode):
                ignored.append(_finding(name, "Folder", "folders are not read", Severity.WARNING))

    def _read(self, path: str, name: str, old: _Reading | None) -> _Reading:
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                signature = (
                    status.st_dev,
                    status.st_ino,
                    status.st_size,
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                )
                if old is not None and old.signature == signature and old.settled:
                    return old
                due = self._writing.get(os.path.realpath(path))
                if old is not None and due is not None and due > time.monotonic():
                    return old
                settled = time.time_ns() - status.st_ctime_ns > RACY_NS
                data = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            stay = "; the last good objects stay" if old and old.objects else ""
            finding = _finding(name, "Unreadable", f"cannot be read: {error.strerror}{stay}")
            return _Reading(_NEVER, False, old.objects if old else (), (finding,), ())
        try:
            documents = read_documents(data, name)
        except DocumentError as error:
            text = str(error) + ("; the last good objects stay" if old and old.objects else "")
            kept = old.objects if old else ()
            return _Reading(signature, settled, kept, (_finding(name, "Unreadable", text),), ())
        return _judge(name, documents, signature, settled)


def _judge(name: str, documents: list[Any], signature: Signature, settled: bool) -> _Reading:
    """Sort a file's documents into objects, things without identity, and kinds of other people."""
    objects: list[tuple[Key, Mapping[str, Any]]] = []
    findings: list[Diagnostic] = []
    ignored: list[Diagnostic] = []
    for number, document in enumerate(documents, 1):
        try:
            identity = identify(document)
        except Unknown as error:
            text = f"document {number}: nobody here reads {error}"
            ignored.append(_finding(name, "UnknownKind", text, Severity.WARNING))
            continue
        if isinstance(identity, Problem):
            text = f"document {number}: {identity.message}"
            findings.append(_finding(name, identity.reason, text, field=identity.field))
        else:
            objects.append((identity, document))
    return _Reading(signature, settled, tuple(objects), tuple(findings), tuple(ignored))


def _finding(
    name: str, reason: str, text: str, severity: Severity = Severity.ERROR, field: str = ""
) -> Diagnostic:
    printable = ascii(name)[1:-1]
    return Diagnostic(ObjectRef("File", "", printable), field, reason, text, severity)


async def _within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
