"""How the image is built: what goes in is said in three places; what the machine's apt says is read right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from manifests.image.build import CONTEXT, LEFT_OUT, ImageError, digest, sources
from tests.manifests.written import ROOT


def test_the_dockerfile_copies_what_the_context_has_and_the_digest_covers() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignore if line.startswith("!")}
    text = (ROOT / "Dockerfile").read_text()
    copied = {name for name, _ in re.findall(r"^COPY (\S+) (\S+)$", text, re.MULTILINE)}
    assert copied == kept == set(CONTEXT) - {"Dockerfile", ".dockerignore"}
    assert [line for line in ignore if line[:1] not in "#!*"] == [LEFT_OUT]


def test_the_default_target_is_the_one_without_a_compiler() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert stages[-1] == ("runtime", "edge")
    assert dict((name, base) for base, name in stages)["bcc"] == "runtime-bcc"


def test_the_digest_tells_targets_and_bases_apart() -> None:
    assert len({digest("edge", "a"), digest("bcc", "a"), digest("edge", "b")}) == 3


def test_both_forms_of_apt_sources_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "# deb http://old.example/debian bookworm main\n"
        "deb [signed-by=/a.gpg arch=amd64] http://one.example/debian bookworm main contrib\n"
        "deb-src http://one.example/debian bookworm main\n"
        "deb http://other.example/tools stable main\n"
    )
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (folder / "debian.sources").write_text(
        "Types: deb\nURIs: http://two.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n"
        "Types: deb\nURIs: http://three.example/debian\nSuites: bookworm-security\nEnabled: no\n"
    )
    (folder / "off.list.disabled").write_text("deb http://off.example/debian bookworm main\n")
    assert sources(tmp_path) == [
        "deb http://one.example/debian bookworm main contrib",
        "deb http://two.example/debian bookworm main",
        "deb http://two.example/debian bookworm-updates main",
    ]


def test_a_machine_without_such_sources_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no sources of Debian"):
        sources(tmp_path)
