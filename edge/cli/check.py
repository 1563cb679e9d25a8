"""`edge check DIR`: what is wrong with a folder of objects, before anything serves it.

Called by edge/cli/main.py. Exit status: 0 nothing or warnings only, 1 errors, 2 the folder cannot be
read. Judges through the same model as the controller; never starts anything, never needs root.
"""

from __future__ import annotations

import json
from pathlib import Path

import typer

from edge.admin.dump import diagnostic
from edge.cli.folder import read_folder
from edge.errors import SourceError
from edge.model.diagnostics import Severity
from edge.options import Options


def check_folder(folder: str, options: Options, as_json: bool = False) -> int:
    """Check a folder of objects: name what is wrong by object, field and reason.

    Shape: the exit status.
    """
    try:
        found = read_folder(Path(folder), options)
    except SourceError as error:
        typer.echo(f"edge check: {error}", err=True)
        return 2
    diagnostics = sorted((*found.model.diagnostics, *found.ignored))
    errors = sum(1 for entry in diagnostics if entry.severity is Severity.ERROR)
    if as_json:
        typer.echo(json.dumps({"diagnostics": [diagnostic(entry) for entry in diagnostics]}, indent=2))
    else:
        for entry in diagnostics:
            field = f" {entry.field}" if entry.field else ""
            typer.echo(f"{entry.severity}: {entry.object}{field}: {entry.reason}: {entry.message}")
        routes = len(found.model.routes)
        typer.echo(f"{routes} routes, {errors} errors, {len(diagnostics) - errors} warnings", err=True)
    return 1 if errors else 0
