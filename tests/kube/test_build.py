"""Where Kubernetes' programs are looked for, before any is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.kube import build


@pytest.fixture(autouse=True)
def _empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)


def program(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_assets_are_honoured_for_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = program(tmp_path / "assets", "kubectl")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given.parent))
    assert build.programs(("kubectl",)) == {"kubectl": given}
    assert build.find("kubelet") is None


def test_what_was_built_before_is_not_built_again() -> None:
    built = program(build.folder(build.MODULES[0], build.go_release()), "kubelet")
    assert build.programs(("kubelet",)) == {"kubelet": built}


def test_another_version_flag_or_go_is_another_folder() -> None:
    module = build.MODULES[0]
    folders = {
        build.folder(module, "1.26.0"),
        build.folder(module, "1.26.1"),
        build.folder(replace(module, version="1.36.4"), "1.26.0"),
        build.folder(replace(module, variables={}), "1.26.0"),
        build.folder(build.MODULES[1], "1.26.0"),
    }
    assert len(folders) == 5


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(build.BuildError, match="kube-nothing"):
        build.programs(("kube-nothing",))
