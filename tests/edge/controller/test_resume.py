"""What a start takes over: the holder's word before the file's, and nothing that is of no use."""

from __future__ import annotations

import os

import pytest

from edge.controller import resume
from edge.controller.lastgood import WITHHELD, redact
from edge.controller.log import moment
from edge.dataplane.tables import secrets
from edge.holdings import ImageStore, Stored
from edge.resources.kinds import plain
from edge.snapshot.slots import SlotTables
from tests.edge.controller.test_lastgood import SECRET, TLS
from tests.edge.dataplane.test_tables import snapshot


def table(below: int) -> str:
    made = SlotTables()
    made.versions_below = below
    return made.to_json()


def test_the_holders_slots_win(capfd: pytest.CaptureFixture[str]) -> None:
    assert resume.slots(table(7), table(5)).versions_below == 7
    assert resume.slots("", table(5)).versions_below == 5
    assert capfd.readouterr().err == ""
    assert resume.slots("{", table(5)).versions_below == 5
    assert resume.slots("", "{").versions_below == 1
    assert capfd.readouterr().err.count("is of no use") == 2


@pytest.mark.parametrize("since", [None, 0.0, 1763740800.5])
def test_what_the_holder_keeps_is_read_back(since: float | None) -> None:
    assert resume.unpack(resume.pack(table(3), since).decode()) == (table(3), since)


@pytest.mark.parametrize("since", ["Infinity", "NaN", "-1", "1e300", '"x"', "[]"])
def test_a_time_that_is_none(since: str) -> None:
    assert resume.unpack(f'{{"lost_since": {since}}}\nx') == ("x", None)
    for odd in (float("inf"), float("nan"), -1, 1e300):
        assert "after 1970" in moment(odd)


@pytest.mark.parametrize("text", ["", "[]", "[]\nx", "{"])
def test_what_no_controller_left(text: str) -> None:
    assert resume.unpack(text) == ("", None)


def test_keys_of_what_runs() -> None:
    certificates = snapshot(1).certificates
    store = ImageStore()
    assert resume.keys_that_run(store) == {}
    store.stage(Stored(1, 1, (memory(b"image"), memory(secrets(snapshot(1))))))
    assert resume.keys_that_run(store) == {}, "what is only staged does not run"
    store.commit(1)
    assert resume.keys_that_run(store) == {one.chain_pem: one.key_pem for one in certificates}
    store.stage(Stored(2, 1, (memory(b"image"), memory(b"noise"))))
    store.commit(2)
    assert resume.keys_that_run(store) == {}
    store.close()


def memory(content: bytes) -> int:
    descriptor = os.memfd_create("test")
    os.write(descriptor, content)
    return descriptor


def test_keys_complete_a_state() -> None:
    kept = redact(SECRET)
    files = {"a.yaml": ((TLS, kept),)}
    assert resume.with_keys(files, {}) is files
    [(key, raw)] = resume.with_keys(files, {b"cert": b"key"})["a.yaml"]
    found = plain(raw)
    assert key == TLS and found["data"]["tls.key"] == "a2V5" and found[WITHHELD] == ["auth"]
