"""What the table of failures takes for proof, without a Kubernetes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.kube import failures
from tests.kube.failures import Failures, Row
from tests.kube.steady import Steady


class StubFailures(Failures):
    """Nothing to break, one node, and every change is served at once."""

    def __init__(self) -> None:
        node = SimpleNamespace(name="n1", address="127.0.0.1")
        kube = SimpleNamespace(nodes=[node], on=lambda _role: contextlib.nullcontext())
        super().__init__(cast(Any, kube), cast(Any, None))

    def takes_changes(self) -> float:
        return 0.0

    def troubles(self, node: object) -> dict[str, float]:
        return {}


@pytest.fixture(autouse=True)
def _own_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    rows: list[Row] = []
    monkeypatch.setattr(Failures, "rows", rows)
    yield


def test_a_story_that_is_over_at_once_is_asked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Steady, "ask_once", lambda _self, _node: "")
    with StubFailures()("nothing"):
        pass
    assert int(Failures.rows[0].clients.split()[2]) >= 20


def test_clients_that_ask_nothing_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "ASKED_S", 0.05, raising=False)
    monkeypatch.setattr(Steady, "ask", lambda _self, _node: None)
    with pytest.raises(AssertionError, match="clients ask"), StubFailures()("nothing"):
        pass
