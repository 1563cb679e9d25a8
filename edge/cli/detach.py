"""`edge detach`: removes XDP programs and pins, which a stop leaves in place on purpose.

Called by edge/cli/main.py. Never touches an instance whose holder lives.
"""

from __future__ import annotations

import os

from edge.errors import HolderError
from edge.options import Options


def detach_instance(options: Options) -> int:
    """Remove the pins of an instance and say what went. Errors: HolderError, XdpError."""
    from edge.holder.instance import take_lock

    if os.geteuid() != 0:
        raise HolderError("detach needs root: pins belong to it")
    lock = take_lock(options.instance_run_dir)
    try:
        from edge.xdp.plane import detach

        removed, left = detach(options.instance)
    finally:
        os.close(lock)
    for one in removed:
        print(f"removed {one}")
    for one in left:
        print(f"left {one}: it is none of ours")
    if not removed:
        print(f"instance {options.instance!r} has nothing attached")
    return 0
