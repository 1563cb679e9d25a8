"""The folder as `check` and `explain` see it: options are obeyed, nothing is left open."""

from __future__ import annotations

import os
from pathlib import Path

from edge.cli.folder import PLAIN, TLS, read_folder
from edge.model.types import Transport
from edge.options import Options

INGRESS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: a}
spec:
  rules:
  - http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: s, port: {number: 1}}}}]}
"""


def test_options_and_listeners(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(INGRESS)
    before = len(os.listdir("/proc/self/fd"))
    assert read_folder(tmp_path, Options()).model.routes == ()
    model = read_folder(tmp_path, Options(watch_ingress_without_class=True)).model
    assert len(model.routes) == 1
    assert model.listeners[PLAIN].transport is Transport.PLAIN
    assert model.listeners[TLS].transport is Transport.TLS
    assert len(os.listdir("/proc/self/fd")) == before
