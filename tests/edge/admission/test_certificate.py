"""Certificates that a strict client accepts, with clocks that are wrong."""

from __future__ import annotations

import contextlib
import datetime
import ssl

import pytest

from edge.admission.certificate import LIFETIME, Dates, dates_of, is_good, make_pair, split_bundle

NAMES = ("xdp-edge-webhook.xdp-edge.svc", "xdp-edge-webhook.xdp-edge")
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)


def dates(chain: bytes) -> Dates:
    found = dates_of(chain)
    assert found is not None
    return found


def test_a_strict_client_accepts_it() -> None:
    pair, other = make_pair(NAMES, NOW), make_pair(NAMES, NOW)
    assert is_good(pair, NAMES)
    context = ssl.create_default_context(cadata=(other.authority + pair.authority).decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    from edge.admission.server import Serving, load

    load(server, Serving(pair.chain, pair.key))
    for name in NAMES:
        ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(theirs, ours, server_hostname=name)
        answer = server.wrap_bio(ours, theirs, server_side=True)
        for _ in range(3):
            for end in (client, answer):
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
        assert client.version() == "TLSv1.3"


def test_pairs_that_do_not_fit_are_not_good() -> None:
    pair, other = make_pair(NAMES, NOW), make_pair(NAMES, NOW)
    from dataclasses import replace

    assert not is_good(replace(pair, authority=other.authority), NAMES)
    assert not is_good(replace(pair, key=other.key), NAMES)
    assert not is_good(pair, ("else",))
    for field in ("authority", "chain", "key"):
        for text in (b"", b"\0", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", pair.key):
            if getattr(pair, field) != text:
                assert not is_good(replace(pair, **{field: text}), NAMES), field


def test_two_thirds() -> None:
    made = dates(make_pair(NAMES, NOW).chain)
    assert not made.is_due(NOW) and not made.is_due(NOW + 59 * DAY)
    assert made.is_due(NOW + 60 * DAY) and made.is_due(NOW + 1000 * DAY)


@pytest.mark.parametrize("jump", [DAY * 400, DAY * 60, DAY * 7300])
def test_a_clock_that_jumped_makes_nothing_that_is_not_valid_yet(jump: datetime.timedelta) -> None:
    first = dates(make_pair(NAMES, NOW).chain)
    second = dates(make_pair(NAMES, NOW + jump, first).chain)
    assert second.begins <= NOW < second.ends
    third = dates(make_pair(NAMES, NOW + jump + DAY, second).chain)
    assert third.ends - LIFETIME == NOW + jump + DAY


def test_a_clock_that_stands_before_it_renews_nothing() -> None:
    assert not dates(make_pair(NAMES, NOW).chain).is_due(datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC))


def test_renewals_do_not_grow() -> None:
    now, last = NOW, dates(make_pair(NAMES, NOW).chain)
    for _ in range(5):
        now += 60 * DAY
        last = dates(make_pair(NAMES, now, last).chain)
        assert not last.is_due(now + 59 * DAY)
        assert last.ends - last.begins <= 2 * LIFETIME


def test_bundles() -> None:
    one, two = make_pair(NAMES, NOW).authority, make_pair(NAMES, NOW).authority
    assert split_bundle(one + b"junk\n" + two + b"-----BEGIN CERTIFICATE-----\nMAA") == [one, two]
    assert split_bundle(b"") == [] == split_bundle(b"-----END CERTIFICATE-----")
    assert dates_of(b"x") is None
