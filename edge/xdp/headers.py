"""The header tree that bcc needs where no kernel headers are installed: eight small files of our own.

Called by the compiler child (edge/xdp/loader.py) with a folder it may write to. bcc's prelude
carries the whole UAPI bpf.h itself; what is here are only the files it includes by name. Nothing
of the running kernel is looked at but its version number, which bcc wants as a macro.
"""

from __future__ import annotations

import os
from pathlib import Path

_TYPES = """\
#pragma once
typedef signed char __s8, s8, int8_t;
typedef unsigned char __u8, u8, uint8_t;
typedef short __s16, s16, int16_t;
typedef unsigned short __u16, u16, uint16_t, __be16, __le16, __sum16;
typedef int __s32, s32, int32_t, pid_t;
typedef unsigned int __u32, u32, uint32_t, __be32, __le32, __wsum;
typedef long long __s64, s64, int64_t;
typedef unsigned long long __u64, u64, uint64_t, __be64, __le64;
typedef unsigned long size_t, uintptr_t;
typedef long ssize_t;
typedef _Bool bool;
enum { false, true };
#define NULL ((void *)0)
#define __aligned_u64 __u64 __attribute__((aligned(8)))
"""


def _version(release: str) -> str:
    numbers = [int(part) for part in release.split("-")[0].split(".")[:3]]
    major, minor, patch = (*numbers, 0, 0)[:3]
    return (
        "#pragma once\n"
        "#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))\n"
        f"#define LINUX_VERSION_CODE {(major << 16) + (minor << 8) + min(patch, 255)}\n"
    )


def make_headers(root: Path) -> None:
    """Write the tree; ``root`` is then what BCC_KERNEL_SOURCE names."""
    files = {
        "linux/kconfig.h": "#pragma once\n#define CONFIG_BPF_SYSCALL 1\n",
        "linux/version.h": _version(os.uname().release),
        "linux/types.h": _TYPES,
        "linux/log2.h": "",
        "linux/bpf_common.h": "",
        "asm/page.h": "#pragma once\n#define PAGE_SIZE 4096UL\n",
        "uapi/linux/bpf.h": "#include <linux/types.h>\n",
        "uapi/linux/if_packet.h": "",
    }
    for name, text in files.items():
        path = root / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
