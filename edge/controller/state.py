"""The state directory of an instance: slots, and the default certificate where secrets may be kept.

Called by the controller's loop. Files are replaced whole (write, fsync, rename), so that a power cut
leaves the old one. A file that cannot be read is said and done without; nothing here stops a start.
"""

from __future__ import annotations

import os
from pathlib import Path

from edge.errors import SourceError

SLOTS = "slots.json"
DEFAULT_CERTIFICATE = "default.pem"


class StateDirectory:
    """Files of one instance. Errors of every write: SourceError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written: dict[str, str] = {}

    def prepare(self) -> None:
        """Make the directory. Errors: SourceError that names the option."""
        try:
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SourceError(f"--state-dir: cannot use {self.path}: {error.strerror}") from error

    def read(self, name: str) -> str | None:
        """Return a file's text, None when it is missing or cannot be read."""
        try:
            return (self.path / name).read_text()
        except (OSError, UnicodeDecodeError):
            return None

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Replace a file, unless it holds this text already. Errors: SourceError."""
        if self._written.get(name) == text:
            return
        target, fresh = self.path / name, self.path / f".{name}.new"
        try:
            fresh.unlink(missing_ok=True)  # left by a death; it would keep its own mode
            number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with open(number, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(number)
            os.replace(fresh, target)
        except OSError as error:
            raise SourceError(f"--state-dir: cannot write {target}: {error.strerror}") from error
        self._written[name] = text
