"""The default certificate: made, kept as one text, read back only when it is a pair."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge.controller.default_certificate import (
    kept_certificate,
    make_default_certificate,
    split_default_certificate,
)
from edge.controller.state import StateDirectory

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


def test_the_one_that_runs_goes_before_the_one_on_disk(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    first = kept_certificate(state, {})
    assert kept_certificate(state, {}) == first
    chain, key = make_default_certificate(NOW)
    running = {b"no certificate": b"", foreign_chain(): b"key", chain: key}
    assert kept_certificate(state, running) == (chain, key)
    assert kept_certificate(None, running) == (chain, key)
    assert kept_certificate(None, {}) not in (first, (chain, key))


def foreign_chain() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a.example")])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(NOW).not_valid_after(NOW + datetime.timedelta(1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    return made.public_bytes(serialization.Encoding.PEM)
