"""What makes an instance the only one of its name: run directory, lock, and the data plane's user.

Called by holder/main.py and by `edge detach`. Never looks at another instance.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from edge.errors import HolderError
from edge.options import Options


def try_lock(directory: Path) -> int | None:
    """Make the instance's run directory and take its lock; None when a holder of this instance lives.

    Errors: HolderError. The lock is close-on-exec: inherited, it would outlive its holder.
    """
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HolderError(f"--run-dir: cannot use {directory}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    sign_lock(lock)
    return lock


def sign_lock(lock: int) -> None:
    """Write down whose lock it is."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def take_lock(directory: Path) -> int:
    """Take the instance's lock. Errors: HolderError when a holder of this instance lives."""
    lock = try_lock(directory)
    if lock is None:
        try:
            pid = (directory / "lock").read_text().strip()
        except OSError:
            pid = ""
        raise HolderError(
            f"instance {directory.name!r} is running already (holder pid {pid or '?'}); "
            "--take-over takes it over, another one on this machine needs --instance NAME"
        )
    return lock


def user_of(options: Options) -> tuple[int, int]:
    """Return uid and gid for the data plane; 0 and 0 (stay who we are) without root.

    Errors: HolderError for an unknown user, or root.
    """
    if os.geteuid() != 0:
        return 0, 0
    import pwd

    try:
        entry = pwd.getpwnam(options.user)
    except KeyError as error:
        raise HolderError(f"--user: there is no user {options.user!r}") from error
    if entry.pw_uid == 0:
        raise HolderError("--user: the data plane never runs as root; name another user")
    return entry.pw_uid, entry.pw_gid
