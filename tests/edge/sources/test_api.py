"""The API server over HTTP: credentials that change, errors that say what is wrong, streams that end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from edge.errors import ApiError, SourceError
from edge.sources import api as api_module
from edge.sources.api import MERGE_PATCH, Api
from tests.fakes.apiserver import ApiServer

SERVICES = "/api/v1/services"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as found:
        yield found


@pytest.fixture
def api(server: ApiServer, tmp_path: Path) -> Iterator[Api]:
    found = Api.by_kubeconfig(server.kubeconfig(tmp_path))
    yield found
    found.close()


def service(name: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {}}


def test_pages(server: ApiServer, api: Api) -> None:
    for number in range(5):
        server.put(service(f"s{number}"))
    names, query = [], {"limit": "2"}
    while True:
        found = json.loads(api.request("GET", SERVICES, query=query))
        names += [one["metadata"]["name"] for one in found["items"]]
        if "continue" not in found["metadata"]:
            break
        query["continue"] = found["metadata"]["continue"]
    assert names == [f"s{number}" for number in range(5)]
    assert len(server.requests) == 3


def test_a_watch_gives_whole_lines_and_ends_when_it_is_closed(server: ApiServer, api: Api) -> None:
    server.put(service("a"))
    query = {"watch": "true", "allowWatchBookmarks": "true"}
    with api.stream(SERVICES, query) as lines:
        found = iter(lines)
        first = json.loads(next(found))
        assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", "a")
        server.put(service("b"))
        assert json.loads(next(found))["object"]["metadata"]["name"] == "b"
        server.bookmark()
        assert json.loads(next(found))["type"] == "BOOKMARK"
        closer = threading.Timer(0.05, lines.close)
        closer.start()
        assert list(found) == []
        closer.join()


def test_a_stream_that_breaks_off_is_an_error_or_an_end_and_no_half_line(server: ApiServer, api: Api) -> None:
    server.put(service("a"))
    with api.stream(SERVICES, {"watch": "true"}) as lines:
        found = iter(lines)
        next(found)
        server.cut_watches()
        with pytest.raises(ApiError, match="Unreachable"):
            list(found)


def test_writing(server: ApiServer, api: Api) -> None:
    made = json.loads(
        api.request("POST", "/api/v1/namespaces/n/services", body=json.dumps(service("a")).encode())
    )
    path = "/api/v1/namespaces/n/services/a"
    body = json.dumps({"status": {"x": 1}, "metadata": {"resourceVersion": "1"}}).encode()
    with pytest.raises(ApiError) as conflict:
        api.request("PATCH", f"{path}/status", body=body, content_type=MERGE_PATCH)
    assert (conflict.value.status, conflict.value.reason) == (409, "Conflict")
    version = made["metadata"]["resourceVersion"]
    body = json.dumps({"status": {"x": 1}, "metadata": {"resourceVersion": version}}).encode()
    api.request("PATCH", f"{path}/status", body=body, content_type=MERGE_PATCH)
    stored = server.get("Service", "n", "a")
    assert stored is not None and stored["status"] == {"x": 1}
    api.request("DELETE", path)
    with pytest.raises(ApiError) as gone:
        api.request("GET", path)
    assert gone.value.status == 404


def test_errors_carry_what_the_server_says(server: ApiServer, api: Api) -> None:
    server.forbid("list", "secrets")
    with pytest.raises(ApiError, match="cannot list resource") as found:
        api.request("GET", "/api/v1/secrets")
    assert (found.value.status, found.value.reason) == (403, "Forbidden")
    server.fail(429, reason="TooManyRequests", retry_after=7)
    with pytest.raises(ApiError) as found:
        api.request("GET", SERVICES)
    assert (found.value.status, found.value.retry_after) == (429, 7.0)
    server.fail(cut=True)
    with pytest.raises(ApiError) as found:
        api.request("GET", SERVICES)
    assert found.value.status == 0
    server.stop()
    with pytest.raises(ApiError, match="Connection refused") as found:
        api.request("GET", SERVICES)
    assert found.value.status == 0


def test_a_slow_answer_is_given_up(server: ApiServer, api: Api) -> None:
    server.fail(500, delay=0.5)
    with pytest.raises(ApiError, match="timed out"):
        api.request("GET", SERVICES, timeout=0.05)


def test_a_token_is_read_again_when_its_file_changes_and_when_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ApiServer(tls=True, token="first") as server:
        for name, value in server.account(tmp_path).items():
            monkeypatch.setenv(name, value)
        api = Api.of_pod(tmp_path)
        assert api.namespace == "xdp-edge"
        api.request("GET", SERVICES)
        server.tokens = {"second"}
        with pytest.raises(ApiError) as refused:
            api.request("GET", SERVICES)
        assert refused.value.status == 401
        (tmp_path / "token").write_text("second")
        api.request("GET", SERVICES)
        before = (tmp_path / "token").stat()
        server.tokens = {"third!"}  # as long, and within one tick of the file's clock: only the 401 tells
        (tmp_path / "token").write_text("third!")
        assert before.st_size == (tmp_path / "token").stat().st_size
        api.request("GET", SERVICES)
        api.close()


def test_an_authority_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ApiServer(tls=True) as server, ApiServer(tls=True) as other:
        other.account(tmp_path)
        for name, value in server.account(tmp_path).items():
            monkeypatch.setenv(name, value)
        other.account(tmp_path)
        api = Api.of_pod(tmp_path)
        with pytest.raises(ApiError, match="certificate is not accepted"):
            api.request("GET", SERVICES)
        api.close()


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(server.kubeconfig(tmp_path))
    right = file.read_text()
    wrong = right.replace(server.url, "http://127.0.0.1:1/")  # nobody listens there
    load: Any = vars(api_module)["load_kube_config"]

    def load_slowly(**options: Any) -> None:
        load(**options)
        if file.read_text() != right:
            file.write_text(right)

    monkeypatch.setattr(api_module, "load_kube_config", load_slowly)
    api = Api.by_kubeconfig(str(file))
    api.request("GET", SERVICES)
    file.write_text(wrong)
    with pytest.raises(ApiError, match="refused"):
        api.request("GET", SERVICES)
    api.request("GET", SERVICES)
    api.close()


def test_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SourceError, match="configuration of a Pod"):
        Api.of_pod(tmp_path)
    with pytest.raises(SourceError, match="--kubeconfig .*nothing"):
        Api.by_kubeconfig(str(tmp_path / "nothing"))
    (tmp_path / "broken").write_text("{")
    with pytest.raises(SourceError, match="--kubeconfig .*broken"):
        Api.by_kubeconfig(str(tmp_path / "broken"))


def test_a_finding_is_the_same_at_each_attempt() -> None:
    timed_out = "Connection to 198.18.0.1 timed out. (connect timeout=5.0)"
    error = urllib3.exceptions.ConnectTimeoutError(urllib3.connection.HTTPConnection("198.18.0.1"), timed_out)
    wrapped = urllib3.exceptions.MaxRetryError(urllib3.HTTPConnectionPool("198.18.0.1"), "/", error)
    assert str(api_module._unreachable(wrapped)) == f"Unreachable: {timed_out}"
    assert str(api_module._unreachable(TimeoutError())) == "Unreachable: TimeoutError"
