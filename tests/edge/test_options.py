"""Options: what is refused, by name, and the EDGE_* variables that mirror them."""

from __future__ import annotations

import dataclasses
import re

import pytest
from typer.testing import CliRunner

from edge.cli.main import app, merged
from edge.cli.run import check_options
from edge.errors import OptionError
from edge.options import Options, parse_address

FULL = Options(
    config="/c",
    http=("127.0.0.1:80", "[::1]:80"),
    https=("127.0.0.1:443",),
    admin="[::1]:9",
    workers=3,
    interface=("a", "b"),
    xdp="generic",
    log_format="json",
    access_log="off",
    loop="epoll",
    instance="one-2_3",
    run_dir="/r",
    state_dir="/s",
    user="u",
    ingress_class="k",
    grace_period=1.5,
    drain_delay=0.5,
    take_over=True,
    state_secrets=True,
    accept_empty=True,
    watch_ingress_without_class=True,
    zone="z",
    default_backend="n/s:80",
    resolver="127.0.0.1:53",
    external_allow=("127.0.0.0/8",),
    kubernetes=True,
    kubeconfig="/k",
    watch_namespace=("a", "b"),
    watch_selector="a=b",
    controller_class="c",
    configmap="n/c",
    node_name="n",
    pod_name="p",
    pod_namespace="m",
    election_lease="l",
    update_status=False,
    publish_service="n/s",
    publish_status_address=("198.18.0.1", "edge.test"),
    webhook="0.0.0.0:9443",
    webhook_service="w",
    webhook_client_ca="/ca",
)


def test_environment_and_back() -> None:
    default = Options()
    for field in dataclasses.fields(Options):
        assert getattr(FULL, field.name) != getattr(default, field.name), f"{field.name}: not covered here"
    assert Options.from_environment(FULL.to_environment()) == FULL


def test_every_option_stands_in_the_help_with_its_variable() -> None:
    result = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"})
    for field in dataclasses.fields(Options):
        assert f"--{field.name.replace('_', '-')} " in result.output
        assert f"[EDGE_{field.name.upper()}]" in re.sub(r"\s+", "", result.output)


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_WORKERS", "5")
    monkeypatch.setenv("EDGE_HTTP", "127.0.0.1:1")
    monkeypatch.setenv("EDGE_STATE_SECRETS", "1")
    found = merged({"workers": None, "http": ["127.0.0.1:2", "127.0.0.1:3"], "state_secrets": None})
    assert (found.workers, found.http, found.state_secrets) == (5, ("127.0.0.1:2", "127.0.0.1:3"), True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("http", ("localhost:80",)),
        ("https", ("127.0.0.1",)),
        ("admin", "127.0.0.1:65536"),
        ("workers", 65),
        ("workers", -1),
        ("xdp", "yes"),
        ("log_format", "xml"),
        ("loop", "select"),
        ("grace_period", -1.0),
        ("grace_period", float("nan")),
        ("grace_period", float("inf")),
        ("drain_delay", -1.0),
        ("drain_delay", float("nan")),
        ("drain_delay", 1e9),
        ("instance", ""),
        ("instance", ".."),
        ("instance", "a.b"),
        ("instance", "a/b"),
        ("instance", "a b"),
        ("instance", "x" * 64),
        ("ingress_class", ""),
        ("resolver", "dns.test:53"),
        ("external_allow", ("127.0.0.1/8",)),
        ("default_backend", "name:80"),
        ("default_backend", "a/b"),
        ("default_backend", "a/b:0"),
        ("default_backend", "a/b/c:80"),
        ("watch_namespace", ("a.b",)),
        ("configmap", "name-alone"),
        ("publish_service", "a/b/c"),
        ("pod_namespace", "A"),
        ("node_name", "n/1"),
        ("election_lease", ""),
        ("webhook_service", ""),
        ("controller_class", ""),
        ("publish_status_address", ("a b",)),
        ("webhook", "9443"),
    ],
)
def test_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"^--{name.replace('_', '-')}: "):
        dataclasses.replace(Options(), **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "text"), [("EDGE_WORKERS", "two"), ("EDGE_TAKE_OVER", "maybe")])
def test_refused_by_variable(name: str, text: str) -> None:
    with pytest.raises(OptionError, match=name):
        Options.from_environment({name: text})


def test_addresses() -> None:
    assert parse_address("[::]:443", "--https") == ("::", 443)
    assert parse_address("0.0.0.0:80", "--http") == ("0.0.0.0", 80)
    for text in ("::1:80", "[127.0.0.1", "127.0.0.1:", ":80", "127.0.0.1:-1", ""):
        with pytest.raises(OptionError, match="--http"):
            parse_address(text, "--http")


def test_one_source_alone() -> None:
    one = Options(http=("127.0.0.1:80",))
    check_options(dataclasses.replace(one, kubernetes=True))
    check_options(dataclasses.replace(one, kubeconfig="/k", webhook="0.0.0.0:9443"))
    for wrong in (
        one,
        dataclasses.replace(one, config="/c", kubernetes=True),
        dataclasses.replace(one, config="/c", kubeconfig="/k"),
    ):
        with pytest.raises(OptionError, match="^--config: "):
            check_options(wrong)
    with pytest.raises(OptionError, match="^--webhook: "):
        check_options(dataclasses.replace(one, config="/c", webhook="0.0.0.0:9443"))
