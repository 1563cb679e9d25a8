"""The table of reasons is whole: every code that the source writes stands in it, with its level."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from edge.model.reasons import REASONS

EDGE = Path(__file__).parents[3] / "edge"
PLACE = {"error": 2, "warning": 2, "Problem": 1, "Diagnostic": 2, "_finding": 1, "_complain": 0}
# What edge/controller/keeper.py says of the state folder, and of a folder that lost its objects.
STATE = {"NotWritten", "NotKept", "Older", "Unusable", "SourceEmpty"}


@functools.cache
def written() -> frozenset[tuple[str, str]]:
    return frozenset(_written())


def _written() -> Iterator[tuple[str, str]]:
    """Reason and level ("" where the call does not say it) of every finding in the source."""
    for path in EDGE.rglob("*.py"):
        if path.name == "keeper.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            place = PLACE.get(name)
            if place is None or len(node.args) <= place:
                continue
            for one in ast.walk(node.args[place]):
                if isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value.isalnum():
                    yield one.value, name if name in ("error", "warning") else ""


def test_every_code_is_explained_and_none_is_left_over() -> None:
    # `InvalidType` and others are chosen before the call that takes them.
    chosen = {"InvalidType", "UnknownField", "InvalidValue"}
    assert {reason for reason, _ in written()} | chosen | STATE == set(REASONS)


def test_levels_are_those_of_the_calls() -> None:
    wrong = {(reason, level) for reason, level in written() if level and REASONS[reason].level != level}
    assert wrong == set()


def test_every_reason_says_what_to_do() -> None:
    for code, reason in REASONS.items():
        for text in (reason.meaning, reason.effect, reason.advice):
            assert text and not text.endswith("."), code
