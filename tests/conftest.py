"""What all tests share: capability checks. A missing capability fails, it does not skip."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need root say so at once where there is none, instead of failing one by one."""
    if os.getuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.usefixtures("needs_root"))


@pytest.fixture
def needs_root() -> None:
    """Fail with the one reason: green must not mean "not run"."""
    pytest.fail("needs root: run `make test` as root, or `make` for what runs without", pytrace=False)
