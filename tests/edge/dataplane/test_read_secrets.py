"""What the controller reads back of the secrets that run."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from edge.dataplane.tables import read_secrets, secrets
from edge.errors import NativeError
from edge.model.diagnostics import ObjectRef
from edge.model.types import Certificate
from tests.edge.dataplane.test_tables import snapshot


def made(number: int) -> Certificate:
    chain, key = b"chain %d" % number * number, b"key %d" % number
    digest = hashlib.sha256(chain + key).digest()
    return Certificate(ObjectRef("Secret", "n", str(number)), digest, chain, key, ())


@pytest.mark.parametrize("count", [0, 1, 7])
def test_chains_and_keys(count: int) -> None:
    certificates = tuple(made(number) for number in range(1, count + 1))
    raw = secrets(replace(snapshot(1), certificates=certificates))
    assert read_secrets(raw) == {one.chain_pem: one.key_pem for one in certificates}


def test_what_are_no_secrets() -> None:
    for raw in (b"", b"\0" * 100, secrets(snapshot(1))[:-1]):
        with pytest.raises(NativeError):
            read_secrets(raw)
