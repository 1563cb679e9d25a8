"""C source to object: a short-lived child (`edge-bpfc`) compiles, the parent keeps a cache.

Parent half, called by plane, tests and the packet generator: `edge_object()`, `compile_program()`.
Child half: `python -m edge.xdp.compiler`, one request on standard input, one answer on standard
output. Only the child maps LLVM, it has CAP_BPF at most, and it exits. Where bcc is missing or fails,
the object that ships with the package (edge/xdp/stored) is used: it needs no bcc, no clang, no headers.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import privileges
from edge.errors import XdpError
from edge.xdp.object import BpfObject

# In a checkout a link to bpf/, in an installed package a copy of it.
SOURCES = Path(__file__).parent / "bpf"
STORED = Path(__file__).parent / "stored" / "xdp_edge.json"
COMPILE_S = 60


def source_hash(folder: Path = SOURCES) -> str:
    """Digest of every source of the packet program, names included."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def compile_program(
    program: str,
    declarations: str,
    include: Path = SOURCES,
    source: str = "",
    capabilities: Sequence[str] = privileges.COMPILER_KEEPS,
) -> BpfObject:
    """Compile in a child that keeps the ``capabilities``: bcc makes each map once, to learn its shape.

    Errors: XdpError, whose log holds what clang said.
    """
    request = json.dumps(
        {
            "program": program,
            "declarations": declarations,
            "include": str(include),
            "capabilities": list(capabilities),
        }
    )
    environment = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edge.xdp.compiler"],
            input=request,
            capture_output=True,
            text=True,
            timeout=COMPILE_S,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise XdpError(f"the bpf compiler did not run: {error}") from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise XdpError(f"the bpf compiler ended with {done.returncode} and no answer", done.stderr) from error
    if "error" in answer:
        raise XdpError(answer["error"], done.stderr)
    return BpfObject.from_dict(answer | {"source": source})


def compile_edge() -> BpfObject:
    """Compile bpf/xdp_edge.c as it stands."""
    text = '#line 1 "xdp_edge.c"\n' + (SOURCES / "xdp_edge.c").read_text()
    return compile_program(text, '#define EDGE_DECLARE_MAPS\n#include "maps.h"', SOURCES, source_hash())


def stored_object() -> BpfObject:
    """The object that ships with the package.

    Errors: XdpError when it is missing.
    """
    try:
        return BpfObject.from_dict(json.loads(STORED.read_text()))
    except (OSError, ValueError) as error:
        raise XdpError(f"the stored packet program cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Found:
    """The packet program. ``origin``: "cached", "compiled" or "stored"; ``why``: in words."""

    object: BpfObject
    origin: str
    why: str


def edge_object(cache: Path | None = None) -> Found:
    """Find the packet program of these sources: in the cache, by compiling, or in the package.

    Errors: XdpError when bcc fails and no stored object was made from these sources.
    """
    wanted = source_hash()
    path = cache / f"xdp_edge-{wanted[:16]}.json" if cache else None
    if path is not None and path.exists():
        try:
            cached = BpfObject.from_dict(json.loads(path.read_text()))
        except (OSError, ValueError, XdpError):
            pass
        else:
            if cached.source == wanted:
                return Found(cached, "cached", f"compiled by an earlier start, in {path}")
    try:
        compiled = compile_edge()
    except XdpError as failure:
        stored = stored_object()
        if stored.source != wanted:
            raise XdpError(f"{failure}; the stored object is of other sources", failure.log) from failure
        return Found(stored, "stored", str(failure))
    return Found(compiled, "compiled", _keep(compiled, path) if path is not None else "no cache is used")


def _keep(compiled: BpfObject, path: Path) -> str:
    """Put an object into the cache in the place of all others. Shape: what became of that, in words."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(compiled.to_dict()))
        new.replace(path)
        for other in path.parent.glob("xdp_edge-*.json"):
            if other != path:
                other.unlink()
    except OSError as error:
        return f"nothing was cached, and nothing can be: {error.strerror}"
    return f"nothing was cached; now in {path}"


def store() -> None:
    """Write the object that ships with the package: `python -m edge.xdp.compiler --store`."""
    STORED.parent.mkdir(exist_ok=True)
    STORED.write_text(json.dumps(compile_edge().to_dict(), indent=1, sort_keys=True) + "\n")


def _answer() -> None:
    from edge.xdp.loader import compile_text

    request = json.load(sys.stdin)
    privileges.only_capabilities(request["capabilities"])
    # bcc and clang write on both descriptors: the answer goes out on a copy of the first.
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="edge-bpfc-") as scratch:
        try:
            answer = compile_text(
                request["program"], request["declarations"], Path(request["include"]), Path(scratch)
            )
        except XdpError as error:
            answer = {"error": str(error)}
        os.chdir("/")  # bcc went into the folder that is about to be removed
    os.write(answer_fd, b"\n" + json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(15, b"edge-bpfc", 0, 0, 0)
    store() if sys.argv[1:] == ["--store"] else _answer()
