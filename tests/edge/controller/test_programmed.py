"""Which digest holds which policy: a node that is behind, one that is ahead, contents that come back."""

from __future__ import annotations

from edge.controller.programmed import HISTORY_MAX, Versions


def test_a_digest_from_the_first_that_held_it_will_do() -> None:
    versions = Versions()
    versions.published("aa")
    versions.holds("p", "u", 1)
    versions.published("bb")
    versions.published("cc")
    versions.holds("p", "u", 2)
    versions.published("dd")
    assert not versions.served("p", "u", 2, "aa") and not versions.served("p", "u", 2, "bb")
    assert versions.served("p", "u", 2, "cc") and versions.served("p", "u", 2, "dd")
    assert not versions.served("p", "u", 2, "ee"), "what a node has that we never had"
    assert not versions.served("p", "u", 1, "dd"), "what is known is of another generation"
    assert not versions.served("p", "other", 2, "dd") and not versions.served("p", "u", 2, "")


def test_a_change_that_changes_nothing_is_served_at_once() -> None:
    versions = Versions()
    versions.published("aa")
    versions.holds("p", "u", 1)
    versions.published("aa")
    versions.holds("p", "u", 2)
    assert versions.served("p", "u", 2, "aa")


def test_contents_that_come_back_are_the_same_contents() -> None:
    versions = Versions()
    for digest in ("aa", "bb", "aa"):
        versions.published(digest)
    versions.holds("p", "u", 3)
    assert versions.served("p", "u", 3, "aa")


def test_it_forgets() -> None:
    versions = Versions()
    versions.published("first")
    versions.holds("p", "u", 1)
    for number in range(HISTORY_MAX):
        versions.published(f"{number}")
    assert not versions.served("p", "u", 1, "first") and versions.served("p", "u", 1, "7")
    versions.gone("p")
    assert not versions.served("p", "u", 1, "7")
