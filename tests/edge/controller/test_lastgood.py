"""The last-known-good state as bytes: read back as it was written, or refused with a word that says why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.controller import lastgood
from edge.controller.lastgood import WITHHELD, Contents
from edge.resources.kinds import Raw, plain
from edge.resources.store import Key

SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": []}}
SECRET: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Secret",
    "type": "kubernetes.io/tls",
    "metadata": {
        "name": "tls",
        "namespace": "default",
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": '{"data":{"tls.key":"a2V5"}}'},
    },
    "data": {"tls.crt": "Y2VydA==", "tls.key": "a2V5", "auth": "cGFzcw=="},
    "stringData": {"tls.key": "key"},
    "more": "a2V5",
}
WEB, TLS = ("Service", "default", "web"), ("Secret", "default", "tls")
CONTENTS = Contents(7, b"r" * 32, b"e" * 32, '{"slots":1}', {WEB: SERVICE, TLS: SECRET}, {WEB: "a.yaml"})


def encoded(contents: Contents, kept: lastgood.Lines | None = None) -> tuple[bytes, tuple[Key, ...]]:
    pieces, lost = lastgood.encode(contents, 1000, kept)
    return b"".join(pieces), lost


def sealed(*lines: bytes) -> bytes:
    return b"".join(lastgood._seal(list(lines)))


def written() -> bytes:
    data, lost = encoded(CONTENTS)
    assert lost == ()
    return data


def test_what_is_written_is_read_back() -> None:
    found = lastgood.decode(written())
    assert (found.version, found.written, found.slots, found.unknown) == (7, 1000, '{"slots":1}', 0)
    assert (found.routes_digest, found.endpoints_digest) == ((b"r" * 32).hex(), (b"e" * 32).hex())
    [(key, raw)] = found.files["a.yaml"]
    assert (key, plain(raw)) == (WEB, SERVICE)
    assert [key for key, _ in found.files[""]] == [TLS]


def test_an_object_in_bytes_is_written_as_it_is() -> None:
    raw = json.dumps(SERVICE, indent=1).encode()
    for lines in (lastgood.Lines(), lastgood.Lines()):
        data, lost = encoded(Contents(7, b"", b"", "", {WEB: raw}, {}), lines)
        assert not lost
        [(_, found)] = lastgood.decode(data).files[""]
        assert isinstance(found, bytes) and plain(found) == SERVICE and b"\n" not in found


def test_more_objects_than_stand_in_one_piece() -> None:
    for count in (63, 62, 64, 126, 127, 1000):
        objects = {("Service", "default", f"s{n}"): json.dumps(SERVICE).encode() for n in range(count)}
        found = lastgood.decode(encoded(Contents(7, b"", b"", "", objects))[0])
        assert len(found.files[""]) == count


def test_the_order_of_arrival_does_not_matter() -> None:
    other = Contents(
        7, b"r" * 32, b"e" * 32, '{"slots":1}', dict(reversed(CONTENTS.objects.items())), {WEB: "a.yaml"}
    )
    assert encoded(other)[0] == written()


def test_no_key_is_written() -> None:
    text = written()
    for secret in (b"a2V5", b"cGFzcw", b'"key"', b"last-applied"):
        assert secret not in text
    kept = plain(dict(lastgood.decode(text).files[""])[TLS])
    assert kept["data"] == {"tls.crt": "Y2VydA=="} and kept[WITHHELD] == ["auth", "tls.key"]
    assert lastgood.redact(kept) == kept, "once more changes nothing"
    assert lastgood.redact(SERVICE | {"kind": "Secret"}) == {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "web"},
    }  # fmt: skip


HIDDEN = "hunter2-hunter2"
SECRETS = st.fixed_dictionaries(
    {"apiVersion": st.just("v1"), "kind": st.just("Secret"), "metadata": st.just({"name": "tls"})},
    optional={
        name: st.recursive(
            st.just(HIDDEN) | st.none() | st.integers(),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["tls.key", "auth", "ca.key", "x", ""]), inner, max_size=4),
        )
        for name in ("data", "stringData", "immutable", "status", "edgeWithheld", "annotations", "tls.crt")
    },
)


@settings(max_examples=40, deadline=None)
@given(SECRETS)
def test_nothing_of_any_secret_is_written_but_what_is_open(raw: dict[str, Any]) -> None:
    if isinstance(raw.get(WITHHELD), list):
        raw[WITHHELD] = [name for name in raw[WITHHELD] if name != HIDDEN]  # names of fields are no secrets
    data, lost = encoded(Contents(1, b"", b"", "", {TLS: raw}))
    assert not lost and HIDDEN.encode() not in data
    [(key, kept)] = [pair for pairs in lastgood.decode(data).files.values() for pair in pairs]
    assert key == TLS and lastgood.redact(kept) == plain(kept)


def test_a_secret_is_whole_again_only_with_what_was_kept_of_it() -> None:
    kept = lastgood.redact(SECRET)
    whole = lastgood.decode_secrets(b"".join(lastgood.encode_secrets(CONTENTS)))
    assert [(key, plain(raw)) for key, raw in whole.items()] == [(TLS, SECRET)]
    assert plain(lastgood.restore(kept, whole[TLS])) == SECRET
    assert lastgood.restore(kept, None) == kept
    newer = SECRET | {"data": SECRET["data"] | {"tls.crt": "bmV3"}}
    assert lastgood.restore(lastgood.redact(newer), SECRET) == lastgood.redact(newer)


def complete(kept: Raw, running: dict[bytes, bytes]) -> Mapping[str, Any]:
    """Complete both forms of an object."""
    found = plain(lastgood.complete(kept, running))
    assert plain(lastgood.complete(json.dumps(plain(kept)).encode(), running)) == found
    return found


def test_the_key_that_runs_completes_what_was_kept() -> None:
    kept = lastgood.redact(SECRET)
    found = complete(kept, {b"cert": b"key"})
    assert found["data"] == {"tls.crt": "Y2VydA==", "tls.key": "a2V5"} and found[WITHHELD] == ["auth"]
    assert complete(kept, {b"another": b"key"}) == kept
    assert complete(SERVICE, {b"": b"key"}) == SERVICE
    written_as_text = {**SECRET, "data": {}, "stringData": {"tls.crt": "cert", "tls.key": "key"}}
    found = complete(lastgood.redact(written_as_text), {b"cert": b"key"})
    assert found["data"] == {"tls.key": "a2V5"} and WITHHELD not in found
    for odd in ({"tls.crt": "="}, {}, None, []):
        spoilt = {WITHHELD: ["tls.key"], "data": odd}
        assert complete(spoilt, {b"cert": b"key"}) == spoilt


def test_what_json_cannot_say_is_named() -> None:
    for value in ({(1, 2): 3}, "\ud800", {None: 1}):
        contents = Contents(1, b"", b"", "", {WEB: SERVICE | {"x": value}, TLS: SECRET})
        data, lost = encoded(contents)
        assert lost == (WEB,)
        assert [key for key, _ in lastgood.decode(data).files[""]] == [TLS]


def test_objects_of_a_later_version_are_counted() -> None:
    later = {"apiVersion": "v9", "kind": "Gateway", "metadata": {"name": "x"}}
    nameless = {"apiVersion": "v1", "kind": "Service", "metadata": {}}
    objects = {WEB: SERVICE, ("Gateway", "", "x"): later, ("Service", "", ""): nameless}
    found = lastgood.decode(encoded(Contents(1, b"", b"", "", objects))[0])
    assert found.unknown == 2 and [key for key, _ in found.files[""]] == [WEB]


def head(**changes: object) -> bytes:
    first, _, body = written().partition(b"\n")
    return json.dumps(json.loads(first) | changes).encode() + b"\n" + body


def with_body(body: bytes) -> bytes:
    return sealed(*written().split(b"\n")[1:3], body)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "is empty"),
        (b"\n", "head"),
        (b"{}\n", "head"),
        pytest.param(b"\0" * 5000, "head", id="zeroes"),
        (b'{"format":1}', "head"),
        (b"\xff\xfe\n", "head"),
        (head(format="1"), "head"),
        (head(format=2), "of format 2, newer"),
        (head(format=0), "of format 0, older"),
        (written()[:-1], "half written"),
        (written()[: len(written()) // 2], "half written"),
        (written() + b"x", "damaged"),
        (written().replace(b"web", b"wed"), "damaged"),
        (sealed(), "what it is of"),
        (sealed(b"{}"), "what it is of"),
        (with_body(b"{}"), "no object"),
        pytest.param(with_body(b"[" * 100_000), "no object", id="deep"),
        (with_body(b'{"file":"a","raw":[]}'), "no object"),
    ],
)
def test_what_is_no_state(data: bytes, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        lastgood.decode(data)


def test_a_secrets_file_is_read_with_the_same_suspicion() -> None:
    good = b"".join(lastgood.encode_secrets(CONTENTS))
    for data in (b"", good[:-1], good.replace(b"tls", b"tlz"), b'{"format":9}\n'):
        with pytest.raises(ValueError):
            lastgood.decode_secrets(data)


def test_any_byte_that_is_another_is_noticed() -> None:
    good = written()
    for place in range(0, len(good), 3):
        spoilt = bytearray(good)
        spoilt[place] ^= 0x11
        with pytest.raises(ValueError):
            lastgood.decode(bytes(spoilt))
