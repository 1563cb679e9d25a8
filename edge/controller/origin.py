"""Where objects come from: the source that the options name, and what its objects say about ourselves.

Called by the controller's loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from edge.controller.view import View
from edge.model.annotations import USUAL, Wishes
from edge.model.build import ModelSettings
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.settings import read_settings
from edge.options import Options
from edge.resources.kinds import ConfigMap, Node, Problem, Raw
from edge.resources.store import Key, ResourceEvent, ResourceStore
from edge.sources.files import FileSource

if TYPE_CHECKING:
    from edge.controller.reporter import Reporter

ZONE_LABEL = "topology.kubernetes.io/zone"
ABOUT_US = ("Node", "ConfigMap")  # kinds whose objects change our settings

Files = Mapping[str, tuple[tuple[Key, Raw], ...]]


class Source(Protocol):
    """What the loop uses of a source; see files.py and kubernetes.py."""

    name: str
    diagnostics: tuple[Diagnostic, ...]
    lost_since: float | None

    @property
    def origins(self) -> Mapping[Key, str]:
        """The file of each object that has one."""

    def load(self) -> list[ResourceEvent]:
        """Read everything for the first time; blocks. Errors: SourceError."""

    def watch(self) -> AsyncIterator[list[ResourceEvent]]:
        """Give the changes after that."""

    def want(self, keys: Iterable[Key]) -> None:
        """Hear the keys of the Secrets and ConfigMaps that are named."""

    def first(self, patience_s: float) -> list[ResourceEvent]:
        """Wait, but not long, for what was wanted after `load`; blocks. Shape: the changes since."""

    def reread(self) -> None:
        """Look at everything again."""

    def close(self) -> None:
        """End."""


def open_source(options: Options, kept: Files, running: bool, lost_since: float | None) -> Source:
    """Make the source, without reading it. ``running``: what is served came from it, and it was there.

    Errors: SourceError.
    """
    if not options.from_kubernetes:
        return FileSource(options.config, kept, options.accept_empty or running, lost_since)
    # Here, so that a folder's instance pays no memory for it.
    from edge.sources.api import Api
    from edge.sources.kubernetes import KubernetesSource

    return KubernetesSource(Api.of(options), options, kept, options.accept_empty, lost_since)


def open_reporter(options: Options, source: Source, store: ResourceStore, view: View) -> Reporter | None:
    """Make who tells the API server about us; None where objects do not come from one."""
    if not options.from_kubernetes:
        return None
    from edge.controller.reporter import Reporter
    from edge.sources.kubernetes import KubernetesSource

    assert isinstance(source, KubernetesSource)
    return Reporter(options, source.api, store, view)


def settled(settings: ModelSettings, options: Options, store: ResourceStore) -> ModelSettings:
    """Lay over the options' settings what objects say: the zone of our Node, what --configmap names."""
    zone = options.zone
    if not zone and options.node_name:
        node = store.decoded("Node", "", options.node_name)
        if isinstance(node, Node):
            zone = (node.metadata.labels or {}).get(ZONE_LABEL, "")
    usual: Wishes = USUAL
    findings: tuple[Diagnostic, ...] = ()
    namespace, _, name = options.configmap.partition("/")
    config_map = store.decoded("ConfigMap", namespace, name) if name else None
    if isinstance(config_map, ConfigMap | Problem):
        usual, findings = read_settings(ObjectRef("ConfigMap", namespace, name), config_map)
    return replace(settings, zone=zone, usual=usual, findings=findings)
