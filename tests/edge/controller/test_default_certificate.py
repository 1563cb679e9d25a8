"""The default certificate: made, kept as one text, read back only when it is a pair."""

import datetime

import pytest

from edge.controller.default_certificate import make_default_certificate, split_default_certificate

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def test_read_back() -> None:
    chain, key = make_default_certificate(NOW)
    assert split_default_certificate((chain + key).decode()) == (chain, key)


@pytest.mark.parametrize("kind", ["empty", "no key", "no certificate", "broken key", "another key"])
def test_what_is_no_pair(kind: str) -> None:
    (chain, key), (_, other) = make_default_certificate(NOW), make_default_certificate(NOW)
    texts = {
        "empty": b"",
        "no key": chain,
        "no certificate": key,
        "broken key": chain + key[:60],
        "another key": chain + other,
    }
    assert split_default_certificate(texts[kind].decode()) is None
