"""`edge check DIR`: what is wrong with a folder of objects, before anything serves it.

Called by edge/cli/main.py. Exit status: 0 nothing or warnings only (1 with --strict), 1 errors, 2 the folder
cannot be read. Judges through the same model as the controller; never starts anything, never needs root.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from edge.admin.dump import diagnostic
from edge.cli.folder import read_folder
from edge.errors import SourceError
from edge.model.diagnostics import Diagnostic, Severity
from edge.model.reasons import REASONS, reason_of, sentence
from edge.options import Options
from edge.resources.kinds import Unknown, identify
from edge.resources.store import Key
from edge.sources.documents import FILE_BYTES_MAX, DocumentError, read_piece, split

FORMATS = ("text", "json", "sarif")


def check_folder(
    folder: str, options: Options, as_json: bool = False, form: str = "text", strict: bool = False
) -> int:
    """Check a folder of objects: name what is wrong by object, field and reason.

    Shape: the exit status.
    """
    form = "json" if as_json else form
    if form not in FORMATS:
        typer.echo(f"edge check: --format {form!r} is none of {', '.join(FORMATS)}", err=True)
        return 2
    try:
        found = read_folder(Path(folder), options)
    except SourceError as error:
        typer.echo(f"edge check: {error}", err=True)
        return 2
    diagnostics = sorted((*found.model.diagnostics, *found.ignored))
    errors = sum(1 for entry in diagnostics if entry.severity is Severity.ERROR)
    if form == "json":
        rows = [{**diagnostic(entry), "file": place_of(entry, found.origins)} for entry in diagnostics]
        typer.echo(json.dumps({"diagnostics": rows}, indent=2))
    elif form == "sarif":
        typer.echo(json.dumps(sarif(diagnostics, found.origins, Path(folder)), indent=2))
    else:
        _print(diagnostics)
        routes = len(found.model.routes)
        typer.echo(f"{routes} routes, {errors} errors, {len(diagnostics) - errors} warnings", err=True)
    return 1 if errors or (strict and diagnostics) else 0


def _print(diagnostics: list[Diagnostic]) -> None:
    for entry in diagnostics:
        typer.echo(f"{entry.severity}: {sentence(entry)}")
        typer.echo(f"    {reason_of(entry.reason).advice}")


def place_of(entry: Diagnostic, origins: Mapping[Key, str]) -> str:
    """Shape: the file that holds the object, "" when none does."""
    ref = entry.object
    if ref.kind == "File":
        return ref.name
    return origins.get((ref.kind, ref.namespace, ref.name), "")


def list_reasons(as_json: bool = False) -> int:
    """Print the table of all reasons. Shape: the exit status."""
    if as_json:
        rows = [
            {
                "reason": code,
                "level": one.level.value,
                "meaning": one.meaning,
                "effect": one.effect,
                "advice": one.advice,
                "admission": "refused" if one.refuses else "warned",
            }
            for code, one in REASONS.items()
        ]
        typer.echo(json.dumps({"reasons": rows}, indent=2))
        return 0
    for code, one in REASONS.items():
        typer.echo(f"{code} ({one.level})\n    {one.meaning}\n    effect: {one.effect}\n    do: {one.advice}")
    return 0


def sarif(diagnostics: list[Diagnostic], origins: Mapping[Key, str], folder: Path) -> dict[str, Any]:
    """Shape: a SARIF log of one run, for tools that show findings beside the changed lines.

    Source: SARIF 2.1.0 (OASIS).
    """
    lines: dict[Key, int] = {}
    for file in sorted({place_of(entry, origins) for entry in diagnostics} - {""}):
        for key, line in first_lines(folder / file).items():
            lines.setdefault(key, line)
    codes = sorted({entry.reason for entry in diagnostics})
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "edge check",
                        "informationUri": "https://xdp-edge.dev/",
                        "rules": [_rule(code) for code in codes],
                    }
                },
                "results": [
                    _result(entry, codes.index(entry.reason), origins, lines) for entry in diagnostics
                ],
            }
        ],
    }


def _rule(code: str) -> dict[str, Any]:
    reason = reason_of(code)
    return {
        "id": code,
        "shortDescription": {"text": reason.meaning or code},
        "help": {"text": f"Effect: {reason.effect}. Do: {reason.advice}."},
        "defaultConfiguration": {"level": reason.level.value},
    }


def first_lines(file: Path) -> dict[Key, int]:
    """Shape: the line on which the document of each object of a file begins; nothing for one that is away."""
    try:
        with file.open("rb") as opened:
            pieces = split(opened.read(FILE_BYTES_MAX + 1), file.name)
    except (OSError, DocumentError):
        return {}
    found: dict[Key, int] = {}
    line = 1
    for index, piece in enumerate(pieces):
        with contextlib.suppress(DocumentError):
            for document in read_piece(pieces, index, file.name):
                with contextlib.suppress(Unknown):
                    key = identify(document)
                    if isinstance(key, tuple):
                        # Behind the dashes stands the rest of their line; a comment belongs to the object.
                        found.setdefault(key, line + (1 if index else 0))
        line += piece.count(b"\n") + 1
    return found


def _result(
    entry: Diagnostic, index: int, origins: Mapping[Key, str], lines: Mapping[Key, int]
) -> dict[str, Any]:
    field = f" {entry.field}" if entry.field else ""
    result: dict[str, Any] = {
        "ruleId": entry.reason,
        "ruleIndex": index,
        "level": entry.severity.value,
        "message": {"text": f"{entry.object}{field}: {entry.message}. Do: {reason_of(entry.reason).advice}."},
        "partialFingerprints": {"object/v1": f"{entry.object} {entry.field} {entry.reason}"},
    }
    location: dict[str, Any] = {
        "logicalLocations": [{"fullyQualifiedName": f"{entry.object}{field}", "kind": "object"}]
    }
    file = place_of(entry, origins)
    if file:
        ref = entry.object
        line = lines.get((ref.kind, ref.namespace, ref.name)) or _line_in(entry.message)
        location["physicalLocation"] = {"artifactLocation": {"uri": file}, "region": {"startLine": line}}
    result["locations"] = [location]
    return result


def _line_in(message: str) -> int:
    """Shape: the line that the message of a file names, else 1."""
    found = re.search(r" at line (\d+)", message)
    return int(found[1]) if found else 1
