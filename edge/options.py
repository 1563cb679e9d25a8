"""Options of `edge run`, as one frozen record that holder and controller share.

The command line makes it (edge/cli/run.py), EDGE_* variables mirror it, and the holder hands it to the
controller as such variables: `Options.to_environment()` and `from_environment()` are inverse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import OptionError

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

GRACE_MAX_S = 86_400
CONTROLLER_CLASS = "xdp-edge.dev/ingress-controller"  # spec.controller of the IngressClasses that are ours
_INSTANCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")  # bpffs takes no dot in a name
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
CHOICES = {
    "xdp": ("auto", "native", "generic", "off"),
    "log_format": ("json", "text"),
    "loop": ("auto", "uring", "epoll"),
}


@dataclass(frozen=True, slots=True)
class Options:
    """All options (design page §7).

    Units: seconds for grace_period and drain_delay; addresses as ADDR:PORT or [ADDR]:PORT.
    """

    config: str = ""
    http: tuple[str, ...] = ()
    https: tuple[str, ...] = ()
    admin: str = "127.0.0.1:9901"
    workers: int = 0  # 0: one for each CPU that we may use
    interface: tuple[str, ...] = ()
    xdp: str = "auto"
    log_format: str = "text"
    access_log: str = "-"
    loop: str = "auto"
    instance: str = "default"
    run_dir: str = "/run/edge"
    state_dir: str = "/var/lib/edge"
    user: str = "nobody"
    ingress_class: str = "edge"
    grace_period: float = 30.0
    drain_delay: float = 0.0
    take_over: bool = False
    state_secrets: bool = False
    accept_empty: bool = False
    watch_ingress_without_class: bool = False
    zone: str = ""
    default_backend: str = ""
    resolver: str = ""
    external_allow: tuple[str, ...] = ()
    # Kubernetes as the source of objects
    kubernetes: bool = False
    kubeconfig: str = ""  # empty: the configuration that a Pod has
    watch_namespace: tuple[str, ...] = ()  # none: all
    watch_selector: str = ""  # of Ingresses
    controller_class: str = CONTROLLER_CLASS
    configmap: str = ""
    node_name: str = ""
    pod_name: str = ""
    pod_namespace: str = ""
    election_lease: str = "xdp-edge-leader"
    update_status: bool = True
    publish_service: str = ""
    publish_status_address: tuple[str, ...] = ()  # none: the addresses of the nodes
    webhook: str = ""
    webhook_service: str = "xdp-edge-webhook"
    webhook_client_ca: str = ""  # empty: the token in the path is enough

    def __post_init__(self) -> None:
        """Errors: OptionError that names the option and what it may be."""
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise OptionError(
                    f"--{name.replace('_', '-')}: {getattr(self, name)!r} is none of {', '.join(allowed)}"
                )
        for name in ("http", "https"):
            for text in getattr(self, name):
                parse_address(text, f"--{name}")
        parse_address(self.admin, "--admin")
        if not 0 <= self.workers <= 64:
            raise OptionError(f"--workers: {self.workers} is not between 0 and 64")
        if not _INSTANCE.fullmatch(self.instance):
            raise OptionError(
                f"--instance: {self.instance[:80]!r} is not of 1 to 63 letters, digits, '-' and '_'"
            )
        for name in ("grace_period", "drain_delay"):
            seconds = getattr(self, name)
            if not 0 <= seconds <= GRACE_MAX_S:  # neither is nan
                raise OptionError(
                    f"--{name.replace('_', '-')}: {seconds} is not between 0 and {GRACE_MAX_S} s"
                )
        if self.default_backend:
            parse_service(self.default_backend, "--default-backend")
        if self.resolver:
            parse_address(self.resolver, "--resolver")
        for text in self.external_allow:
            parse_network(text, "--external-allow")
        if not all(self.ingress_class.split(",")):
            raise OptionError("--ingress-class: an empty name is no class")
        self._check_kubernetes()

    def _check_kubernetes(self) -> None:
        for name in self.watch_namespace:
            if not _LABEL.fullmatch(name):
                raise OptionError(f"--watch-namespace: {name[:80]!r} is no name of a namespace")
        for option in ("configmap", "publish_service"):
            text = getattr(self, option)
            namespace, slash, name = text.partition("/")
            if text and not (slash and _LABEL.fullmatch(namespace) and _SUBDOMAIN.fullmatch(name)):
                raise OptionError(f"--{option.replace('_', '-')}: {text[:80]!r} is not NAMESPACE/NAME")
        if self.pod_namespace and not _LABEL.fullmatch(self.pod_namespace):
            raise OptionError(f"--pod-namespace: {self.pod_namespace[:80]!r} is no name of a namespace")
        for option in ("node_name", "pod_name", "election_lease", "webhook_service"):
            name = getattr(self, option)
            if not _SUBDOMAIN.fullmatch(name) and (name or option in ("election_lease", "webhook_service")):
                raise OptionError(f"--{option.replace('_', '-')}: {name[:80]!r} is no name of an object")
        if not self.controller_class:
            raise OptionError("--controller-class: an empty name is no controller")
        for text in self.publish_status_address:
            if not text or len(text) > 253 or not re.fullmatch(r"[0-9A-Za-z.:-]+", text):
                raise OptionError(f"--publish-status-address: {text[:80]!r} is no address and no host name")
        if self.webhook:
            parse_address(self.webhook, "--webhook")

    @property
    def from_kubernetes(self) -> bool:
        """Say whether objects come from an API server."""
        return self.kubernetes or bool(self.kubeconfig)

    @property
    def instance_run_dir(self) -> Path:
        """Where lock and control socket of this instance live."""
        return Path(self.run_dir) / self.instance

    @property
    def instance_state_dir(self) -> Path:
        """Where slots and accepted objects of this instance live."""
        return Path(self.state_dir) / self.instance

    def to_environment(self) -> dict[str, str]:
        """Shape: EDGE_NAME to text; lists joined by commas, flags as 1 or 0."""
        result = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool):
                text = "1" if value else "0"
            elif isinstance(value, tuple):
                text = ",".join(value)
            else:
                text = str(value)
            result[f"EDGE_{field.name.upper()}"] = text
        return result

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Options:
        """Errors: OptionError that names the variable."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            name = f"EDGE_{field.name.upper()}"
            if name not in environment:
                continue
            text = environment[name]
            default = field.default
            assert default is not MISSING
            try:
                if isinstance(default, bool):
                    values[field.name] = {"1": True, "true": True, "0": False, "false": False, "": False}[
                        text.lower()
                    ]
                elif isinstance(default, tuple):
                    values[field.name] = tuple(part for part in text.split(",") if part)
                else:
                    values[field.name] = type(default)(text)
            except (KeyError, ValueError) as error:
                raise OptionError(f"{name}: {text!r} cannot be read as {type(default).__name__}") from error
        return cls(**values)


def parse_address(text: str, option: str) -> tuple[str, int]:
    """Split ADDR:PORT or [ADDR]:PORT.

    Errors: OptionError that names the option.
    """
    from ipaddress import ip_address

    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ip_address(bare)
        number = int(port)
    except ValueError as error:
        raise OptionError(f"{option}: {text!r} is not ADDR:PORT (IPv6 as [ADDR]:PORT)") from error
    if not colon or not 0 <= number <= 65535 or (address.version == 6 and bare == host):
        raise OptionError(f"{option}: {text!r} is not ADDR:PORT (IPv6 as [ADDR]:PORT)")
    return str(address), number


def parse_service(text: str, option: str) -> tuple[str, str, str]:
    """Split NAMESPACE/NAME:PORT, the port by name or number.

    Errors: OptionError that names the option.
    """
    place, _, port = text.partition(":")
    namespace, _, name = place.partition("/")
    known = re.fullmatch(r"[a-z0-9-]{1,15}", port) and (not port.isdigit() or 0 < int(port) < 65536)
    if not (_LABEL.fullmatch(namespace) and _LABEL.fullmatch(name) and known):
        raise OptionError(f"{option}: {text[:200]!r} is not NAMESPACE/NAME:PORT")
    return namespace, name, port


def parse_network(text: str, option: str) -> IPv4Network | IPv6Network:
    """Read a network such as 198.51.100.0/24, or one address.

    Errors: OptionError that names the option.
    """
    from ipaddress import ip_network

    try:
        return ip_network(text)
    except ValueError as error:
        raise OptionError(f"{option}: {text[:80]!r} is no network ({error})") from error
