"""Where the packet program comes from, without a compiler and without a kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge.errors import XdpError
from edge.xdp import compiler
from edge.xdp.compiler import edge_object, source_hash, stored_object
from edge.xdp.object import BpfObject, layout_digests


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[BpfObject]:
    made: list[BpfObject] = []

    def compile_edge() -> BpfObject:
        made.append(replace(stored_object(), source=source_hash()))
        return made[-1]

    monkeypatch.setattr(compiler, "compile_edge", compile_edge)
    return made


def test_a_second_start_compiles_no_more(tmp_path: Path, compiles: list[BpfObject]) -> None:
    old = tmp_path / "xdp_edge-0000.json"
    old.touch()
    first = edge_object(tmp_path)
    assert (first.origin, len(compiles)) == ("compiled", 1)
    assert not old.exists()
    second = edge_object(tmp_path)
    assert (second.origin, len(compiles)) == ("cached", 1)
    assert second.object == first.object


def test_a_broken_cache_is_compiled_anew(tmp_path: Path, compiles: list[BpfObject]) -> None:
    edge_object(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text('{"abi": 1}')
    assert edge_object(tmp_path).origin == "compiled"
    assert edge_object(tmp_path).origin == "cached"


def test_a_cache_that_cannot_be_written_costs_a_compile_and_no_start(
    tmp_path: Path, compiles: list[BpfObject]
) -> None:
    (tmp_path / "file").touch()
    found = edge_object(tmp_path / "file")
    assert (found.origin, found.why) == ("compiled", "nothing was cached, and nothing can be: File exists")


def test_without_a_compiler_the_stored_object_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_edge() -> BpfObject:
        raise XdpError("bcc is not installed")

    monkeypatch.setattr(compiler, "compile_edge", compile_edge)
    found = edge_object(tmp_path)
    assert (found.origin, found.why) == ("stored", "bcc is not installed")
    assert not list(tmp_path.iterdir())


def test_the_layout_digest_sees_names_sizes_and_shapes() -> None:
    found = stored_object()
    spec = found.maps["edge_settings"]
    others = [
        replace(found, btf=found.btf.replace(b"dead_man_ns", b"dead_man_us")),
        replace(
            found, maps=found.maps | {"edge_settings": replace(spec, shape=replace(spec.shape, entries=3))}
        ),
        replace(found, maps={name: one for name, one in found.maps.items() if name != "edge_short"}),
    ]
    assert len({str(layout_digests(one)) for one in (found, *others)}) == 4
    assert layout_digests(replace(found, code=b"", source="other")) == layout_digests(found)
