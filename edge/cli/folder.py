"""A folder as the controller would see it, for `edge check` and `edge explain`.

Reads once and watches nothing. Stands in for a running instance: one plain and one TLS listener, and a
default certificate that exists but is never shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from edge.model.build import ModelBuilder, settings_of
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.types import Certificate, Listener, Model, Transport
from edge.options import Options
from edge.resources.store import Key, ResourceStore
from edge.sources.files import FileSource

PLAIN, TLS = 0, 1  # places of the listeners below

_LISTENERS = (
    Listener(IPv4Address("0.0.0.0"), 80, Transport.PLAIN),
    Listener(IPv4Address("0.0.0.0"), 443, Transport.TLS),
)
_DEFAULT = ObjectRef("Default", "", "certificate")


@dataclass(frozen=True, slots=True)
class Folder:
    """``ignored``: warnings about kinds that nobody reads; only `edge check` shows them.

    ``origins``: the file of each object. ``builder``: what made the model, for questions about it.
    """

    model: Model
    ignored: tuple[Diagnostic, ...]
    origins: Mapping[Key, str]
    builder: ModelBuilder


def read_folder(folder: Path, options: Options) -> Folder:
    """Build the model of a folder.

    Errors: SourceError when it cannot be read.
    """
    source = FileSource(folder)
    try:
        store = ResourceStore(source.load())
    finally:
        source.close()
    default = Certificate(_DEFAULT, hashlib.sha256(b"").digest(), b"", b"", (), is_default=True)
    settings = replace(settings_of(options, _LISTENERS), default_certificate=default)
    builder = ModelBuilder(settings)
    model = builder.update(store, store.all_keys(), source.diagnostics)
    return Folder(model, source.ignored, source.origins, builder)
