"""Builds edge.native._edge: cffi glue cut from the real headers, plus every C file under csrc.

Used by setuptools alone (pyproject.toml names ``BuildNative`` as ``build_ext``). A new C file or a
new declaration between the markers needs no registration here. Objects are kept in build/native
and compiled again only when their source, a header or this file is newer. Tests ask for a second
one with ``sanitized``, which never replaces the normal one. Never run at import.
"""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent.parent
HEADERS = ("csrc/include/edge_image.h", "csrc/include/edge.h", "bpf/edge_abi.h")
FOLDERS = ("csrc", "bpf")
COMPILE = ["-std=gnu11", "-O2", "-g", "-fvisibility=hidden", "-Wall", "-Wextra"]
SANITIZE = ["-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SANITIZE += ["-DEDGE_NO_REUSE"]  # free lists would hide a use after the end
LINK = ["-lssl", "-lcrypto", "-lpcre2-8", "-l:liburing.a", "-pthread"]

# The kernel's names for integers, as bpf/edge_abi.h writes them (linux/types.h has them in C).
KERNEL_TYPES = "".join(
    f"typedef uint{bits}_t {name}{bits};\n"
    for name, sizes in (("__u", (8, 16, 32, 64)), ("__be", (16, 32)))
    for bits in sizes
)

MARKED = re.compile(r"/\* cffi: begin \*/\n(.*?)/\* cffi: end \*/", re.DOTALL)


def declarations(header: Path) -> str:
    """What stands between the markers of a header.

    Errors: ValueError when there is not exactly one marked part.
    """
    parts: list[str] = MARKED.findall(header.read_text())
    if len(parts) != 1:
        raise ValueError(f"{header}: {len(parts)} parts between cffi markers, expected 1")
    return parts[0]


def glue(target: Path) -> None:
    """Write the C source of the Python module, if it would differ from what is there."""
    from cffi import FFI

    ffi = FFI()
    ffi.cdef(KERNEL_TYPES + "".join(declarations(ROOT / header) for header in HEADERS))
    includes = "#include <linux/types.h>\n" + "".join(
        f'#include "{header.partition("/")[2]}"\n' for header in HEADERS
    )
    ffi.set_source("edge.native._edge", includes)
    fresh = target.with_suffix(".new")
    ffi.emit_c_code(str(fresh))
    if target.exists() and target.read_bytes() == fresh.read_bytes():
        fresh.unlink()
    else:
        fresh.replace(target)


def build(
    folder: Path, output: Path, compiler: list[str], linker: list[str], run: Callable[[list[str]], object]
) -> Path:
    """Emit the glue, compile what is stale in parallel, link.

    Shape: the library as it was linked, not yet in its place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "_edge.c"
    glue(source)
    include = [str(ROOT / name) for name in FOLDERS]
    headers = [path for name in FOLDERS for path in (ROOT / name).rglob("*.h")]
    rules = max(path.stat().st_mtime for path in [*headers, Path(__file__)])
    sources = [source, *sorted((ROOT / "csrc").rglob("*.c"))]

    def compiled(path: Path) -> str:
        name = path.relative_to(ROOT).with_suffix(".o").as_posix().replace("/", "-")
        target = folder / name
        if not target.exists() or target.stat().st_mtime < max(rules, path.stat().st_mtime):
            quiet = ["-Wno-unused-parameter"] if path == source else []
            command = [*compiler, *quiet, *(f"-I{item}" for item in include)]
            run([*command, "-c", str(path), "-o", str(target)])
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = output.with_name(output.name + ".new")
    run([*linker, *objects, "-o", str(fresh), *LINK])
    return fresh


def sanitized(name: str = "sanitized", extra: tuple[str, ...] = ()) -> Path:
    """The library with address and undefined-behaviour sanitizers, for tests.

    `extra` options of the compiler make another one of another name. Errors: CalledProcessError. Two test
    runs at once wait for each other.
    """
    folder = ROOT / "build" / name
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "_edge.so"

    def run(command: list[str]) -> None:
        subprocess.run(command, check=True)

    compiler = ["gcc", "-pthread", "-fPIC", *COMPILE, *SANITIZE, *extra, f"-I{sysconfig.get_path('include')}"]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build(folder, output, compiler, ["gcc", "-shared", *SANITIZE], run).replace(output)
    return output


class BuildNative(build_ext):
    """setuptools' build_ext for the one extension of this project."""

    def build_extension(self, ext: Extension) -> None:
        """Build in build/native, put the library into the package."""
        output = Path(self.get_ext_fullpath(ext.name))
        compiler = [*self.compiler.compiler_so, *COMPILE, *(f"-I{item}" for item in self.include_dirs)]
        fresh = build(ROOT / "build" / "native", output, compiler, self.compiler.linker_so, self.spawn)
        # Replaced in one step (a running process keeps the file that it has mapped), and only by a
        # library whose symbols all resolve.
        loaded = "import ctypes, sys; ctypes.CDLL(sys.argv[1], 2)"
        self.spawn([sys.executable, "-c", loaded, str(fresh)])
        fresh.replace(output)
