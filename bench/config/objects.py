"""The objects of the configuration benchmarks: N Ingresses of two paths, M Services with a slice each.

Written as YAML, one object a file or all in one; a change replaces its file by rename, so that no reader sees
half of one. Called by bench/config/publish.py; kube.py gives the same objects to an API server.
"""

from __future__ import annotations

import os
from pathlib import Path

INGRESS = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: shop-{number:05}
  namespace: default
  labels: {{app: shop-{number:05}, tier: web}}
spec:
  ingressClassName: edge
  rules:
  - host: {host}
    http:
      paths:
      - path: /a
        pathType: Prefix
        backend: {{service: {{name: {service}, port: {{number: 80}}}}}}
      - path: {path}
        pathType: Prefix
        backend: {{service: {{name: {service}, port: {{number: 80}}}}}}
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {{name: {service}, namespace: default}}
spec:
  selector: {{app: {service}}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
"""
SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-1, namespace: default, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}, protocol: TCP}}]
endpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]
"""


class Folder:
    """A folder of objects in one of two shapes; every change is one rename."""

    def __init__(self, path: Path, single: bool, ingresses: int, services: int, port: int) -> None:
        self.path, self.single, self.port = path, single, port
        self.ingresses, self.services = ingresses, services
        self.spare = path.parent / f"{path.name}.spare"
        self.spare.mkdir()
        path.mkdir()
        self.texts: dict[str, str] = {}
        for number in range(services):
            self.texts[f"service-{number:05}"] = SERVICE.format(service=self.service(number))
            self.texts[f"slice-{number:05}"] = self._slice(number, "127.0.0.1")
        for number in range(ingresses):
            self.texts[f"ingress-{number:05}"] = self._ingress(number, "/b")
        if single:
            self._replace("all", self._joined())
        else:
            for name, text in self.texts.items():
                (path / f"{name}.yaml").write_text(text)

    def host(self, number: int) -> str:
        """Host of an Ingress."""
        return f"shop-{number:05}.example.test"

    def service(self, number: int) -> str:
        """Service that an Ingress leads to."""
        return f"web-{number % self.services:05}"

    def _ingress(self, number: int, path: str) -> str:
        return INGRESS.format(number=number, host=self.host(number), service=self.service(number), path=path)

    def _slice(self, number: int, address: str) -> str:
        return SLICE.format(service=self.service(number), port=self.port, address=address)

    def _joined(self) -> str:
        return "---\n".join(self.texts.values())

    def change_ingress(self, number: int, path: str) -> tuple[Path, Path]:
        """Prepare a change; shape: the rename that makes it so."""
        return self._change(f"ingress-{number:05}", self._ingress(number, path))

    def change_slice(self, number: int, address: str) -> tuple[Path, Path]:
        """Prepare a change; shape: the rename that makes it so."""
        return self._change(f"slice-{number:05}", self._slice(number, address))

    def _change(self, name: str, text: str) -> tuple[Path, Path]:
        self.texts[name] = text
        file = "all" if self.single else name
        fresh = self.spare / f"{file}.yaml"
        fresh.write_text(self._joined() if self.single else text)
        return fresh, self.path / f"{file}.yaml"

    def _replace(self, name: str, text: str) -> None:
        fresh = self.spare / f"{name}.yaml"
        fresh.write_text(text)
        os.rename(fresh, self.path / f"{name}.yaml")

    @property
    def bytes(self) -> int:
        """Size of all objects as YAML."""
        return sum(map(len, self.texts.values()))
