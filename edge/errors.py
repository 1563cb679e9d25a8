"""The one exception tree.

Wrong objects are not exceptions: they become diagnostics (edge/model/diagnostics.py). What stands
here is what stops a call: a source that cannot be read, a refusal of the C side, of the kernel, or
of a peer process. Foreign exceptions are translated where they enter, with ``from``.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base of all; its text is one sentence for an operator."""


class OptionError(EdgeError):
    """A command line option or EDGE_* variable that cannot be used."""


class SourceError(EdgeError):
    """A folder or API that cannot be read."""


class ApiError(EdgeError):
    """A request to the API server failed; ``status`` 0: there was no answer.

    ``reason``: the API's CamelCase word. ``retry_after``: what it asks for; seconds, 0 where it does not.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{reason or status}: {message}" if message else reason or str(status))
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class NativeError(EdgeError):
    """A call into C failed; raised by ``edge.native.check`` alone."""

    def __init__(
        self, what: str, code: int, *, section: int = 0, index: int = 0, field: str = "", reason: str = ""
    ) -> None:
        where = f" at {field}" if field else ""
        super().__init__(f"{what}: {reason or code}{where}")
        self.code = code
        self.section = section
        self.index = index
        self.field = field
        self.reason = reason


class XdpError(EdgeError):
    """The kernel, bcc or bpffs refused; ``log`` holds the compiler's or verifier's words."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class PublishError(EdgeError):
    """A version was refused; the running one stays."""


class HolderError(EdgeError):
    """The holder cannot start or go on: an address in use, a living holder, no privilege."""
