"""The cffi boundary: loads the compiled module, compares its ABI, owns what C hands out.

Called by edge.dataplane and edge.xdp alone (``.importlinter``). ``check`` is the one place that
turns a C code into an exception. Structs are never written by hand in Python: layouts and enum
names come from the module, which was cut from the headers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from edge.errors import NativeError

_edge: Final[Any] = import_module("edge.native._edge")
ffi: Final[Any] = _edge.ffi
lib: Final[Any] = _edge.lib

ERROR_REFERENCE: Final[int] = lib.EDGE_ERR_REFERENCE


def check(rc: int, what: str, err: Any = None) -> None:
    """Raise for a negative code, with the words of the C side.

    Errors: NativeError.
    """
    if rc >= 0:
        return
    reason = ffi.string(lib.edge_strerror(rc)).decode()
    if err is None:
        raise NativeError(what, rc, reason=reason)
    own = ffi.string(err.reason).decode(errors="replace")
    field = ffi.string(err.field).decode(errors="replace")
    raise NativeError(what, rc, section=err.section, index=err.index, field=field, reason=own or reason)


def _compare_abi() -> None:
    if lib.edge_abi_version() != lib.EDGE_ABI_VERSION:
        raise NativeError("edge.native", lib.EDGE_ERR_ABI, reason="library and header differ")


_compare_abi()


def enum_names(name: str, prefix: str) -> dict[int, str]:
    """Numbers to lower-case names of a C enum, for labels and messages."""
    elements: dict[int, str] = ffi.typeof(f"enum {name}").elements
    return {number: text.removeprefix(prefix).lower() for number, text in elements.items()}


def section_names() -> dict[int, str]:
    """Names of ``enum edge_section``."""
    return enum_names("edge_section", "EDGE_SECTION_")


@dataclass(frozen=True, slots=True)
class FieldLayout:
    """Where a field of a C struct stands. Units: bytes."""

    offset: int
    size: int


def layout(struct: str) -> tuple[int, dict[str, FieldLayout]]:
    """Size of a C struct and its fields, as the C compiler laid them out."""
    kind = ffi.typeof(f"struct {struct}")
    fields = {name: FieldLayout(field.offset, ffi.sizeof(field.type)) for name, field in kind.fields}
    return ffi.sizeof(kind), fields


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What goes into an image's header."""

    version: int
    base_version: int = 0
    routes_digest: bytes = bytes(32)
    endpoints_digest: bytes = bytes(32)
    patch: bool = False


def _given(options: BuildOptions) -> Any:
    given = ffi.new("struct edge_build_options *")
    given.kind = lib.EDGE_IMAGE_PATCH if options.patch else lib.EDGE_IMAGE_FULL
    given.version = options.version
    given.base_version = options.base_version
    given.routes_digest = options.routes_digest
    given.endpoints_digest = options.endpoints_digest
    return given


def build_image(fragments: bytes, options: BuildOptions) -> bytes:
    """Lay out concatenated fragments as one image.

    Errors: NativeError; its index is the number of the fragment.
    """
    given = _given(options)
    out = ffi.new("struct edge_image *")
    err = ffi.new("struct edge_error *")
    rc = lib.edge_image_build(ffi.from_buffer(fragments), len(fragments), given, out, err)
    check(rc, "building the image", err)
    try:
        return bytes(ffi.buffer(out.bytes, out.size))
    finally:
        lib.edge_image_free(out)


class ImageBuilder:
    """Keeps objects between images, so that a change costs its own size. After an error: make another one.

    Errors: NativeError; its index is what `place_of` reads.
    """

    def __init__(self) -> None:
        out = ffi.new("struct edge_builder **")
        check(lib.edge_builder_open(out), "making a builder")
        self._builder = ffi.gc(out[0], lib.edge_builder_close)

    def put(self, fragments: bytes) -> None:
        """Take in concatenated fragments; their slots must be free."""
        err = ffi.new("struct edge_error *")
        rc = lib.edge_builder_put(self._builder, ffi.from_buffer(fragments), len(fragments), err)
        check(rc, "reading fragments", err)

    def drop(self, kind: int, slot: int = 0) -> None:
        """Let go of what is in a slot; of all listeners, of all certificates."""
        lib.edge_builder_drop(self._builder, kind, slot)

    def image(self, options: BuildOptions) -> memoryview:
        """Lay out all of it. Shape: the builder's own memory, until its next call."""
        given = _given(options)
        out = ffi.new("struct edge_image *")
        err = ffi.new("struct edge_error *")
        check(lib.edge_builder_image(self._builder, given, out, err), "building the image", err)
        return memoryview(ffi.buffer(out.bytes, out.size)).toreadonly()


def place_of(number: int) -> tuple[int, int]:
    """Shape: kind and slot of the fragment that an error names; certificates and listeners count from 0."""
    return number >> 24, number & 0xFFFFFF


def _aligned(image: bytes) -> Any:
    # Bytes objects start on 16 bytes plus a 32-byte header: the 8 that the checks ask for.
    return ffi.from_buffer("uint8_t[]", image)


def check_image(image: bytes) -> None:
    """Validate an image as the data plane will.

    Errors: NativeError.
    """
    err = ffi.new("struct edge_error *")
    check(lib.edge_image_check(_aligned(image), len(image), err), "checking the image", err)


def check_secrets(secrets: bytes) -> None:
    """Validate the layout of the secrets.

    Errors: NativeError.
    """
    err = ffi.new("struct edge_error *")
    check(lib.edge_secrets_check(_aligned(secrets), len(secrets), err), "checking the secrets", err)


@dataclass(frozen=True, slots=True)
class Request:
    """What of a request decides. ``now``: Unix time, 0: the clock's. ``path``: without its query."""

    host: str
    path: str
    method: str = "GET"
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    now: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A route of the image. ``verdict``: a name of edge_verdict; ``field``: FIELD_MATCH index, -1."""

    route: int
    verdict: str
    host_entry: int
    field: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the matcher did. Shape: candidates in the order in which hosts and routes are tried."""

    host_entry: int
    route: int
    candidates: tuple[Candidate, ...]


_VERDICTS: Final = enum_names("edge_verdict", "EDGE_VERDICT_")


def _put_request(target: Any, listener: int, request: Request) -> list[Any]:
    """Fill a ``struct edge_request``.

    Shape: what must live as long as the struct does.
    """
    kept: list[Any] = []

    def put(place: Any, text: str) -> None:
        raw = text.encode("utf-8", "surrogateescape")
        buffer = ffi.from_buffer("char[]", raw)
        kept.append(buffer)
        place.at, place.length = buffer, len(raw)

    target.listener, target.now_s = listener, request.now
    for name in ("host", "path", "query", "method"):
        put(getattr(target, name), getattr(request, name))
    fields = ffi.new("struct edge_request_field[]", len(request.headers))
    for field, (name, value) in zip(fields, request.headers, strict=True):
        put(field.name, name)
        put(field.value, value)
    target.fields, target.field_count = fields, len(request.headers)
    return [*kept, fields]


def match_requests(image: bytes, listener: int, requests: Sequence[Request]) -> list[int]:
    """Match many requests with the workers' matcher in a checked image.

    Shape: indices of routes, -1: none.
    Errors: NativeError for a request that no client can send.
    """
    given = ffi.new("struct edge_request[]", len(requests))
    kept = [_put_request(given[i], listener, request) for i, request in enumerate(requests)]
    routes = ffi.new("int32_t[]", len(requests))
    check(lib.edge_image_match(_aligned(image), len(image), given, len(requests), routes), "matching")
    del kept
    return list(routes)


def explain(image: bytes, listener: int, request: Request) -> Explanation:
    """Match one request with the workers' matcher in a checked image, and say how.

    Errors: NativeError for a host or path that no request can have.
    """
    given = ffi.new("struct edge_request *")
    kept = _put_request(given, listener, request)
    out = ffi.new("struct edge_explanation *")
    room = 64
    while True:
        candidates = ffi.new("struct edge_candidate[]", room)
        rc = lib.edge_image_explain(_aligned(image), len(image), given, candidates, room, out)
        check(rc, f"matching host {request.host!r}, path {request.path!r}")
        if out.candidate_count < room:
            break
        room *= 4
    del kept
    return Explanation(
        out.host_entry,
        out.route,
        tuple(
            Candidate(row.route, _VERDICTS[row.verdict], row.host_entry, row.field - 1)
            for row in candidates[0 : out.candidate_count]
        ),
    )


def check_pattern(pattern: str) -> None:
    """Find out whether a regular expression can be used.

    Errors: NativeError with PCRE2's words.
    """
    raw = pattern.encode()
    err = ffi.new("struct edge_error *")
    check(lib.edge_pattern_check(raw, len(raw), err), f"the expression {pattern!r}", err)


@dataclass(frozen=True, slots=True)
class RouteRow:
    """A route of an image in words, for explanations and refusals."""

    index: int
    slot: int
    precedence: int
    kind: str
    namespace: str
    name: str
    path: str
    service: str
    rule_index: int
    path_index: int


class ImageReader:
    """Reads single entries of a checked image; keeps the bytes alive."""

    def __init__(self, image: bytes) -> None:
        check_image(image)
        self._bytes = image
        self._base = _aligned(image)
        self.header = ffi.cast("struct edge_image_header *", self._base)

    def entries(self, section: str, struct: str) -> Sequence[Any]:
        """All entries of a section, as cffi structs.

        Source: EDGE_SECTION_ names without the prefix.
        """
        place = self.header.section[getattr(lib, f"EDGE_SECTION_{section}")]
        start = ffi.cast(f"struct {struct} *", self._base + place.offset)
        return [start[i] for i in range(place.count)]

    def entry(self, section: str, struct: str, index: int) -> Any:
        """One entry of a section.

        Errors: NativeError when there is none.
        """
        place = self.header.section[getattr(lib, f"EDGE_SECTION_{section}")]
        if not 0 <= index < place.count:
            raise NativeError(f"reading a {struct}", ERROR_REFERENCE, reason=f"no entry {index}")
        return ffi.cast(f"struct {struct} *", self._base + place.offset)[index]

    def text(self, text: Any) -> str:
        """A text of the image."""
        return self.text_at(text.offset, text.length)

    def text_at(self, offset: int, length: int) -> str:
        """The same for a text whose place is not a struct of its own."""
        start = self.header.section[lib.EDGE_SECTION_TEXT].offset + offset
        return self._bytes[start : start + length].decode(errors="replace")

    def route(self, index: int) -> RouteRow:
        """The route with that index.

        Errors: NativeError when there is none.
        """
        row = self.entry("ROUTE", "edge_image_route", index)
        owner = self.entry("OBJECT", "edge_image_object", row.object)
        action = self.entry("ACTION", "edge_image_action", row.action)
        return RouteRow(
            index,
            row.slot,
            row.precedence,
            self.text(owner.kind),
            self.text(owner.object_namespace),
            self.text(owner.object_name),
            self.text(row.path),
            self.text(action.service),
            row.rule_index,
            row.path_index,
        )


def stats_bytes(lanes: int) -> int:
    """Size of the stats memory for a number of lanes."""
    return int(lib.edge_stats_bytes(lanes))


def format_stats(memory: Any, lanes: int) -> None:
    """Write the header of a zeroed stats memory (a writable mmap).

    Errors: NativeError.
    """
    view = ffi.from_buffer("uint8_t[]", memory, require_writable=True)
    check(lib.edge_stats_format(view, len(memory), lanes), "formatting the stats memory")
