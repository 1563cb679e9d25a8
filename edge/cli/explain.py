"""`edge explain METHOD URL`: which route takes a request, why, and why no other; and what `--diff` changes.

Called by edge/cli/main.py. Asks a folder (--config), a recorded image (--image) or the running instance (its
admin API). Exit status: 0 a route took it, 1 none did (404) or the request cannot be asked about, 2 there is
nothing to ask. Starts nothing.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import typer

from edge.cli.folder import Folder, read_folder
from edge.errors import EdgeError, NativeError, OptionError, SourceError
from edge.options import Options, parse_address
from edge.snapshot.compile import compile_snapshot
from edge.snapshot.slots import SlotTables
from edge.snapshot.types import Snapshot

IMAGE_BYTES_MAX = 256 << 20
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What stands beside method and URL on the command line."""

    headers: tuple[str, ...] = ()
    at: str = ""
    image: str = ""
    record: str = ""
    as_json: bool = False


def explain_request(
    method: str, url: str, options: Options, as_json: bool = False, asked: Asked | None = None
) -> int:
    """Say which route would take a request, from which object, and why the others do not.

    Shape: the exit status.
    """
    # The compiled module is needed here and by no other command that runs without a set-up machine.
    from edge.admin.explain import QuestionError

    asked = asked or Asked(as_json=as_json)
    try:
        plain = _answer(method, url, options, asked)
    except (SourceError, OptionError) as error:
        typer.echo(f"edge explain: {error}", err=True)
        return 2
    except (QuestionError, NativeError) as error:
        typer.echo(f"edge explain: {error}", err=True)
        return 1
    if asked.as_json:
        typer.echo(json.dumps(plain, indent=2))
    else:
        _print(plain)
    return 0 if plain["route"] is not None else 1


def _answer(method: str, url: str, options: Options, asked: Asked) -> dict[str, Any]:
    from edge.admin.explain import Objects, Question, explain

    question = Question(method, url, tuple(map(_header, asked.headers)), moment(asked.at))
    if asked.image:
        try:
            with open(asked.image, "rb") as file:
                return explain(file.read(IMAGE_BYTES_MAX), question)
        except OSError as error:
            raise SourceError(f"--image {asked.image}: {error.strerror}") from error
    if options.config:
        found, snapshot, image = compiled(Path(options.config), options)
        _record(asked.record, image)
        return explain(image, question, Objects(snapshot, found.builder.upstreams))
    if asked.record:
        _record(asked.record, _ask(options, "/image"))
    words: list[tuple[str, str]] = [("method", method), ("url", url), ("at", str(question.at))]
    words += [("header", text) for text in asked.headers]
    plain: dict[str, Any] = json.loads(_ask(options, f"/explain?{urlencode(words)}"))
    return plain


def compiled(folder: Path, options: Options) -> tuple[Folder, Snapshot, bytes]:
    """A folder as the image that would be published of it.

    Errors: SourceError, NativeError.
    """
    from edge.dataplane.tables import Tables

    found = read_folder(folder, options)
    snapshot = compile_snapshot(found.model, SlotTables(), 1)
    return found, snapshot, Tables().full(snapshot)


def _record(path: str, image: bytes) -> None:
    if not path:
        return
    try:
        Path(path).write_bytes(image)
    except OSError as error:
        raise SourceError(f"--record {path}: {error.strerror}") from error


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise OptionError(f"--header: {text!r} is not of the form 'Name: value'")
    return name.strip(), value.strip()


def moment(text: str) -> int:
    """Read --at: Unix seconds or 2026-01-31T12:00:00Z; 0 for nothing.

    Errors: OptionError.
    """
    if not text:
        return 0
    try:
        if text.isdigit():
            return int(text)
        found = datetime.fromisoformat(text)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as error:
        raise OptionError(f"--at: {text!r} is no time; write 2026-01-31T12:00:00Z or Unix seconds") from error


def _ask(options: Options, target: str) -> bytes:
    """Ask the running instance. Errors: SourceError; EdgeError with its words for a question it refuses."""
    from edge.admin.explain import QuestionError

    host, port = parse_address(options.admin, "--admin")
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        text = f"no instance answers on --admin {options.admin} ({error}); name a folder with --config"
        raise SourceError(text) from error
    finally:
        connection.close()
    if answer.status == 400:
        raise QuestionError(body.decode(errors="replace").strip())
    if answer.status != 200:
        raise SourceError(f"--admin {options.admin} answers {answer.status} to {target.partition('?')[0]}")
    return body


# ---- two folders ---------------------------------------------------------------------------


def explain_difference(old: str, new: str, options: Options, as_json: bool = False) -> int:
    """Say which requests get another answer from one folder than from another.

    Shape: the exit status: 0 none, 1 some, 2 a folder cannot be read.
    """
    from edge.dataplane.difference import difference, endpoint_differences

    try:
        images = (compiled(Path(old), options)[2], compiled(Path(new), options)[2])
        rows = difference(*images)
        endpoints = endpoint_differences(*images)
    except EdgeError as error:
        typer.echo(f"edge explain: {error}", err=True)
        return 2
    if as_json:
        typer.echo(json.dumps({"requests": rows, "endpoints": endpoints}, indent=2))
    else:
        for row in rows:
            typer.echo(f"{row['request']}\n  - {row['old']}\n  + {row['new']}")
        for row in endpoints:
            typer.echo(f"endpoints of {row['upstream']}\n  - {row['old']}\n  + {row['new']}")
        text = f"{len(rows)} kinds of requests get another answer, {len(endpoints)} upstreams other endpoints"
        typer.echo(text, err=True)
    return 1 if rows or endpoints else 0


# ---- text ----------------------------------------------------------------------------------


def _print(plain: dict[str, Any]) -> None:
    request = plain["request"]
    query = f"?{request['query']}" if request["query"] else ""
    at = f" at {plain['at']}" if "at" in plain else ""
    typer.echo(f"{request['method']} {request['scheme']}://{request['host']}{request['path']}{query}{at}")
    typer.echo(f"  {plain['action']}")
    if plain["route"] is not None:
        typer.echo(f"  route     {_line(plain['route'])}")
        typer.echo(f"            {plain['route']['why']}")
        for filter_ in plain["filters"]:
            typer.echo(f"  filter    {filter_}")
        for upstream in plain["upstreams"]:
            typer.echo(f"  upstream  {upstream['name']}: {upstream['times']}")
            for one in upstream["endpoints"]:
                address = f"[{one['address']}]" if ":" in one["address"] else one["address"]
                zone = f" zone {one['zone']}" if one["zone"] else ""
                why = f": {one['why']}" if one.get("why", one["state"]) != one["state"] else ""
                typer.echo(f"  endpoint  {address}:{one['port']} {one['state']}{zone}{why}")
    if plain.get("certificate"):
        typer.echo(f"  cert      {plain['certificate']['object']}: {plain['certificate']['why']}")
    for candidate in plain["candidates"]:
        typer.echo(f"  not       {_line(candidate)}")
        typer.echo(f"            {candidate['reason']}")
    for found in plain.get("findings", ()):
        field = f" {found['field']}" if found["field"] else ""
        typer.echo(f"  {found['severity']:9} {found['object']}{field}: {found['reason']}: {found['message']}")
        typer.echo(f"            {found['advice']}")


def _line(route: dict[str, Any]) -> str:
    return (
        f"{route['object']} {route['field']}: {route['host']} {route['path_type']} {route['path']}"
        f" -> {route['service']}"
    )
