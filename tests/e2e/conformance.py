"""The 25 scenarios of ingress-controller-conformance as black-box checks, from the golden cases.

Used on a folder (tests/e2e/test_conformance.py) and on a real Kubernetes (tests/kube/test_conformance.py).
Who serves is the business of the two; here is what must come back. Each Pod answers as the suite's echo
server does: JSON with the request as it saw it, its Service and its own name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.fakes.client import Response

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = sorted(path.parent for path in GOLDEN.glob("conformance-*/requests.yaml"))
AGENT = "Conformance/1.1"
SCENARIOS = {  # requests of each; outlines count once for each example, one of path-rules stands twice
    "conformance-default-backend": 6,
    "conformance-host-rules": 6,
    "conformance-ingress-class": 1,
    "conformance-load-balancing": 1,
    "conformance-path-rules": 15,
}

# Shape: of scheme, host, path, method, headers.
Ask = Callable[[str, str, str, str, dict[str, str]], Response]


def objects_of(case: Path) -> list[dict[str, Any]]:
    """Return the objects of a case."""
    return [one for one in yaml.load_all((case / "in.yaml").read_text(), yaml.CSafeLoader) if one]


def requests_of(case: Path) -> dict[str, str]:
    """Return what is asked, as `METHOD URL`, and what must answer: a Service, or a status."""
    return {
        request: str(answer)
        for request, answer in yaml.safe_load((case / "requests.yaml").read_text()).items()
    }


def split(request: str) -> tuple[str, str, str, str]:
    """Shape: scheme, host, path, method."""
    method, _, url = request.partition(" ")
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return scheme, host, slash + path, method


def check(case: Path, ask: Ask) -> None:
    """Ask all that a case asks. Errors: AssertionError that names the request."""
    for request, wanted in requests_of(case).items():
        scheme, host, path, method = split(request)
        response = ask(scheme, host, path, method, {"User-Agent": AGENT})
        if wanted.isdigit():
            assert response.status == int(wanted), (request, response)
            continue
        assert response.status == 200, (request, response)
        told = json.loads(response.body)
        assert told["service"] == wanted.partition("/")[2].partition(":")[0], (request, told)
        assert (told["method"], told["path"], told["host"]) == (method, path, host)
        assert told["headers"]["User-Agent"] == [AGENT]
        assert {"content-length", "content-type", "date", "server"} <= response.headers.keys()
    if case.name == "conformance-load-balancing":
        answers = [ask("http", "load-balancing", "/", "GET", {}) for _ in range(100)]
        assert len({json.loads(one.body)["pod"] for one in answers}) == 10
