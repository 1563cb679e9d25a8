"""When certificates are valid: warned about, and nothing else.

Called for each page that shows findings. A clock that is a day off takes no certificate out of service,
so no decision looks at these dates; clients do.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge.controller.log import moment
from edge.model.diagnostics import Diagnostic, Severity
from edge.model.types import Certificate

SOON_S = 14 * 86_400  # before its end


class Validity:
    """Dates by digest, so that a certificate is parsed once. Units: seconds since 1970."""

    def __init__(self) -> None:
        self._dates: dict[bytes, tuple[float, float]] = {}

    def findings(self, certificates: Iterable[Certificate], now: float) -> list[Diagnostic]:
        """Shape: a warning for each certificate that is not valid, or not for long."""
        known, self._dates = self._dates, {}
        found = []
        for one in certificates:
            if one.withheld or one.is_default:
                continue
            dates = known.get(one.digest) or _dates(one.chain_pem)
            if dates is None:
                continue
            self._dates[one.digest] = begin, end = dates
            if now < begin:
                found.append(_finding(one, "NotYetValid", f"is not valid before {moment(begin)}"))
            elif now >= end:
                found.append(_finding(one, "Expired", f"has not been valid since {moment(end)}"))
            elif now >= end - SOON_S:
                found.append(_finding(one, "ExpiresSoon", f"is not valid after {moment(end)}"))
        return found


def _finding(one: Certificate, reason: str, text: str) -> Diagnostic:
    return Diagnostic(one.object, "data[tls.crt]", reason, f"the certificate {text}", Severity.WARNING)


def _dates(chain_pem: bytes) -> tuple[float, float] | None:
    from cryptography import x509

    try:
        leaf = x509.load_pem_x509_certificate(chain_pem)
    except ValueError:  # the data plane says what is wrong with it
        return None
    return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
