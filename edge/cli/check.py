"""`edge check DIR`: what is wrong with a folder of objects, before anything serves it.

Mounted by edge/cli/main.py. Exit status: 0 nothing or warnings only, 1 errors, 2 the folder cannot be
read. Judges through the same model as the controller; never starts anything, never needs root.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edge.admin.dump import diagnostic
from edge.cli.folder import read_folder
from edge.errors import SourceError
from edge.model.diagnostics import Severity


def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of YAML and JSON files.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as the admin API does.")] = False,
    ingress_class: Annotated[str, typer.Option(envvar="EDGE_INGRESS_CLASS", help="Class to serve.")] = "edge",
    watch_ingress_without_class: Annotated[
        bool, typer.Option("--watch-ingress-without-class", envvar="EDGE_WATCH_INGRESS_WITHOUT_CLASS")
    ] = False,
) -> None:
    """Check a folder of objects: name what is wrong by object, field and reason."""
    try:
        found = read_folder(folder, ingress_class, watch_ingress_without_class)
    except SourceError as error:
        typer.echo(f"edge check: {error}", err=True)
        raise typer.Exit(2) from error
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
    raise typer.Exit(1 if errors else 0)
