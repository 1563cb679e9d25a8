"""The code calls the API server as the table in access.py says: a call more, or less, is a change there."""

from __future__ import annotations

import ast

from tests.manifests.access import CALLS, FOLLOWED
from tests.manifests.written import ROOT

METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}


def requests(path: str) -> list[str]:
    """The methods that a file's requests name."""
    found = []
    for node in ast.walk(ast.parse((ROOT / "edge" / path).read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        if node.func.attr in ("request", "_write"):
            words = [item.value for item in ast.walk(node.args[0]) if isinstance(item, ast.Constant)]
            found += [word for word in words if word in METHODS]
    return sorted(found)


def test_the_code_makes_the_requests_of_the_table() -> None:
    files = {
        path.relative_to(ROOT / "edge").as_posix()
        for folder in ("admission", "controller", "sources")
        for path in (ROOT / "edge" / folder).glob("*.py")
    }
    assert {path: made for path in sorted(files) if (made := requests(path))} == CALLS


def test_the_code_follows_the_resources_of_the_table() -> None:
    for path, wanted in FOLLOWED.items():
        tree = ast.parse((ROOT / "edge" / path).read_text())
        taken = {
            name.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "edge.sources.objects"
            for name in node.names
            if name.name.isupper()
        }
        assert taken == wanted, path
