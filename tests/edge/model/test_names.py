"""Hosts and paths: normal forms and what is refused."""

from __future__ import annotations

import pytest

from edge.model.names import PATH_BYTES_MAX, covers, host_of, path_of, path_problem


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("a.test", "a.test"),
        ("A.Test.", "a.test"),
        ("*.a.test", ".a.test"),
        ("xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("localhost", "localhost"),
        ("1.a.test", "1.a.test"),
    ],
)
def test_hosts(written: str, host: str) -> None:
    assert host_of(written) == host


@pytest.mark.parametrize(
    "written",
    [
        "",
        ".",
        "*",
        "*.",
        "a..b",
        "a.*.b",
        "**.a",
        "-a.test",
        "a-.test",
        "192.0.2.1",
        "::1",
        "a:80",
        "ü.test",
        "a" * 64 + ".test",
        ".".join(["a" * 60] * 5),
        "a\x00b",
        "a\n",
        "İ.test",
    ],
)
def test_no_hosts(written: str) -> None:
    assert host_of(written) is None


def test_covers() -> None:
    assert covers("a.test", "a.test")
    assert covers(".a.test", "b.a.test")
    assert covers(".a.test", ".a.test")
    assert not covers(".a.test", "a.test")
    assert not covers(".a.test", "c.b.a.test")
    assert not covers(".b.a.test", ".a.test")


def test_paths() -> None:
    assert path_problem("/a-b_c~d/%20;x=1") == ""
    assert path_problem("/" + "x" * PATH_BYTES_MAX)
    assert path_of("/foo//") == "/foo"
    assert path_of("/") == "/"
