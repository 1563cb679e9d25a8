"""The command `edge`: names every subcommand and option; what they do stands in the modules beside it.

Entry point of the package. Imports a command's module only when that command runs: `edge --help` and
the holder must start quickly. Errors: one line on stderr, exit status 2.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from edge.errors import EdgeError
from edge.options import Options

app = typer.Typer(
    name="edge",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Edge proxy for Kubernetes nodes and plain Linux hosts: XDP in front, HTTP routing in C.",
)


def _option(name: str, text: str) -> Any:
    variable = "EDGE_" + name.partition("/")[0].removeprefix("--").replace("-", "_").upper()
    return typer.Option(name, help=f"{text} [{variable}]", show_default=False)


def merged(given: dict[str, Any]) -> Options:
    """Lay what the command line says over the EDGE_* variables and the defaults.

    Errors: OptionError.
    """
    from dataclasses import fields

    environment = dict(os.environ)
    for field in fields(Options):
        value = given.get(field.name)
        if value is None or value == []:
            continue
        if isinstance(value, bool):
            text = "1" if value else "0"
        elif isinstance(value, list):
            text = ",".join(value)
        else:
            text = str(value)
        environment[f"EDGE_{field.name.upper()}"] = text
    return Options.from_environment(environment)


Instance = Annotated[str | None, _option("--instance", "Name of the instance (default)")]
RunDir = Annotated[str | None, _option("--run-dir", "Folder of lock and control socket (/run/edge)")]
IngressClass = Annotated[
    str | None, _option("--ingress-class", "IngressClass to serve; several with commas (edge)")
]
WithoutClass = Annotated[
    bool | None, _option("--watch-ingress-without-class", "Serve Ingresses that name no class")
]
Zone = Annotated[str | None, _option("--zone", "Zone of this node, for topology hints (none)")]
DefaultBackend = Annotated[
    str | None,
    _option("--default-backend", "NAMESPACE/NAME:PORT of the Service for what no Ingress takes (none: 404)"),
]
ExternalAllow = Annotated[
    list[str] | None,
    _option(
        "--external-allow",
        "Network that an ExternalName may lead to although it is of this node, loopback or link; repeatable",
    ),
]
ControllerClass = Annotated[
    str | None,
    _option("--controller-class", "spec.controller of our IngressClasses (xdp-edge.dev/ingress-controller)"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON")]


@app.command()
def run(
    config: Annotated[str | None, _option("--config", "Folder of objects in YAML or JSON")] = None,
    http: Annotated[list[str] | None, _option("--http", "ADDR:PORT for HTTP; repeatable")] = None,
    https: Annotated[list[str] | None, _option("--https", "ADDR:PORT for HTTPS; repeatable")] = None,
    admin: Annotated[str | None, _option("--admin", "ADDR:PORT of the admin API (127.0.0.1:9901)")] = None,
    workers: Annotated[int | None, _option("--workers", "Worker threads (0: one a CPU)")] = None,
    interface: Annotated[
        list[str] | None,
        _option("--interface", "Where XDP attaches; 'default': where the default routes leave; repeatable"),
    ] = None,
    xdp: Annotated[str | None, _option("--xdp", "auto, native, generic or off (auto)")] = None,
    log_format: Annotated[str | None, _option("--log-format", "json or text (text)")] = None,
    access_log: Annotated[str | None, _option("--access-log", "Path, '-' for stdout, or off (-)")] = None,
    loop: Annotated[str | None, _option("--loop", "auto, uring or epoll (auto)")] = None,
    instance: Instance = None,
    run_dir: RunDir = None,
    state_dir: Annotated[
        str | None, _option("--state-dir", "Folder of what outlives a stop (/var/lib/edge)")
    ] = None,
    user: Annotated[str | None, _option("--user", "Who the data plane runs as (nobody)")] = None,
    ingress_class: IngressClass = None,
    grace_period: Annotated[
        float | None, _option("--grace-period", "Seconds that open exchanges have at a stop (30)")
    ] = None,
    drain_delay: Annotated[
        float | None, _option("--drain-delay", "Seconds between readiness off and the end of accepting (0)")
    ] = None,
    take_over: Annotated[bool | None, _option("--take-over", "Take over from a running holder")] = None,
    state_secrets: Annotated[
        bool | None, _option("--state-secrets", "Keep keys in the state folder, 0600")
    ] = None,
    accept_empty: Annotated[
        bool | None, _option("--accept-empty", "An empty folder at a start means: serve nothing")
    ] = None,
    watch_ingress_without_class: WithoutClass = None,
    zone: Zone = None,
    default_backend: DefaultBackend = None,
    resolver: Annotated[
        str | None, _option("--resolver", "ADDR:PORT that resolves ExternalName Services (/etc/resolv.conf)")
    ] = None,
    external_allow: ExternalAllow = None,
    kubernetes: Annotated[
        bool | None, _option("--kubernetes", "Objects come from the API server of the Pod's cluster")
    ] = None,
    kubeconfig: Annotated[
        str | None, _option("--kubeconfig", "The same, by this file; implies --kubernetes")
    ] = None,
    watch_namespace: Annotated[
        list[str] | None, _option("--watch-namespace", "Namespace to read; repeatable (all)")
    ] = None,
    watch_selector: Annotated[
        str | None, _option("--watch-selector", "Labels that an Ingress must have (none)")
    ] = None,
    controller_class: ControllerClass = None,
    configmap: Annotated[
        str | None, _option("--configmap", "NAMESPACE/NAME of settings that users may change (none)")
    ] = None,
    node_name: Annotated[str | None, _option("--node-name", "Node that this instance runs on")] = None,
    pod_name: Annotated[str | None, _option("--pod-name", "Pod that this instance is")] = None,
    pod_namespace: Annotated[str | None, _option("--pod-namespace", "Namespace of that Pod")] = None,
    election_lease: Annotated[
        str | None, _option("--election-lease", "Lease that the leader holds (xdp-edge-leader)")
    ] = None,
    update_status: Annotated[
        bool | None,
        _option("--update-status/--no-update-status", "Write addresses into the status of Ingresses (yes)"),
    ] = None,
    publish_service: Annotated[
        str | None, _option("--publish-service", "NAMESPACE/NAME of the Service whose addresses these are")
    ] = None,
    publish_status_address: Annotated[
        list[str] | None,
        _option("--publish-status-address", "Address to write instead; repeatable (those of the nodes)"),
    ] = None,
    webhook: Annotated[str | None, _option("--webhook", "ADDR:PORT of the admission webhook (none)")] = None,
    webhook_service: Annotated[
        str | None,
        _option("--webhook-service", "Service by which the API server reaches it (xdp-edge-webhook)"),
    ] = None,
    webhook_client_ca: Annotated[
        str | None,
        _option(
            "--webhook-client-ca", "File of authorities; callers of the webhook show a certificate (none)"
        ),
    ] = None,
) -> None:
    """Run an instance in the foreground until SIGTERM; SIGHUP reads everything again."""
    given = dict(locals())
    from edge.cli.run import run_instance

    raise typer.Exit(run_instance(merged(given)))


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


@app.command()
def check(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder of objects in YAML or JSON")] = "",
    ingress_class: IngressClass = None,
    watch_ingress_without_class: WithoutClass = None,
    default_backend: DefaultBackend = None,
    as_json: Json = False,
    form: Annotated[str, typer.Option("--format", help="text, json or sarif")] = "text",
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail, too")] = False,
    listing: Annotated[bool, typer.Option("--list", help="Print all reasons and what they mean")] = False,
) -> None:
    """Say what is wrong with a folder of objects: object, field, reason, and what to do."""
    given = {
        "ingress_class": ingress_class,
        "watch_ingress_without_class": watch_ingress_without_class,
        "default_backend": default_backend,
    }
    from edge.cli.check import check_folder, list_reasons

    if listing:
        raise typer.Exit(list_reasons(as_json))
    if not folder:
        raise typer.BadParameter("a folder is missing", param_hint="DIR")
    raise typer.Exit(check_folder(folder, merged(given), as_json, form, strict))


@app.command()
def explain(
    method: Annotated[str, typer.Argument(help="GET, POST, …; with --diff: the old folder")],
    url: Annotated[str, typer.Argument(help="http://host/path; with --diff: the new folder")],
    config: Annotated[str | None, _option("--config", "Folder of objects in YAML or JSON")] = None,
    image: Annotated[str, typer.Option("--image", help="Image that --record wrote")] = "",
    admin: Annotated[str | None, _option("--admin", "ADDR:PORT of the instance to ask")] = None,
    header: Annotated[list[str] | None, typer.Option("--header", help="'Name: value'; repeatable")] = None,
    at: Annotated[str, typer.Option("--at", help="As if it were 2026-01-31T12:00:00Z")] = "",
    record: Annotated[str, typer.Option("--record", help="Write the image that was asked to a file")] = "",
    diff: Annotated[bool, typer.Option("--diff", help="Compare two folders")] = False,
    ingress_class: IngressClass = None,
    watch_ingress_without_class: WithoutClass = None,
    zone: Zone = None,
    default_backend: DefaultBackend = None,
    external_allow: ExternalAllow = None,
    as_json: Json = False,
) -> None:
    """Say which route takes a request, why, and why no other; of the running instance without --config."""
    given = {
        "config": config,
        "admin": admin,
        "ingress_class": ingress_class,
        "watch_ingress_without_class": watch_ingress_without_class,
        "zone": zone,
        "default_backend": default_backend,
        "external_allow": external_allow,
    }
    from edge.cli.explain import Asked, explain_difference, explain_request

    if diff:
        raise typer.Exit(explain_difference(method, url, merged(given), as_json))
    asked = Asked(tuple(header or ()), at, image, record, as_json)
    raise typer.Exit(explain_request(method, url, merged(given), asked=asked))


@app.command()
def doctor(
    user: Annotated[str | None, _option("--user", "Who the data plane would run as (nobody)")] = None,
    run_dir: RunDir = None,
    state_dir: Annotated[str | None, _option("--state-dir", "Folder of state (/var/lib/edge)")] = None,
) -> None:
    """Try what this host allows, and say which loop and which XDP mode would be used."""
    from edge.cli.doctor import examine

    raise typer.Exit(examine(merged({"user": user, "run_dir": run_dir, "state_dir": state_dir})))


@app.command()
def status(instance: Instance = None, run_dir: RunDir = None, as_json: Json = False) -> None:
    """Show a running instance on one screen: processes, versions, counters, findings, events."""
    from edge.cli.status import show_status

    raise typer.Exit(show_status(merged({"instance": instance, "run_dir": run_dir}), as_json))


@app.command()
def upgrade(instance: Instance = None, run_dir: RunDir = None) -> None:
    """Replace holder, controller and data plane by this installation's, without losing a request."""
    from edge.cli.upgrade import upgrade_instance

    raise typer.Exit(upgrade_instance(merged({"instance": instance, "run_dir": run_dir})))


@app.command()
def detach(instance: Instance = None, run_dir: RunDir = None) -> None:
    """Remove the XDP programs and pins of a stopped instance."""
    from edge.cli.detach import detach_instance

    raise typer.Exit(detach_instance(merged({"instance": instance, "run_dir": run_dir})))


def main() -> int:
    """Run the command line. Shape: the exit status."""
    try:
        app()
    except EdgeError as error:
        print(f"edge: {error}", file=sys.stderr)
        return 2
    return 0
