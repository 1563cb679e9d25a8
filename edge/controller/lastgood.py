"""The last-known-good state as bytes: the accepted objects, slots, version and digests (note 0006).

Called by keeper.py. A head of one line with format, length and SHA-256 of all the rest, so that damage is
seen before anything is believed; a line with version and digests; the slots; an object a line with the file
it came from. Of a Secret only the certificate is written: whole Secrets go into a file of their own. Pure.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edge.resources.kinds import Problem, Raw, Unknown, identify, plain
from edge.resources.store import Key

FORMAT = 1
HEAD_BYTES_MAX = 4096
PIECE_LINES = 64
OPEN_DATA = ("tls.crt", "ca.crt")  # of a Secret; any other field may be a key
WITHHELD = "edgeWithheld"  # names the fields that were not written


@dataclass(frozen=True, slots=True)
class Contents:
    """What was accepted. ``origins``: the file of each object.

    ``written``: 0: now; else when its source, which is lost, was last known. Units: seconds since 1970.
    """

    version: int
    routes_digest: bytes
    endpoints_digest: bytes
    slots: str
    objects: Mapping[Key, Raw]
    origins: Mapping[Key, str] = field(default_factory=dict)
    written: int = 0


@dataclass(frozen=True, slots=True)
class LastGood:
    """What was read back. ``files``: objects by the file that they came from. Units: seconds since 1970."""

    version: int
    routes_digest: str
    endpoints_digest: str
    written: int
    slots: str
    files: Mapping[str, tuple[tuple[Key, Raw], ...]]
    unknown: int = 0  # objects that this version of ours does not read


class _Head(msgspec.Struct, frozen=True):
    format: int
    bytes: int = 0
    sha256: str = ""


class _About(msgspec.Struct, frozen=True):
    written: int
    version: int
    routes_digest: str
    endpoints_digest: str


class _Line(msgspec.Struct, frozen=True):
    file: str
    raw: msgspec.Raw


_read_head = msgspec.json.Decoder(_Head).decode
_read_about = msgspec.json.Decoder(_About).decode
_read_line = msgspec.json.Decoder(_Line).decode


class Lines:
    """The lines of the last file that cost more than a copy: what is no JSON, and Secrets."""

    def __init__(self) -> None:
        self._kept: dict[Key, tuple[Raw, str, bytes | None]] = {}
        self._keys: dict[Key, None] = {}

    def of(self, contents: Contents) -> tuple[list[bytes], tuple[Key, ...]]:
        """Shape: the lines by key, and the objects that have no form in JSON."""
        now: dict[Key, tuple[Raw, str, bytes | None]] = {}
        if contents.objects.keys() != self._keys.keys():
            self._keys = dict.fromkeys(sorted(contents.objects))
        lines, lost = [], []
        for key in self._keys:
            raw, file = contents.objects[key], contents.origins.get(key, "")
            if isinstance(raw, bytes) and key[0] != "Secret":
                lines.append(_line(file, raw))
                continue
            kept = self._kept.get(key)
            if kept is None or kept[0] is not raw or kept[1] != file:
                made, _ = _lines([(key, file, redact(raw) if key[0] == "Secret" else raw)])
                kept = (raw, file, made[0] if made else None)
            now[key] = kept
            if kept[2] is None:
                lost.append(key)
            else:
                lines.append(kept[2])
        self._kept = now
        return lines, tuple(lost)


def encode(
    contents: Contents, written: int, kept: Lines | None = None
) -> tuple[list[bytes], tuple[Key, ...]]:
    """Shape: the file in pieces, and the objects that have no form in JSON. ``kept``: of the files before."""
    lines, lost = (kept or Lines()).of(contents)
    about = _About(written, contents.version, contents.routes_digest.hex(), contents.endpoints_digest.hex())
    return _seal([msgspec.json.encode(about), contents.slots.encode(), *lines]), lost


def decode(data: bytes) -> LastGood:
    """Errors: ValueError, one clause."""
    first, slots, *lines = [*_open(data), b"", b""]
    try:
        about = _read_about(first)
    except msgspec.DecodeError as error:
        raise ValueError(f"does not say what it is of: {error}") from error
    files: dict[str, list[tuple[Key, Raw]]] = {}
    unknown = 0
    for file, key, raw in _objects(lines):
        if key is None:
            unknown += 1
        else:
            files.setdefault(file, []).append((key, raw))
    return LastGood(
        about.version,
        about.routes_digest,
        about.endpoints_digest,
        about.written,
        slots.decode("utf-8", "replace"),
        {file: tuple(objects) for file, objects in files.items()},
        unknown,
    )


def encode_secrets(contents: Contents) -> list[bytes]:
    """Shape: the file of whole Secrets, which is for root alone, in pieces."""
    keys = sorted(key for key in contents.objects if key[0] == "Secret")
    lines, _ = _lines((key, contents.origins.get(key, ""), contents.objects[key]) for key in keys)
    return _seal(lines)


def decode_secrets(data: bytes) -> dict[Key, Raw]:
    """Errors: ValueError, one clause."""
    return {key: raw for _, key, raw in _objects(_open(data)) if key is not None}


def redact(raw: Raw) -> Raw:
    """Shape: a Secret with its open fields; what was left out is named. Annotations may repeat it: none."""
    raw = plain(raw)
    metadata = raw.get("metadata")
    known = metadata if isinstance(metadata, Mapping) else {}
    result: dict[str, Any] = {
        "apiVersion": raw.get("apiVersion"),
        "kind": raw.get("kind"),
        "metadata": {name: known[name] for name in ("name", "namespace") if name in known},
    }
    if isinstance(raw.get("type"), str):
        result["type"] = raw["type"]
    before = raw.get(WITHHELD)
    withheld = {name for name in before if isinstance(name, str)} if isinstance(before, list) else set()
    for part in ("data", "stringData"):
        fields = raw.get(part)
        if isinstance(fields, Mapping):
            result[part] = {name: fields[name] for name in OPEN_DATA if isinstance(fields.get(name), str)}
            withheld.update(str(name) for name in fields if name not in OPEN_DATA)
    if withheld:
        result[WITHHELD] = sorted(withheld)
    return result


def restore(kept: Raw, whole: Raw | None) -> Raw:
    """Shape: the whole Secret where it is the one that ``kept`` is what was written of."""
    known = plain(kept)
    return whole if whole is not None and WITHHELD in known and redact(whole) == known else kept


def complete(kept: Raw, running: Mapping[bytes, bytes]) -> Raw:
    """Shape: a Secret with the key that runs for its chain, if there is one. ``running``: keys by chain."""
    known = plain(kept)
    data = known.get("data")
    strings = known.get("stringData")
    if "tls.key" not in known.get(WITHHELD, ()):
        return kept
    try:
        if isinstance(strings, Mapping) and "tls.crt" in strings:
            chain = strings["tls.crt"].encode()
        else:
            chain = b64decode(data["tls.crt"]) if isinstance(data, Mapping) else b""
    except (KeyError, ValueError):
        return kept
    key = running.get(chain)
    if key is None:
        return kept
    held = dict(data) if isinstance(data, Mapping) else {}
    result = {**known, "data": {**held, "tls.key": b64encode(key).decode()}}
    withheld = [name for name in known[WITHHELD] if name != "tls.key"]
    if withheld:
        return {**result, WITHHELD: withheld}
    del result[WITHHELD]
    return result


def _lines(objects: Iterable[tuple[Key, str, Raw]]) -> tuple[list[bytes], tuple[Key, ...]]:
    lines, lost = [], []
    for key, file, raw in objects:
        try:
            lines.append(_line(file, raw if isinstance(raw, bytes) else msgspec.json.encode(raw)))
        except (TypeError, ValueError, OverflowError, RecursionError):  # YAML says more than JSON can
            lost.append(key)
    return lines, tuple(lost)


def _line(file: str, raw: bytes) -> bytes:
    if b"\n" in raw:
        raw = msgspec.json.format(raw, indent=-1)
    return b'{"file":%b,"raw":%b}' % (msgspec.json.encode(file), raw)


def _seal(lines: list[bytes]) -> list[bytes]:
    """Shape: the file in pieces: no step holds up the loop's thread for longer than one of them takes."""
    digest, length, pieces = hashlib.sha256(), 0, [b""]
    for first in range(0, len(lines), PIECE_LINES):
        piece = b"\n".join(lines[first : first + PIECE_LINES])
        if first + PIECE_LINES < len(lines):
            piece += b"\n"
        digest.update(piece)
        length += len(piece)
        pieces.append(piece)
    pieces[0] = msgspec.json.encode(_Head(FORMAT, length, digest.hexdigest())) + b"\n"
    return pieces


def _open(data: bytes) -> list[bytes]:
    """Shape: the lines below the head. Errors: ValueError."""
    if not data:
        raise ValueError("is empty")
    first, newline, body = data.partition(b"\n")
    try:
        if len(first) > HEAD_BYTES_MAX or not newline:
            raise ValueError("no head")
        head = _read_head(first)
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError("does not begin with the head of a state file") from error
    if head.format != FORMAT:
        age = "newer" if head.format > FORMAT else "older"
        raise ValueError(f"is of format {head.format}, {age} than the one that is read here, {FORMAT}")
    if len(body) < head.bytes:
        raise ValueError(f"is half written: {len(body)} of {head.bytes} bytes")
    if len(body) > head.bytes or hashlib.sha256(body).hexdigest() != head.sha256:
        raise ValueError("is damaged: its digest does not fit")
    return body.split(b"\n")


def _objects(lines: Iterable[bytes]) -> Iterable[tuple[str, Key | None, Raw]]:
    """Shape: file, key (None: unknown to this version), object."""
    for line in filter(None, lines):
        try:
            found = _read_line(line)
            raw = bytes(found.raw)
            identity = identify(plain(raw))
        except Unknown:
            yield "", None, {}
            continue
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"has a line that is no object: {error}") from error
        yield found.file, None if isinstance(identity, Problem) else identity, raw
