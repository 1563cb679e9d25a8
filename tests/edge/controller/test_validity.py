"""Dates of certificates: warnings, by the clock of the moment, whatever it was before."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from edge.controller.default_certificate import make_default_certificate
from edge.controller.validity import Validity
from edge.model.certificates import given_certificate
from edge.model.diagnostics import ObjectRef, Severity
from edge.model.reasons import REASONS
from edge.model.types import Certificate

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
DAY = 86_400


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    made = given_certificate(*make_default_certificate(NOW))  # of ten years, from the day before
    assert isinstance(made, Certificate)
    return replace(made, object=ObjectRef("Secret", "n", "a"), is_default=False)


@pytest.mark.parametrize(
    ("days", "reason"),
    [
        (-2, "NotYetValid"),
        (-1, ""),
        (0, ""),
        (3630, ""),
        (3637, "ExpiresSoon"),
        (3650, "Expired"),
        (10_000, "Expired"),
    ],
)
def test_by_the_clock(certificate: Certificate, days: int, reason: str) -> None:
    validity = Validity()
    for _ in range(2):
        found = validity.findings([certificate], NOW.timestamp() + days * DAY)
        assert [one.reason for one in found] == ([reason] if reason else [])
        assert all(one.severity is Severity.WARNING for one in found)
    assert not reason or reason in REASONS


def test_a_clock_that_jumps_back_takes_its_warning_along(certificate: Certificate) -> None:
    validity = Validity()
    for days, count in ((0, 0), (10_000, 1), (0, 0)):
        assert len(validity.findings([certificate], NOW.timestamp() + days * DAY)) == count


def test_what_is_not_looked_at(certificate: Certificate) -> None:
    late = NOW.timestamp() + 10_000 * DAY
    others = [
        replace(certificate, withheld=True, chain_pem=b""),
        replace(certificate, is_default=True),
        replace(certificate, chain_pem=b"no certificate", digest=b"x"),
    ]
    assert Validity().findings(others, late) == []
