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


def build_image(fragments: bytes, options: BuildOptions) -> bytes:
    """Lay out concatenated fragments as one image.

    Errors: NativeError; its index is the number of the fragment.
    """
    given = ffi.new("struct edge_build_options *")
    given.kind = lib.EDGE_IMAGE_PATCH if options.patch else lib.EDGE_IMAGE_FULL
    given.version = options.version
    given.base_version = options.base_version
    given.routes_digest = options.routes_digest
    given.endpoints_digest = options.endpoints_digest
    out = ffi.new("struct edge_image *")
    err = ffi.new("struct edge_error *")
    rc = lib.edge_image_build(ffi.from_buffer(fragments), len(fragments), given, out, err)
    check(rc, "building the image", err)
    try:
        return bytes(ffi.buffer(out.bytes, out.size))
    finally:
        lib.edge_image_free(out)


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
class Explanation:
    """What the matcher did. Shape: candidates are (route index, verdict name) in matching order."""

    host_entry: int
    route: int
    candidates: tuple[tuple[int, str], ...]


_VERDICTS: Final = enum_names("edge_verdict", "EDGE_VERDICT_")


def explain(image: bytes, listener: int, host: str, path: str) -> Explanation:
    """Match one request with the workers' matcher in a checked image.

    Errors: NativeError for a host or path that no request can have.
    """
    raw_host, raw_path = host.encode(), path.encode()
    room = 64
    while True:
        candidates = ffi.new("struct edge_candidate[]", room)
        out = ffi.new("struct edge_explanation *")
        rc = lib.edge_image_explain(
            _aligned(image),
            len(image),
            listener,
            raw_host,
            len(raw_host),
            raw_path,
            len(raw_path),
            candidates,
            room,
            out,
        )
        check(rc, f"matching host {host!r}, path {path!r}")
        if out.candidate_count < room:
            break
        room *= 4
    rows = [candidates[i] for i in range(out.candidate_count)]
    return Explanation(out.host_entry, out.route, tuple((row.route, _VERDICTS[row.verdict]) for row in rows))


@dataclass(frozen=True, slots=True)
class RouteRow:
    """A route of an image in words, for explanations and refusals."""

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

    def text(self, text: Any) -> str:
        """A text of the image."""
        start = self.header.section[lib.EDGE_SECTION_TEXT].offset + text.offset
        return self._bytes[start : start + text.length].decode(errors="replace")

    def route(self, index: int) -> RouteRow:
        """The route with that index.

        Errors: NativeError when there is none.
        """
        place = self.header.section[lib.EDGE_SECTION_ROUTE]
        if not 0 <= index < place.count:
            raise NativeError("reading a route", ERROR_REFERENCE, reason=f"no route {index}")
        row = ffi.cast("struct edge_image_route *", self._base + place.offset)[index]
        return RouteRow(
            row.slot,
            row.precedence,
            self.text(row.kind),
            self.text(row.object_namespace),
            self.text(row.object_name),
            self.text(row.path),
            self.text(row.service),
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
