"""Raw objects to Model: the whole judgement in one pure call.

Called by the controller's loop for each batch, by `edge check` and by `edge explain`. Never does
I/O and reads no clock: the same store and settings give the same Model, in any order of arrival.

    model = build_model(store, settings, source.diagnostics)          # everything that can be served
    model = build_model(store, settings, source.diagnostics, refused) # without what C or BPF refused

``refused`` are error Diagnostics: the objects that they name are left out, the rest is served, and
they are in ``model.diagnostics``. Listeners come from `listeners_of(options)`: --http in order, then
--https; EdgePolicy's trustedProxies are added here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge.model.diagnostics import Diagnostic
from edge.model.types import Certificate, Listener, Model
from edge.resources.store import ResourceStore


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the options say about the model. ``default_certificate``: see `certificates.given_certificate`."""

    listeners: tuple[Listener, ...] = ()
    ingress_class: str = "edge"
    watch_ingress_without_class: bool = False
    default_certificate: Certificate | None = None


def build_model(
    store: ResourceStore,
    settings: ModelSettings,
    source_diagnostics: Iterable[Diagnostic] = (),
    refused: Iterable[Diagnostic] = (),
) -> Model:
    """Link and judge all objects of the store."""
    raise NotImplementedError
