"""Identity and decoding of raw objects; any JSON is decoded or refused with a field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.resources.kinds import KINDS, Problem, Unknown, compact, decode, identify, plain, shown

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def raw(kind: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": KINDS[kind].api_version, "kind": kind, "metadata": metadata}


def test_identity() -> None:
    assert identify(raw("Service", name="a")) == ("Service", "default", "a")
    assert identify(raw("Service", name="a", namespace="b")) == ("Service", "b", "a")
    assert identify(raw("EdgePolicy", name="a", namespace="b")) == ("EdgePolicy", "", "a")
    with pytest.raises(Unknown, match="apps/v1 Deployment"):
        identify({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}})


@pytest.mark.parametrize("name", [None, 7, "", "A", "a_b", "-a", "a" * 254, "a\0", "a\n", "../a"])
def test_names_that_are_none(name: object) -> None:
    found = identify(raw("Service", name=name))
    assert isinstance(found, Problem)
    assert found.field == "metadata.name"


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(KINDS)), JSON, JSON)
def test_any_json_is_decoded_or_refused(kind: str, spec: object, rest: object) -> None:
    document = {"metadata": {"name": "a"}, "spec": spec, "data": rest, "endpoints": rest}
    found = decode(kind, document)
    if isinstance(found, Problem):
        assert found.message
    assert decode(kind, compact(document)) == found, "both forms say the same"


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), b"x", {1: 2}, {None: 1}, (1,), {"x"}, "\ud800", {(1, 2): 3}]
)
def test_what_json_says_otherwise_stays_as_it_came(value: object) -> None:
    document = {"a": value}
    assert compact(document) is document and plain(document) is document
    assert compact({"a": 1}) == b'{"a":1}' and plain(b'{"a":1}') == {"a": 1}


def test_shown_is_short_and_on_one_line() -> None:
    assert shown("a\nb\0") == r"'a\nb\x00'"
    assert len(shown("x" * 1000)) == 62
    assert shown({"a": 1}) == "'dict'"
