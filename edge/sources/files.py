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
import struct
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, compress
from operator import ne
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edge.errors import SourceError
from edge.model.diagnostics import Diagnostic, ObjectRef, Severity
from edge.resources.kinds import Problem, Unknown, compact, identify
from edge.resources.store import Key, ResourceEvent
from edge.sources.documents import FILE_BYTES_MAX, DocumentError, read_piece, split
from edge.sources.inotify import CLOSE_WRITE, DELETE, MODIFY, MOVED, Inotify
from edge.sources.merge import Merge, Pair

SUFFIXES = (".yaml", ".yml", ".json")
QUIET_S = 0.001  # a burst of events ends after so long without one
BURST_S = 0.1  # and is read after so long in any case
WRITING_S = 1.0  # a file that is being written is left alone for at most so long
POLL_S = 1.0  # where inotify cannot be had
EMPTY = (
    "holds no object; the last known good ones are served until it does, or until a start with --accept-empty"
)
# A file changed so shortly before it was read may change again within one tick of its clock.
RACY_NS = 100_000_000

SMALL = 1 << 20
FINDINGS_MAX = 100  # of one file; a hundred say enough

Known = Mapping[str, tuple[Pair, ...]]  # objects by file
Signature = bytes
_SIGNATURE = struct.Struct("QQQqq")  # device, inode, size, times
_NEVER: Signature = b""


@dataclass(frozen=True, slots=True)
class _Piece:
    """One document of a file, or a whole file that cannot be cut; ``text`` None where it is the only one.

    ``problem``: why it cannot be read.
    """

    text: bytes | None
    objects: tuple[Pair, ...] = ()
    findings: tuple[tuple[str, str, str], ...] = ()  # field, reason, sentence
    unknown: tuple[str, ...] = ()
    documents: int = 0
    problem: str = ""
    noisy: bool = False  # there is something to say


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one file says. ``objects`` are the last good ones; findings are about its newest text."""

    signature: Signature
    settled: bool
    objects: tuple[Pair, ...]
    findings: tuple[Diagnostic, ...]
    ignored: tuple[Diagnostic, ...]
    pieces: tuple[_Piece, ...] = ()
    content: int = 0  # hash of the file's bytes


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
        self.name = f"--config {folder}"
        self.diagnostics: tuple[Diagnostic, ...] = ()
        self.ignored: tuple[Diagnostic, ...] = ()
        self.lost_since = lost_since
        self._readings = {name: _Reading(_NEVER, False, objects, (), ()) for name, objects in kept.items()}
        self._doubt = bool(kept) and not trust_empty  # an empty folder is taken for a lost one
        self._noisy: set[str] = set()  # files of which something is to be said
        self._folders: tuple[Diagnostic, ...] = ()
        self._merge = Merge()
        self._look: set[str] | None = set()  # files that may have changed; None: any
        self._unsettled: set[str] = set()
        self._links = False  # an event may be of another name than ours
        self._writing: dict[str, float] = {}  # real path → when to read it all the same
        self._inotify: Inotify | None = None
        self._followed: set[str] = set()  # folders whose every event is ours
        self._blind = ""  # why inotify cannot be had
        self._away = False  # the folder could not be read
        self._wake: asyncio.Event | None = None
        self._again = False

    @property
    def origins(self) -> Mapping[Key, str]:
        """The file of each object; a copy."""
        return dict(self._merge.origins)

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
        self._listen(loop)
        try:
            while True:
                await self._burst(loop)
                before = self.diagnostics
                # In a thread: 10 MB of YAML take seconds, and the loop also answers probes.
                look, self._look = self._look, set()
                events = await asyncio.to_thread(self._scan, None if self._again else look)
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

    def want(self, keys: Iterable[Key]) -> None:
        """Nothing to do: a folder is read whole."""

    def first(self, patience_s: float) -> list[ResourceEvent]:
        """Nothing to wait for."""
        return []

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

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake at the next event, and hear no more of it until it is read: the loop would spin until then."""

        def wake() -> None:
            if self._wake is not None:
                self._wake.set()
            if self._inotify is not None:
                loop.remove_reader(self._inotify.descriptor)

        if self._inotify is not None:
            loop.add_reader(self._inotify.descriptor, wake)

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
                self._listen(loop)
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
            self._look = None
            return True
        ours, parent = False, str(self.folder.parent)
        real = os.path.realpath(self.folder)
        for change in self._inotify.read():
            path = os.path.join(change.folder, change.name)
            if change.folder == parent and parent not in self._followed and change.name != self.folder.name:
                continue
            ours = True
            plain = change.folder == real and change.name and not change.name.startswith(".")
            if self._look is not None and plain and not self._links:
                self._look.add(change.name)
            else:
                self._look = None
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

    def _scan(self, names: Iterable[str] | None = None) -> list[ResourceEvent]:
        """Read what changed; shape: the events against what was sent before.

        ``names``: the files that may have changed, None: look at all of them.
        """
        force, self._again = self._again, False
        lost, held_back = "", []
        changed: dict[str, _Reading | None]
        try:
            if names is None or force or self._away or self._doubt or self._blind:
                changed = self._look_at_all(force)
            else:
                late = {os.path.basename(path) for path in self._writing}
                changed = self._look_at({*names, *self._unsettled, *late})
        except OSError as error:
            # The folder is away (being replaced, or unmounted): everything stays as it was.
            changed, lost = {}, f"cannot be read ({error.strerror}); the last good objects stay"
        self._away = bool(lost)
        if not lost and self._doubt:
            now = {**self._readings, **changed}
            if any(one.objects and not self._is_kept(name, one) for name, one in now.items() if one):
                self._doubt = False
            else:
                held_back = [finding for one in changed.values() if one for finding in one.findings]
                changed, lost = {}, EMPTY
        moment = time.monotonic()
        self._writing = {path: due for path, due in self._writing.items() if due > moment}
        for name, reading in changed.items():
            self._put(name, reading)
        for name in self._readings.keys() - self._merge.names() if lost else ():
            self._merge.put(name, self._readings[name].objects)  # what was kept over a start
        events = self._merge.changes()
        self._say(self._note_lost(lost) + held_back)
        return events

    def _put(self, name: str, reading: _Reading | None) -> None:
        """Take a file's reading in; None: it is gone."""
        self._unsettled.discard(name)
        self._noisy.discard(name)
        self._merge.put(name, reading.objects if reading else ())
        if reading is None:
            self._readings.pop(name, None)
            return
        self._readings[name] = reading
        if not reading.settled:
            self._unsettled.add(name)
        if reading.findings or reading.ignored:
            self._noisy.add(name)

    def _say(self, findings: list[Diagnostic]) -> None:
        ignored = list(self._folders)
        if self._blind:
            findings.append(_finding("", "Blind", self._blind, Severity.WARNING))
        for name in self._noisy:
            findings.extend(self._readings[name].findings)
            ignored.extend(self._readings[name].ignored)
        findings.extend(self._merge.duplicates())
        self.diagnostics = tuple(sorted(set(findings)))
        self.ignored = tuple(sorted(set(ignored)))

    def _look_at_all(self, force: bool) -> dict[str, _Reading | None]:
        """Shape: what every file says now, None for those that are gone."""
        # The folder itself may be a link, or be made anew: its parent knows.
        self._follow(str(self.folder.parent))
        self._followed.clear()
        found: dict[str, _Reading | None] = dict.fromkeys(self._readings)
        for path, name in self._walk():
            found[name] = self._read(path, name, self._readings.get(name), force)
        return found

    def _look_at(self, names: Iterable[str]) -> dict[str, _Reading | None]:
        """Look at single files. Errors: OSError when the folder is away."""
        folder = str(self.folder)
        found: dict[str, _Reading | None] = {}
        for name in sorted(names):
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                os.stat(folder)
                if name in self._readings:
                    found[name] = None
                continue
            if not stat.S_ISREG(status.st_mode):
                return self._look_at_all(False)  # a link, a folder: rare enough
            if name.endswith(SUFFIXES):
                found[name] = self._read(path, name, self._readings.get(name))
        return found

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

    def _walk(self) -> Iterator[tuple[str, str]]:
        """Shape: (path, name) of every file that we read, by name."""
        folder = str(self.folder)
        self._follow(folder)
        self._follow(os.path.realpath(folder))
        folders = []
        self._links = False
        with os.scandir(folder) as entries:
            listed = sorted(
                ((entry.name, entry.is_symlink()) for entry in entries if not entry.name.startswith(".")),
            )
        for name, is_link in listed:
            path = os.path.join(folder, name)
            self._links = self._links or is_link
            try:
                mode = os.stat(path).st_mode
            except OSError:
                continue  # a link to nothing, or gone meanwhile: an event tells when it comes back
            if stat.S_ISREG(mode) and name.endswith(SUFFIXES):
                if is_link:
                    self._follow(os.path.dirname(os.path.realpath(path)))
                yield path, name
            elif stat.S_ISDIR(mode):
                folders.append(_finding(name, "Folder", "folders are not read", Severity.WARNING))
        self._folders = tuple(folders)

    def _read(self, path: str, name: str, old: _Reading | None, force: bool = False) -> _Reading:
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                signature = _SIGNATURE.pack(
                    status.st_dev,
                    status.st_ino,
                    status.st_size,
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                )
                if old is not None and old.signature == signature and old.settled and not force:
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
        content = hash(data) if len(data) < SMALL else 0  # a large one is compared by its documents
        if old is not None and content and old.content == content and old.signature != _NEVER:
            return replace(old, signature=signature, settled=settled)  # touched, or looked at once more
        try:
            pieces = _pieces(split(data, name), name, old.pieces if old else ())
        except DocumentError as error:
            text = str(error) + ("; the last good objects stay" if old and old.objects else "")
            kept = old.objects if old else ()
            finding = _finding(name, "Unreadable", text)
            return _Reading(signature, settled, kept, (finding,), (), (), content)
        reading = _whole(name, pieces, old.objects if old else (), signature, settled)
        return replace(reading, content=content)


def _pieces(texts: list[bytes], name: str, old: tuple[_Piece, ...]) -> tuple[_Piece, ...]:
    """Read the pieces of a file that are new; the others are those of its last reading."""
    if len(texts) == 1:
        return (replace(_read_piece(texts, 0, name), text=None),)  # nothing to compare it with
    known = [piece.text for piece in old]
    least = min(len(texts), len(known))
    head = next(compress(range(least), map(ne, texts, known)), least)
    rest = least - head
    tail = next(compress(range(rest), map(ne, reversed(texts), reversed(known))), rest)
    moved = {piece.text: piece for piece in old[head : len(old) - tail]}
    fresh: list[_Piece] = []
    for at in range(head, len(texts) - tail):
        text = texts[at]
        piece = moved.get(text)
        if piece is None or piece.problem:
            piece = moved[text] = _read_piece(texts, at, name)
        fresh.append(piece)
    return (*old[:head], *fresh, *old[len(old) - tail :])


def _read_piece(texts: list[bytes], at: int, name: str) -> _Piece:
    """Sort a piece's documents into objects, things without identity, and kinds of other people."""
    text = texts[at]
    try:
        documents = read_piece(texts, at, name)
    except DocumentError as error:
        return _Piece(text, problem=str(error), noisy=True)
    objects: list[tuple[Key, Any]] = []
    findings: list[tuple[str, str, str]] = []
    unknown: list[str] = []
    for document in documents:
        try:
            identity = identify(document)
        except Unknown as error:
            unknown.append(f"nobody here reads {error}")
            continue
        if isinstance(identity, Problem):
            findings.append((identity.field, identity.reason, identity.message))
        else:
            objects.append((identity, document))
    noisy = bool(findings or unknown)
    if b"&" not in text:  # with an anchor, a short text may be long JSON
        objects = [(identity, compact(document)) for identity, document in objects]
    return _Piece(text, tuple(objects), tuple(findings), tuple(unknown), len(documents), noisy=noisy)


def _whole(
    name: str, pieces: tuple[_Piece, ...], before: tuple[Pair, ...], signature: Signature, settled: bool
) -> _Reading:
    """Put the pieces together. While one cannot be read, what the file said before stays as well."""
    objects = tuple(chain.from_iterable(piece.objects for piece in pieces))
    findings: list[Diagnostic] = []
    ignored: list[Diagnostic] = []
    number = 1
    again = pieces if len(pieces) > 1 else ()  # a file of one document is compared as a whole
    if not any(piece.noisy for piece in pieces):
        return _Reading(signature, settled, objects, (), (), again)
    broken = [piece for piece in pieces if piece.problem]
    if broken:
        there = {pair[0] for pair in objects}
        kept = tuple(pair for pair in before if pair[0] not in there)
        objects = (*objects, *kept) if objects else before
        for piece in broken[:FINDINGS_MAX]:
            text = piece.problem + ("; the last good objects stay" if kept else "")
            findings.append(_finding(name, "Unreadable", text))
    for piece in pieces:
        if (piece.findings or piece.unknown) and len(findings) + len(ignored) < FINDINGS_MAX:
            for field, reason, text in piece.findings[:FINDINGS_MAX]:
                findings.append(_finding(name, reason, f"document {number}: {text}", field=field))
            for text in piece.unknown[:FINDINGS_MAX]:
                ignored.append(_finding(name, "UnknownKind", f"document {number}: {text}", Severity.WARNING))
        number += max(piece.documents, 1) if piece.documents or piece.problem else 0
    return _Reading(signature, settled, objects, tuple(findings), tuple(ignored), again)


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
