"""`edge check`: exit status and words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.cli.check import check_folder, list_reasons
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
    assert out.startswith(
        "warning: File/a.yaml: UnknownKind: document 1: nobody here reads apps/v1 Deployment\n"
    )
    assert check_folder(str(tmp_path), Options(), strict=True) == 1


def test_an_error_names_object_field_and_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(GOOD + "---\n" + BROKEN)
    assert check_folder(str(tmp_path), Options()) == 1
    out = capsys.readouterr().out
    first, advice = out.splitlines()
    assert first == "error: Service/default/b spec.ports[0].port: InvalidType: Expected 'int', got 'str'"
    assert advice == "    write the type that is named; quote texts"
    assert check_folder(str(tmp_path), Options(), as_json=True) == 1
    (found,) = json.loads(capsys.readouterr().out)["diagnostics"]
    assert found["object"] == "Service/default/b"
    assert (found["field"], found["reason"]) == ("spec.ports[0].port", "InvalidType")


def test_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_folder(str(tmp_path / "none"), Options()) == 2
    assert "No such file" in capsys.readouterr().err


def test_sarif_names_file_and_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(GOOD.replace("name: a", "name: c") + "---\n# a comment\n" + BROKEN)
    (tmp_path / "c.yaml").write_text(GOOD.replace("name: a", "name: d") + "---\nb: [\n")
    assert check_folder(str(tmp_path), Options(), form="sarif") == 1
    log = json.loads(capsys.readouterr().out)
    (run,) = log["runs"]
    other, result = run["results"]
    place = other["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "c.yaml"}, "region": {"startLine": 7}}
    assert log["version"] == "2.1.0"
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "InvalidType"
    (location,) = result["locations"]
    place = location["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "b.yaml"}, "region": {"startLine": 6}}
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "Service/default/b spec.ports[0].port"
    assert "Do: write the type" in result["message"]["text"]


def test_an_unknown_format_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_folder(str(tmp_path), Options(), form="xml") == 2
    assert "text, json, sarif" in capsys.readouterr().err


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_reasons() == 0
    assert "Conflict (error)" in capsys.readouterr().out
    assert list_reasons(as_json=True) == 0
    rows = json.loads(capsys.readouterr().out)["reasons"]
    assert {"reason", "level", "meaning", "effect", "advice", "admission"} == set(rows[0])
