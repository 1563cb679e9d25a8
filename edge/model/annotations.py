"""Annotations of an Ingress: values, units, and what we do not serve.

Called by ingress.py. A value that cannot be read becomes a warning and the default stays. An
annotation of ingress-nginx that we do not know yet is a warning, too; one that guards access (or
turns the Ingress into a canary) is an error and the Ingress is not served: without its guard a
route must not open. Source: ingress-nginx 1.15, annotations.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edge.model.diagnostics import ObjectRef
from edge.model.findings import Findings
from edge.model.types import Delay
from edge.resources.kinds import shown

NGINX = "nginx.ingress.kubernetes.io/"
OURS = "xdp-edge.dev/"

BODY_BYTES_MAX = 1 << 20  # ingress-nginx' proxy-body-size of 1m: what its users expect
DURATION_MS_MAX = 3_600_000
DELAY_MS_MAX = 60_000

_SUPPORTED = frozenset(
    {
        NGINX + "ssl-redirect",
        NGINX + "force-ssl-redirect",
        NGINX + "proxy-body-size",
        NGINX + "proxy-connect-timeout",
        NGINX + "proxy-read-timeout",
        NGINX + "proxy-send-timeout",
        OURS + "ssl-redirect",
        OURS + "implementation-specific",
        OURS + "fault-delay",
    }
)
_GUARDS = re.compile(
    r"(auth-(?!proxy-set-headers|cache).*|satisfy|(whitelist|allowlist|denylist)-source-range|canary"
    r"|enable-(modsecurity|owasp-core-rules|global-auth)|modsecurity-.*|server-snippet|configuration-snippet)"
)
_OPEN_TO = ("whitelist-source-range", "allowlist-source-range")
_FLAG = {"true": True, "false": False}
# What pathType ImplementationSpecific means: by element, or as text (on an Ingress or its IngressClass).
IMPLEMENTATION_SPECIFIC = {"prefix": False, "string-prefix": True}
_SIZE = re.compile(r"(\d{1,15})([kKmMgG]?)")
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SECONDS = re.compile(r"(\d{1,9})(s?)")
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m)")
_DURATION_UNITS = {"ms": 1, "s": 1_000, "m": 60_000}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the annotations of one Ingress ask for. Units: bytes, milliseconds; None: the default.

    ``string_prefix``: ImplementationSpecific means text, not elements.
    """

    body_bytes_max: int = BODY_BYTES_MAX
    connect_ms: int | None = None
    read_ms: int | None = None
    send_ms: int | None = None
    redirect_https: bool = True
    force_redirect: bool = False
    string_prefix: bool | None = None
    filters: tuple[Delay, ...] = ()


USUAL = Wishes()


def read(
    annotations: Mapping[str, str], ref: ObjectRef, findings: Findings, usual: Wishes = USUAL
) -> Wishes | None:
    """Read what we know; None: the Ingress asks for a guard that we cannot give. ``usual``: the defaults."""
    served = True
    for name in annotations:
        if name in _SUPPORTED or not name.startswith((NGINX, OURS)):
            continue
        bare = name.partition("/")[2]
        guard = name.startswith(NGINX) and _GUARDS.fullmatch(bare) and annotations[name] != "false"
        if guard and bare in _OPEN_TO and _open_to_all(annotations[name]):
            continue  # cert-manager writes this on its solvers: no guard at all
        if guard:
            served = False
            message = f"{shown(name)} is not supported yet, and without it the Ingress must not be served"
            findings.error(ref, _field(name), "UnsupportedGuard", message)
        else:
            message = f"{shown(name)} is not supported and has no effect"
            findings.warning(ref, _field(name), "UnsupportedAnnotation", message)
    if not served:
        return None

    def number(
        name: str, pattern: re.Pattern[str], units: Mapping[str, int], lowest: int, most: int
    ) -> int | None:
        text = annotations.get(name)
        if text is None:
            return None
        found = pattern.fullmatch(text.strip())
        value = round(float(found[1]) * units[found[2].lower()]) if found else -1
        if lowest <= value <= most:
            return value
        message = f"{shown(text)} cannot be used; the default stays"
        findings.warning(ref, _field(name), "InvalidAnnotation", message)
        return None

    seconds = {"": 1_000, "s": 1_000}
    body = number(NGINX + "proxy-body-size", _SIZE, _SIZE_UNITS, 0, 1 << 50)
    delay = number(OURS + "fault-delay", _DURATION, _DURATION_UNITS, 0, DELAY_MS_MAX)

    def choice(name: str, words: Mapping[str, bool], default: bool | None) -> bool | None:
        text = annotations.get(name)
        if text is None:
            return default
        if text in words:
            return words[text]
        allowed = " nor ".join(repr(word) for word in words)
        message = f"{shown(text)} is neither {allowed}; the default stays"
        findings.warning(ref, _field(name), "InvalidAnnotation", message)
        return default

    def milliseconds(name: str, most: int, default: int | None) -> int | None:
        found = number(NGINX + name, _SECONDS, seconds, 1_000, most)
        return default if found is None else found

    redirect = choice(NGINX + "ssl-redirect", _FLAG, usual.redirect_https)
    redirect = choice(OURS + "ssl-redirect", _FLAG, redirect)  # ours is read last: it wins
    return Wishes(
        body_bytes_max=usual.body_bytes_max if body is None else body,
        connect_ms=milliseconds("proxy-connect-timeout", DURATION_MS_MAX, usual.connect_ms),
        read_ms=milliseconds("proxy-read-timeout", 24 * DURATION_MS_MAX, usual.read_ms),
        send_ms=milliseconds("proxy-send-timeout", 24 * DURATION_MS_MAX, usual.send_ms),
        redirect_https=bool(redirect),
        force_redirect=bool(choice(NGINX + "force-ssl-redirect", _FLAG, usual.force_redirect)),
        string_prefix=choice(OURS + "implementation-specific", IMPLEMENTATION_SPECIFIC, usual.string_prefix),
        filters=(Delay(delay),) if delay else (),
    )


def _open_to_all(text: str) -> bool:
    return {"0.0.0.0/0", "::/0"} <= {part.strip() for part in text.split(",")}


def _field(name: str) -> str:
    return f"metadata.annotations[{ascii(name[:100])[1:-1]}]"
