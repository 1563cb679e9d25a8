"""Certificates where the source is lost: over a controller's death, and over a stop with and without keys.

Stories on loopback.
"""

from __future__ import annotations

import datetime
import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.proxy.processes import free_port
from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod
from tests.e2e.test_refused import certificate_of, secret

pytestmark = pytest.mark.slow

HOST = "a.example"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with pod("web") as number:
        yield number


class Story:
    """A folder with one TLS host, and instances of one name beside it."""

    def __init__(self, tmp_path: Path, port: int) -> None:
        self.folder = tmp_path
        self.config = tmp_path / "config"
        self.config.mkdir()
        self.chain, self.key = certificate(HOST)
        write(self.config, "secret.yaml", secret(self.chain, self.key))
        secured = ingress("a", [(HOST, "/", "web")])
        secured["spec"]["tls"] = [{"hosts": [HOST], "secretName": "cert"}]
        write(self.config, "objects.yaml", service("web"), endpoints("web", port), secured)
        self.tls = free_port()

    def instance(self, **options: object) -> Running:
        return Running(
            self.folder,
            self.config,
            **{"instance": "kept", "workers": 1, "https": f"127.0.0.1:{self.tls}", **options},  # type: ignore[arg-type]
        )

    def shown(self, name: str = HOST) -> bytes:
        return certificate_of("127.0.0.1", self.tls, name)


@pytest.fixture
def story(tmp_path: Path, port: int) -> Story:
    return Story(tmp_path, port)


def certificate(name: str) -> tuple[bytes, bytes]:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(365)).sign(key, hashes.SHA256())
    )  # fmt: skip
    kind = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())
    return made.public_bytes(serialization.Encoding.PEM), pem


def written(edge: Running) -> None:
    wait_for("the state is written", lambda: edge.metrics()["edge_state_current"] == 1)


def kill_controller(edge: Running) -> None:
    old, before = edge.pid("edge-controller"), int(edge.holder()["committed"])
    os.kill(old, signal.SIGKILL)
    wait_for("another controller", lambda: edge.ready() and edge.pid("edge-controller") != old)
    wait_for("it has published", lambda: int(edge.holder()["committed"]) > before)


def on_disk(edge: Running) -> bytes:
    return b"".join(path.read_bytes() for path in edge.state.iterdir())


def der(chain: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(chain.decode())


def test_a_controllers_death_changes_no_certificate(story: Story) -> None:
    with story.instance() as edge:
        wait_for("shown", lambda: story.shown() == der(story.chain))
        default = story.shown("nobody.example")
        written(edge)
        kill_controller(edge)
        assert story.shown("nobody.example") == default
        away = story.config.rename(story.folder / "away")
        kill_controller(edge)
        assert story.shown() == der(story.chain) and story.shown("nobody.example") == default
        assert story.key not in on_disk(edge)
        away.rename(story.config)
        (story.config / "secret.yaml").write_text("broken: [")
        kill_controller(edge)
        assert story.shown() == der(story.chain)


def test_keys_that_may_be_kept_are(story: Story) -> None:
    with story.instance(state_secrets=True) as edge:
        wait_for("shown", lambda: story.shown() == der(story.chain))
        default = story.shown("nobody.example")
        written(edge)
        assert edge.stop() == 0
    holders = [path for path in edge.state.iterdir() if b"PRIVATE KEY" in path.read_bytes()]
    assert {path.name for path in holders} == {"secrets.jsonl", "default.pem"}
    assert {path.stat().st_mode & 0o777 for path in holders} == {0o600}
    story.config.rename(story.folder / "away")
    with story.instance(state_secrets=True) as edge:
        assert story.shown() == der(story.chain) and story.shown("nobody.example") == default
        assert edge.served(HOST) == 308
        written(edge)
        assert edge.stop() == 0
    with story.instance() as edge:
        written(edge)
        assert "--state-secrets is not given: removed" in edge.lines()
        assert b"PRIVATE KEY" not in on_disk(edge)


def alert(story: Story, name: str) -> str:
    """Shape: the word that a refused handshake ends with; "" for one that is answered."""
    try:
        story.shown(name)
    except ssl.SSLError as error:
        return error.reason or "?"
    return ""


def test_a_host_without_its_key_waits_and_shows_no_other_certificate(story: Story) -> None:
    with story.instance() as edge:
        wait_for("shown", lambda: story.shown() == der(story.chain))
        written(edge)
        assert edge.stop() == 0
    away = story.config.rename(story.folder / "away")
    with story.instance() as edge:
        assert alert(story, HOST) == "TLSV1_UNRECOGNIZED_NAME"
        assert alert(story, "nobody.example") == "", "others get the default certificate"
        assert edge.served(HOST) == 308, "and encryption is not turned off"
        found = edge.admin_json("/diagnostics")["diagnostics"]
        assert [(one["object"], one["reason"]) for one in found] == [
            ("File", "Unreadable"),
            ("Secret/default/cert", "KeyWithheld"),
        ]
        kill_controller(edge)
        assert alert(story, HOST) == "TLSV1_UNRECOGNIZED_NAME"
        away.rename(story.config)
        wait_for("the source is back", lambda: not alert(story, HOST))
        assert story.shown() == der(story.chain)
        wait_for("nothing is wrong", lambda: edge.admin_json("/diagnostics")["diagnostics"] == [])
