"""Text of a file to raw objects: limits, YAML's surprises, Lists."""

from __future__ import annotations

import gc

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edge.sources.documents import DEPTH_MAX, FILE_BYTES_MAX, DocumentError, read_documents, split


def test_documents_of_a_file_in_order() -> None:
    assert read_documents(b"a: 1\n---\n---\n# nothing\n---\nb: [x]\n", "x.yaml") == [{"a": 1}, {"b": ["x"]}]


def test_reading_leaves_nothing_for_the_collector() -> None:
    text = b"a: {b: [1, {c: d}]}\n---\n[1, 2]\n"
    read_documents(text, "x.yaml")
    gc.collect()
    gc.disable()
    try:
        read_documents(text, "x.yaml")
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_json() -> None:
    assert read_documents(b'{"kind": "List", "items": [{"a": 1}, {"b": 2}]}', "x.json") == [
        {"a": 1},
        {"b": 2},
    ]
    assert read_documents(b" \n", "x.json") == []


def test_list_of_one_kind_hands_down_its_version() -> None:
    text = b"apiVersion: v1\nkind: ServiceList\nitems: [{metadata: {name: a}}]"
    assert read_documents(text, "x.yaml") == [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("2026-01-01", "2026-01-01"),
        ("12:30:45", "12:30:45"),
        ("1.5", 1.5),
        ("80", 80),
        ("0x1f", 31),
        ("1e3", 1000.0),
        ("1.2.3", "1.2.3"),
        ("true", True),
    ],
)
def test_plain_words(text: str, value: object) -> None:
    assert read_documents(f"a: {text}".encode(), "x.yaml") == [{"a": value}]


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"a: [", "x.yaml", "is no YAML"),
        (b"a: \xff", "x.yaml", "no UTF-8 at byte 3"),
        (b"a: \0", "x.yaml", "is no YAML"),
        (b"a: !!python/object/apply:os.system [true]", "x.yaml", "is no YAML"),
        (b"a: &a [*a]", "x.yaml", "contains itself"),
        (b"a: &a {b: *a}", "x.yaml", "contains itself"),
        (b"{", "x.json", "is no JSON"),
        (b"[" * 100_000, "x.json", "deeper"),
        (b"[" * 100_000, "x.yaml", "deeper"),
        (b"- " * 100_000 + b"a", "x.yaml", "deeper"),
        (b"? " * 100_000 + b"a", "x.yaml", "deeper"),
        (b'["]", ' * 100_000, "x.yaml", "deeper"),
        (b"{a: " * 100_000, "x.yaml", "deeper"),
        (b"#" * (FILE_BYTES_MAX + 1), "x.yaml", "longer than 10 MiB"),
        ("\n".join(" " * i + "a:" for i in range(100)).encode(), "x.yaml", "deeper"),
    ],
)
def test_refused(data: bytes, name: str, words: str) -> None:
    with pytest.raises(DocumentError, match=words):
        read_documents(data, name)


def test_aliases_that_nest_count_with_their_depth() -> None:
    text = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, DEPTH_MAX + 2))
    with pytest.raises(DocumentError, match="deeper"):
        read_documents(text.encode(), "x.yaml")


def test_depth_that_is_allowed() -> None:
    depth = DEPTH_MAX - 1
    assert read_documents(b"[" * depth + b"]" * depth, "x.yaml")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for name in ("x.yaml", "x.json"):
        try:
            read_documents(data, name)
        except DocumentError:
            continue


@given(st.text(alphabet="[]{}:,-?&*a!|>'\" \n#%", max_size=80))
def test_any_punctuation_is_read_or_refused(text: str) -> None:
    try:
        read_documents(text.encode(), "x.yaml")
    except DocumentError:
        return


@pytest.mark.parametrize(
    ("data", "pieces"),
    [
        (b"", 1),
        (b"a: 1\n---\nb: 2\n--- {c: 3}\n---", 4),
        (b"a: 1\r\n---\r\nb: 2\r\n", 2),
        (b"a: |\n  x\n  ---\n  y\n", 1),  # indented: text
        (b"a: 1\n---- \n", 1),
        (b"a: 1\n-----BEGIN\n---\nb: 2\n", 1),  # not certain: read as a whole
        (b"%YAML 1.1\n---\na: 1\n---\nb: 2\n", 1),
        (b"a: 1\n...\n---\nb: 2\n", 1),
    ],
)
def test_pieces(data: bytes, pieces: int) -> None:
    assert len(split(data, "x.yaml")) == pieces


@given(st.text(alphabet="ab:- \n|>'\"#%.[]{}", max_size=60))
def test_pieces_mean_what_the_whole_means(text: str) -> None:
    data = text.encode()
    try:
        whole = [one for one in yaml.load_all(data, yaml.CSafeLoader) if one is not None]
    except (yaml.YAMLError, ValueError):
        return
    assert read_documents(data, "x.yaml") == whole


def test_lines_are_those_of_the_file() -> None:
    with pytest.raises(DocumentError, match="at line 6, column"):
        read_documents(b"a: 1\n---\nb: 2\n---\nc: [\n---\nd: 4\n", "x.yaml")


def test_too_many_documents() -> None:
    with pytest.raises(DocumentError, match="more than 100000 documents"):
        split(b"a\n---\n" * 1_000_000, "x.yaml")
