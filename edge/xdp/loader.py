"""The only importer of bcc. Turns C text into instructions, map shapes and BTF; loads no program.

Called by the child in edge/xdp/compiler.py alone: bcc maps LLVM, changes the working directory and
writes on descriptors 1 and 2, so no long-lived process may import it. The maps that bcc makes here
only exist to be described; their descriptors go with the child.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Any

from edge.errors import XdpError
from edge.xdp import syscalls
from edge.xdp.headers import make_headers

# Map numbers as the program's text carries them: far above any descriptor.
_FIRST_MARK = 1 << 20
_LOAD_IMMEDIATE = 0x18
_DEVMAP, _READ_ONLY = 14, 1 << 7


def compile_text(program: str, declarations: str, include: Path, scratch: Path) -> dict[str, Any]:
    """Compile one packet program.

    Shape: code, relocations (instruction, map), maps (shape and BTF types), btf; bytes as hex.
    Errors: XdpError when bcc is missing or refuses; its own words are on descriptors 1 and 2.
    """
    make_headers(scratch)
    os.environ["BCC_KERNEL_SOURCE"] = str(scratch)
    try:
        from bcc import BPF, lib
    except ImportError as error:
        raise XdpError("bcc is not installed (Debian: python3-bpfcc)") from error
    flags = [f"-I{include}"]
    try:
        declared = BPF(text=declarations + "\nint nothing(struct xdp_md *c) { return 2; }\n", cflags=flags)
    except Exception as error:
        raise XdpError(f"bcc cannot declare the maps: {error}") from error
    maps, btf = _describe(declared, lib)
    marks = {_FIRST_MARK + i: name for i, name in enumerate(maps)}
    flags += [f"-DEDGE_FD_{name}={mark}" for mark, name in marks.items()]
    try:
        module = BPF(text=program, cflags=flags)
    except Exception as error:
        raise XdpError(f"bcc cannot compile the program: {error}") from error
    if lib.bpf_num_functions(module.module) != 1:
        raise XdpError("the source must have exactly one function that is not static")
    name = lib.bpf_function_name(module.module, 0)
    code, relocations = _relocate(bytes(module.dump_func(name)), marks)
    return {
        "program": name.decode(),
        "code": code.hex(),
        "relocations": relocations,
        "maps": maps,
        "btf": btf.hex(),
    }


def _describe(module: Any, lib: Any) -> tuple[dict[str, dict[str, int]], bytes]:
    # bcc's own prototypes of these are missing: without them the pointer is cut to 32 bits.
    for function in (lib.bpf_num_tables, lib.bpf_table_name, lib.bpf_table_fd_id):
        function.argtypes = [ctypes.c_void_p, ctypes.c_ulonglong]
    lib.bpf_num_tables.restype = ctypes.c_ulonglong
    lib.bpf_table_name.restype = ctypes.c_char_p
    maps, btf_id = {}, 0
    for number in range(lib.bpf_num_tables(module.module, 0)):
        info = syscalls.map_info(lib.bpf_table_fd_id(module.module, number))
        btf_id = btf_id or info.btf_id  # one blob for all; maps of descriptors have none
        maps[lib.bpf_table_name(module.module, number).decode()] = {
            "type": info.shape.type,
            "key_bytes": info.shape.key_bytes,
            "value_bytes": info.shape.value_bytes,
            "entries": info.shape.entries,
            # The kernel adds this flag to a devmap, and refuses it from us.
            "flags": info.shape.flags & ~(_READ_ONLY if info.shape.type == _DEVMAP else 0),
            "key_type": info.key_type,
            "value_type": info.value_type,
        }
    if not btf_id:
        raise XdpError("bcc gave no BTF for the maps")
    return dict(sorted(maps.items())), syscalls.btf_bytes(btf_id)


def _relocate(code: bytes, marks: dict[int, str]) -> tuple[bytes, list[tuple[int, str]]]:
    bare, relocations = bytearray(code), []
    for at in range(0, len(code), 8):
        mark = struct.unpack_from("<i", code, at + 4)[0]
        # Source register 1: a map; 2: the first value of a map.
        if code[at] == _LOAD_IMMEDIATE and code[at + 1] >> 4 in (1, 2) and mark in marks:
            relocations.append((at // 8, marks[mark]))
            struct.pack_into("<i", bare, at + 4, 0)
    return bytes(bare), relocations
