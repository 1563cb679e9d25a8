"""The cffi boundary: codes become exceptions with their place, layouts and names come from C."""

from __future__ import annotations

import pytest

from edge import native
from edge.errors import NativeError
from edge.native import BuildOptions, build_image, check, check_image, check_secrets, enum_names, layout


def test_check_raises_with_the_words_of_c() -> None:
    check(0, "nothing")
    with pytest.raises(NativeError, match="checksum") as caught:
        check(native.lib.EDGE_ERR_CHECKSUM, "reading")
    assert caught.value.code == native.lib.EDGE_ERR_CHECKSUM


def test_an_empty_image_is_an_image() -> None:
    image = build_image(b"", BuildOptions(version=7))
    check_image(image)
    header = native.ImageReader(image).header
    assert (header.version, header.abi) == (7, native.lib.EDGE_ABI_VERSION)


def test_refusals_name_their_place() -> None:
    with pytest.raises(NativeError) as caught:
        build_image(b"\x63" + bytes(15), BuildOptions(version=1))
    assert (caught.value.code, caught.value.field) == (native.lib.EDGE_ERR_INVALID, "kind")
    with pytest.raises(NativeError):
        build_image(b"", BuildOptions(version=0))


def test_damaged_bytes_are_refused() -> None:
    image = bytearray(build_image(b"", BuildOptions(version=7)))
    image[40] ^= 1
    with pytest.raises(NativeError, match="checksum"):
        check_image(bytes(image))
    for text in (b"", b"x", bytes(24)):
        with pytest.raises(NativeError):
            check_image(text)
        with pytest.raises(NativeError):
            check_secrets(text)


def test_names_come_from_the_header() -> None:
    assert enum_names("edge_verdict", "EDGE_VERDICT_")[1] == "won"
    assert native.section_names()[6] == "route"


def test_layouts_come_from_the_compiler() -> None:
    size, fields = layout("edge_image_route")
    assert size == 64
    assert fields["precedence"].offset == 8
    assert fields["path"].size == 8


def test_stats_memory_has_its_header() -> None:
    memory = bytearray(native.stats_bytes(1))
    native.format_stats(memory, 1)
    header = native.ffi.cast("struct edge_stats_header *", native.ffi.from_buffer(memory))
    assert (header.lane_count, header.total_bytes) == (1, len(memory))
    with pytest.raises(NativeError):
        native.format_stats(memory, 2)
