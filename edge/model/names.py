"""Host names and paths of rules: what may be written, and its normal form.

Called by ingress.py and certificates.py. The C matcher compares bytes of these normal forms; what is
refused here could never match a request that its head parser accepts. Pure text.
Source: Ingress v1 validation (IsDNS1123Subdomain, IsWildcardDNS1123Subdomain, validateHTTPIngressPath).
"""

from __future__ import annotations

import re

HOST_BYTES_MAX = 253
PATH_BYTES_MAX = 1024  # the exchange copies what it needs of a route: at most 1 KiB (design page §2)

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_NUMERIC = re.compile(r"[0-9.]+")
_PATH = re.compile(r"/[!-~]*")  # visible ASCII; anything else comes percent-encoded in a request
_FORBIDDEN = ("//", "/./", "/../", "%2f", "%2F", "#", "?")


def host_of(text: str) -> str | None:
    """Shape: lower case, ".x.org" for *.x.org, without the final dot; None for what is no host."""
    if len(text) > HOST_BYTES_MAX + 3:
        return None
    host = text.lower().removesuffix(".")
    if len(host) > HOST_BYTES_MAX or not _HOST.fullmatch(host) or _NUMERIC.fullmatch(host):
        return None
    if host.startswith("*."):
        # *.org would take every name of a top-level domain: the API allows it, and so do we.
        return host[1:]
    return host


def covers(pattern: str, host: str) -> bool:
    """Say whether a host, or ".x.org" as wildcard of one label, covers a host or the same wildcard."""
    return pattern == host or (
        pattern.startswith(".") and not host.startswith(".") and "." + host.partition(".")[2] == pattern
    )


def path_problem(path: str) -> str:
    """Say what is wrong with a rule's path; "" when nothing is."""
    if not path.startswith("/"):
        return "must start with '/'"
    if len(path) > PATH_BYTES_MAX:
        return f"is longer than {PATH_BYTES_MAX} bytes"
    if not _PATH.fullmatch(path):
        return "may hold visible ASCII characters only; percent-encode the others"
    for part in _FORBIDDEN:
        if part in path:
            return f"must not contain '{part}'"
    if path.endswith(("/..", "/.")):
        return "must not end in '/..' or '/.'"
    return ""


def path_of(path: str) -> str:
    """Shape: a prefix as the matcher compares it: without final slash unless it is '/'."""
    return path.rstrip("/") or "/"
