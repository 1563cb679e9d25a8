"""`edge check`: exit status and words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.cli.check import check_folder
from edge.options import Options

GOOD = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n"
BROKEN = "apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {ports: [{port: many}]}\n"


def test_nothing_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    assert check_folder(str(tmp_path), Options()) == 0
    assert capsys.readouterr() == ("", "0 routes, 0 errors, 0 warnings\n")


def test_a_warning_alone_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n")
    assert check_folder(str(tmp_path), Options()) == 0
    out = capsys.readouterr().out
    assert out == "warning: File/a.yaml: UnknownKind: document 1: nobody here reads apps/v1 Deployment\n"


def test_an_error_names_object_field_and_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(GOOD + "---\n" + BROKEN)
    assert check_folder(str(tmp_path), Options()) == 1
    out = capsys.readouterr().out
    assert out == "error: Service/default/b spec.ports[0].port: InvalidType: Expected 'int', got 'str'\n"
    assert check_folder(str(tmp_path), Options(), as_json=True) == 1
    (found,) = json.loads(capsys.readouterr().out)["diagnostics"]
    assert found["object"] == "Service/default/b"
    assert (found["field"], found["reason"]) == ("spec.ports[0].port", "InvalidType")


def test_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_folder(str(tmp_path / "none"), Options()) == 2
    assert "No such file" in capsys.readouterr().err
