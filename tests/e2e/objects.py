"""Kubernetes objects for end-to-end tests, as short as the tests want to read them.

Each function returns one object; write() puts several into one file of a watched folder by rename,
so that no reader ever sees half of it. It never checks what it writes: wrong objects are wanted too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def ingress(name: str, rules: Sequence[tuple[str, str, str]], **annotations: str) -> dict[str, Any]:
    """Shape: rules as (host, path, service); all paths are prefixes, all services on port 80."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {
            "ingressClassName": "edge",
            "rules": [
                {
                    "host": host,
                    "http": {
                        "paths": [
                            {
                                "path": path,
                                "pathType": "Prefix",
                                "backend": {"service": {"name": service, "port": {"number": 80}}},
                            }
                        ]
                    },
                }
                for host, path, service in rules
            ],
        },
    }


def service(name: str) -> dict[str, Any]:
    """Return a Service with the port http, 80."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    }


def endpoints(name: str, port: int, addresses: Sequence[str] = ("127.0.0.1",)) -> dict[str, Any]:
    """Return the one EndpointSlice of a service."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


def policy(**spec: Any) -> dict[str, Any]:
    """Return an EdgePolicy."""
    return {
        "apiVersion": "xdp-edge.dev/v1alpha1",
        "kind": "EdgePolicy",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": spec,
    }


def write(folder: Path, name: str, *objects: dict[str, Any]) -> None:
    """Put objects into folder/name (JSON is YAML) by rename."""
    fresh = folder / f".{name}.new"
    fresh.write_text("\n---\n".join(json.dumps(item) for item in objects) + "\n")
    os.replace(fresh, folder / name)
