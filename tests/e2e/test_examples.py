"""manifests/examples are what a newcomer tries first: they must be right, and say what they say."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.e2e.lab import ROOT
from tests.e2e.running import EDGE

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "manifests" / "examples"


# Folders beside the examples are other configurations, and one has permissions, too: `edge check` says so.
BESIDE = {("File/demo", "Folder"), ("File/class", "Folder"), ("File/class.yaml", "UnknownKind")}


@pytest.mark.parametrize("name", ["", "demo", "class"])
def test_examples_have_no_diagnostic(name: str) -> None:
    done = subprocess.run([EDGE, "check", str(EXAMPLES / name), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)["diagnostics"]
    assert not [one for one in found if (one["object"], one["reason"]) not in BESIDE]


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("http://shop.example.com/cart/42", "cart"),
        ("http://shop.example.com/cartoon", "web"),
        ("http://a.shop.example.com/healthz", "web"),
        ("https://pay.example.com/", "web"),
    ],
)
def test_explain_names_the_service(url: str, service: str) -> None:
    words = [EDGE, "explain", "GET", url, "--config", str(EXAMPLES)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert service in done.stdout, done.stdout
