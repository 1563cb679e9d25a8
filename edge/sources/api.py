"""The API server over HTTP: who we are to it, requests, and streams of lines; JSON bytes in and out.

The only importer of the `kubernetes` package: its configuration (of a Pod, or by a kubeconfig), its
credentials and its transport. Its models are not used, nor imported (note 0009). Called by kubernetes.py and
by the controller's tasks, from threads: every call blocks. Nothing is tried again here but what an expired
token asks for. A token is never in a message.

    api = Api.of(options)
    listing = api.request("GET", "/api/v1/services", query={"limit": "500"})
    with api.stream("/api/v1/services", {"watch": "true"}) as lines:
        for line in lines: ...
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import msgspec
import urllib3
import yaml
from kubernetes.client.configuration import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import InClusterConfigLoader
from kubernetes.config.kube_config import load_kube_config

from edge.errors import ApiError, SourceError
from edge.options import Options

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # in every Pod: token, ca.crt, namespace
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
CONNECT_S = 5.0
REQUEST_S = 15.0
# Bookmarks come every minute: a stream that is silent for longer is dead.
SILENT_S = 150.0
# A server that was cut off without a word is given up after 25 s; the package's own options take 110 s.
SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
LINE_BYTES_MAX = 32 << 20
REASON_UNREACHABLE = "Unreachable"

_UNUSABLE = (ConfigException, OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError)
_TOKEN = "BearerToken"  # the package's word for what stands in Authorization


# It warns of each connection beyond those that it keeps for another request.
logging.getLogger("urllib3").setLevel(logging.ERROR)


class _Details(msgspec.Struct, frozen=True, rename="camel"):
    retry_after_seconds: int = 0


class _Status(msgspec.Struct, frozen=True):
    """The Status object that an API server answers with where something is wrong."""

    reason: str | None = None
    message: str | None = None
    code: int | None = None
    details: _Details | None = None


_read_status = msgspec.json.Decoder(_Status).decode


def status_error(raw: bytes, code: int = 0, retry_after: float = 0.0, reason: str = "") -> ApiError:
    """Shape: the error that a Status object speaks of; of other bytes only the code is known."""
    try:
        status = _read_status(raw)
    except msgspec.DecodeError:
        status = _Status()
    wait = retry_after or float(status.details.retry_after_seconds if status.details else 0)
    message = " ".join((status.message or raw[:200].decode("utf-8", "replace")).split())[:500]
    return ApiError(status.code or code, status.reason or reason, message, wait)


@dataclass(frozen=True, slots=True)
class _Access:
    """One reading of the configuration, with the connections that were made by it."""

    configuration: Any
    client: Any
    files: tuple[tuple[str, tuple[int, int, int] | None], ...]


class Api:
    """``describe``: where the configuration stands; ``namespace``: our own, "" where nothing says it."""

    def __init__(
        self, read: Callable[[], tuple[Any, tuple[str, ...]]], describe: str, namespace: str = ""
    ) -> None:
        self._read = read
        self.describe = describe
        self.namespace = namespace
        self._lock = threading.Lock()
        self._access: _Access | None = None

    @classmethod
    def of(cls, options: Options) -> Api:
        """Errors: SourceError where there is no configuration."""
        if options.kubeconfig:
            return cls.by_kubeconfig(options.kubeconfig, options.pod_namespace)
        return cls.of_pod(ACCOUNT, options.pod_namespace)

    @classmethod
    def of_pod(cls, account: Path, namespace: str = "") -> Api:
        """Use what every Pod has: address in the environment, token and authority in a folder."""
        token, authority = str(account / "token"), str(account / "ca.crt")

        def read() -> tuple[Any, tuple[str, ...]]:
            configuration = Configuration()
            loader = InClusterConfigLoader(token, authority, try_refresh_token=False)
            loader.load_and_set(configuration)
            return configuration, (token, authority)

        if not namespace:
            with suppress(OSError):
                namespace = (account / "namespace").read_text().strip()
        return cls._open(cls(read, "the configuration of a Pod", namespace))

    @classmethod
    def by_kubeconfig(cls, file: str, namespace: str = "") -> Api:
        """Use the current context of a file."""

        def read() -> tuple[Any, tuple[str, ...]]:
            configuration = Configuration()
            load_kube_config(config_file=file, client_configuration=configuration, persist_config=False)
            named = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
            return configuration, (file, *(one for one in named if one))

        return cls._open(cls(read, f"--kubeconfig {file}", namespace))

    @classmethod
    def _open(cls, api: Api) -> Api:
        try:
            api._renew(None)
        except ApiError as error:
            raise SourceError(error.message) from error
        return api

    def close(self) -> None:
        """Close the connections that wait for another request; streams are closed by who reads them."""
        with self._lock:
            if self._access is not None:
                self._access.client.close()
                self._access = None

    # ---- requests ------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
        timeout: float = REQUEST_S,
    ) -> bytes:
        """Ask once, twice where the credentials were too old. Errors: ApiError."""
        answer = self._ask(method, path, query, body, content_type, (min(CONNECT_S, timeout), timeout))
        try:
            return bytes(answer.data)
        except urllib3.exceptions.HTTPError as error:
            raise _unreachable(error) from error
        finally:
            answer.release_conn()

    def stream(self, path: str, query: Mapping[str, str], silent: float = SILENT_S) -> Stream:
        """Begin to read lines. ``silent``: seconds without a byte after which it is given up.

        Errors: ApiError, here and while it is read.
        """
        return Stream(self._ask("GET", path, query, None, JSON, (CONNECT_S, silent)))

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
        timeout: tuple[float, float],
    ) -> urllib3.BaseHTTPResponse:
        access = self._current()
        answer = _send(access, method, path, query, body, content_type, timeout)
        if answer.status == 401:
            answer.close()
            access = self._renew(access)
            answer = _send(access, method, path, query, body, content_type, timeout)
        if answer.status < 300:
            return answer
        try:
            raw = answer.data
        except urllib3.exceptions.HTTPError as error:
            raise _unreachable(error) from error
        finally:
            answer.close()
        wait = answer.headers.get("Retry-After", "")
        raise status_error(
            raw, answer.status, float(wait) if wait.isdigit() else 0.0, answer.reason or str(answer.status)
        )

    # ---- credentials ---------------------------------------------------------------------

    def _current(self) -> _Access:
        access = self._access
        if access is None or any(_signature(path) != known for path, known in access.files):
            return self._renew(access)
        return access

    def _renew(self, old: _Access | None) -> _Access:
        """Read the configuration again, unless another thread just did."""
        with self._lock:
            if self._access is not None and self._access is not old:
                return self._access
            # Before they are read: a file that is replaced meanwhile must be read again.
            signatures = {path: _signature(path) for path, _ in (old.files if old is not None else ())}
            try:
                configuration, paths = self._read()
                configuration.retries = False
                configuration.socket_options = SOCKET_OPTIONS
                client = RESTClientObject(configuration)
            except _UNUSABLE as error:
                if old is not None and self._access is not None:
                    return old  # half written: what we have may still do
                text = f"{self.describe} cannot be used: {' '.join(str(error).split())}"
                raise ApiError(0, "Configuration", text) from error
            files = tuple((path, signatures.get(path) or _signature(path)) for path in paths)
            self._access = _Access(configuration, client, files)
            return self._access


class Stream:
    """An answer as lines. `close` may be called from another thread: the reader then ends."""

    def __init__(self, answer: urllib3.BaseHTTPResponse) -> None:
        self._answer = answer
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        """Give whole lines as they come, without their ends. Errors: ApiError."""
        held: list[bytes] = []
        size = 0
        try:
            for chunk in self._answer.stream(None, decode_content=False):
                *lines, rest = chunk.split(b"\n")
                if lines:
                    lines[0] = b"".join((*held, lines[0]))
                    held, size = [], 0
                    yield from filter(None, lines)
                if rest:
                    held.append(rest)
                    size += len(rest)
                    if size > LINE_BYTES_MAX:
                        raise ApiError(0, "TooLong", f"a line of over {LINE_BYTES_MAX >> 20} MiB")
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if not self._closed:
                raise _unreachable(error) from error

    def close(self) -> None:
        """End the stream; never blocks."""
        self._closed = True
        with suppress(OSError, ValueError, RuntimeError):  # RuntimeError: it was read to its end
            self._answer.shutdown()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close for good; by the thread that read."""
        self.close()
        self._answer.close()


def _send(
    access: _Access,
    method: str,
    path: str,
    query: Mapping[str, str] | None,
    body: bytes | None,
    content_type: str,
    timeout: tuple[float, float],
) -> urllib3.BaseHTTPResponse:
    """Send and read the head. Errors: ApiError with status 0."""
    configuration = access.configuration
    headers = {"Accept": JSON, "User-Agent": "xdp-edge"}
    try:
        token = configuration.get_api_key_with_prefix(_TOKEN)
        if token:
            headers["Authorization"] = token
        if body is not None:
            headers["Content-Type"] = content_type
        url = configuration.host + path + (f"?{urlencode(query)}" if query else "")
        answer: urllib3.BaseHTTPResponse = access.client.pool_manager.request(
            method,
            url,
            body=body,
            headers=headers,
            timeout=urllib3.Timeout(connect=timeout[0], read=timeout[1]),
            preload_content=False,
            redirect=False,
        )
    except (urllib3.exceptions.HTTPError, ConfigException, OSError) as error:
        raise _unreachable(error) from error
    return answer


def _unreachable(error: Exception) -> ApiError:
    cause: BaseException = error
    while isinstance(cause, urllib3.exceptions.MaxRetryError) and cause.reason is not None:
        cause = cause.reason
    known = cause.args[0] if isinstance(cause, urllib3.exceptions.SSLError) else cause.__cause__ or cause
    if isinstance(known, ssl.SSLCertVerificationError):
        text = f"its certificate is not accepted: {known.verify_message}"
    elif isinstance(known, OSError) and known.strerror:
        text = known.strerror
    else:  # what urllib3 raises holds connections, too, each with another address in memory
        words = [one for one in cause.args if isinstance(one, str)]
        text = words[-1] if words else type(cause).__name__
    return ApiError(0, REASON_UNREACHABLE, " ".join(text.split())[:300])


def _signature(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
