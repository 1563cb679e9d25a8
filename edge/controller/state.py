"""The state directory of an instance: files that are replaced whole, and read with suspicion.

Called by keeper.py, and by the controller's loop for the default certificate. A file is written beside,
synced, and renamed, and its folder synced, so that a power cut leaves the old one or the new one. What
stands in a file is lastgood.py's business. Never waits on a pipe, never follows a link.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from edge.errors import SourceError

DEFAULT_CERTIFICATE = "default.pem"
BYTES_MAX = 256 << 20  # ten times what 20,000 routes take


class StateDirectory:
    """Files of one instance. Errors of everything but `prepare`: SourceError, one clause with the path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Make the directory; whether it can be written shows when it is. Errors: SourceError."""
        try:
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise SourceError(f"--state-dir: cannot use {self.path}: {error.strerror}") from error

    def read(self, name: str, bytes_max: int = BYTES_MAX) -> bytes | None:
        """Return a file's bytes, None when there is none."""
        path = self.path / name
        try:
            number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                status = os.fstat(number)
                if not stat.S_ISREG(status.st_mode):
                    raise SourceError(f"{path} is no regular file")
                if status.st_uid not in (0, os.geteuid()):
                    raise SourceError(f"{path} belongs to user {status.st_uid}: not trusted")
                if status.st_mode & stat.S_IWOTH:
                    raise SourceError(f"{path} can be written by everybody: not trusted")
                if status.st_size > bytes_max:
                    raise SourceError(f"{path} is larger than {bytes_max >> 20} MiB")
                with open(number, "rb", closefd=False) as file:
                    return file.read(bytes_max)
            finally:
                os.close(number)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}") from error

    def write(self, name: str, *pieces: bytes, previous: str = "") -> None:
        """Replace a file, for us alone; what stood there is kept as ``previous``, where that is given."""
        target, fresh = self.path / name, self.path / f".{name}.new"
        try:
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)  # lost while we ran
            fresh.unlink(missing_ok=True)  # left by a death; it would keep its own mode
            number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(number, "wb", buffering=0) as file:
                for piece in pieces:
                    left = memoryview(piece)
                    while left:
                        left = left[file.write(left) :]
                os.fsync(number)
            if previous:
                self._keep(target, self.path / previous)
            os.replace(fresh, target)
            self._sync()
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()  # half of it would only take the room
            raise SourceError(f"--state-dir: cannot write {target}: {error.strerror}") from error

    def remove(self, name: str) -> bool:
        """Remove a file for good. Shape: whether there was one."""
        try:
            (self.path / name).unlink()
            self._sync()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SourceError(f"{self.path / name} cannot be removed: {error.strerror}") from error
        return True

    def _keep(self, target: Path, previous: Path) -> None:
        """Give the present file its second name; the first is not free for a moment."""
        spare = self.path / f".{previous.name}.new"
        spare.unlink(missing_ok=True)
        try:
            os.link(target, spare)
        except FileNotFoundError:
            return
        os.replace(spare, previous)
        spare.unlink(missing_ok=True)  # a rename between two names of one file does nothing

    def _sync(self) -> None:
        number = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(number)
        finally:
            os.close(number)
