"""manifests/examples are what a newcomer tries first: they must be right, and say what they say."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.e2e.lab import ROOT
from tests.e2e.running import EDGE

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "manifests" / "examples"


@pytest.mark.parametrize("folder", [EXAMPLES, EXAMPLES / "demo"], ids=["examples", "demo"])
def test_examples_have_no_diagnostic(folder: object) -> None:
    done = subprocess.run([EDGE, "check", str(folder), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # The folder demo/ beside the examples is another configuration, and `edge check` says so.
    found = json.loads(done.stdout)["diagnostics"]
    assert not [one for one in found if (one["object"], one["reason"]) != ("File/demo", "Folder")]


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
