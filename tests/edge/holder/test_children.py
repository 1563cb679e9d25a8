"""What a child may know of its holder's environment."""

from __future__ import annotations

import pytest

from edge.holder.children import clean_environment


def test_a_child_knows_where_the_api_server_is_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Pod the kubelet says it by two variables; a controller without them ended at once."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "198.18.96.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("A_PASSWORD", "secret")
    made = clean_environment({"EDGE_KUBERNETES": "1"})
    assert made["KUBERNETES_SERVICE_HOST"] == "198.18.96.1" and made["KUBERNETES_SERVICE_PORT"] == "443"
    assert made["EDGE_KUBERNETES"] == "1" and "A_PASSWORD" not in made
