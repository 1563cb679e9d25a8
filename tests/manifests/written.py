"""The manifests as data: as they are written, as kustomize renders them, as Helm does.

Used by the tests beside it. `written` needs nothing but the files, so that what it answers is tested fast;
the other two run kubectl and Helm, which tests/kube/build.py builds once.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from edge.options import Options
from tests.kube.build import programs

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
CHART = MANIFESTS / "helm" / "xdp-edge"
NAMESPACE = NAME = "xdp-edge"
KUBERNETES = "1.36.3"
Object = dict[str, Any]


def documents(text: str) -> list[Object]:
    """Read YAML of several documents."""
    return [one for one in yaml.safe_load_all(text) if one]


@functools.cache
def written(folder: str = "base") -> tuple[Object, ...]:
    """Every object in the files of a folder, but kustomize's own."""
    found = []
    for path in sorted((MANIFESTS / folder).glob("*.yaml")):
        if path.name != "kustomization.yaml":
            found += documents(path.read_text())
    return tuple(found)


def one(objects: tuple[Object, ...] | list[Object], kind: str, name: str = NAME) -> Object:
    """The one object of a kind and name."""
    (found,) = (item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name)
    return found


@functools.cache
def kustomized(folder: str = ".") -> tuple[Object, ...]:
    """Run `kubectl kustomize` on a folder below manifests."""
    command = [programs(["kubectl"])["kubectl"], "kustomize", MANIFESTS / folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(documents(done.stdout))


def helm(*words: object) -> subprocess.CompletedProcess[str]:
    """Run Helm on the chart."""
    command = [str(word) for word in (programs(["helm"])["helm"], *words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def charted(values: Object | None = None, name: str = NAME) -> tuple[Object, ...]:
    """Run `helm template`, CRDs included, with values."""
    where = ("--namespace", NAMESPACE, "--include-crds", "--kube-version", KUBERNETES)
    chosen = [f"--set-json={key}={json.dumps(value)}" for key, value in (values or {}).items()]
    done = helm("template", name, CHART, *where, *chosen)
    assert done.returncode == 0, done.stderr
    return tuple(documents(done.stdout))


def container(objects: tuple[Object, ...] | list[Object], name: str = "edge") -> Object:
    """A container of the one DaemonSet, whatever its name."""
    (chosen,) = (item for item in objects if item["kind"] == "DaemonSet")
    boxes = chosen["spec"]["template"]["spec"]["containers"]
    (found,) = (item for item in boxes if item["name"] == name)
    return dict(found)


def options(objects: tuple[Object, ...] | list[Object], host_ip: str = "192.0.2.1") -> Options:
    """Read the options of a Pod on a node; what else the downward API gives is left out."""
    box = container(objects)
    given = {
        item["name"]: item["value"].replace("$(HOST_IP)", host_ip) for item in box["env"] if "value" in item
    }
    flags = [word[2:].replace("-", "_").upper() for word in box["args"] if word.startswith("--")]
    return Options.from_environment(given | {f"EDGE_{flag}": "1" for flag in flags})


def normal(objects: tuple[Object, ...] | list[Object]) -> dict[str, Object]:
    """Objects by kind and name, in one form: lists without an order are sorted, generated names are cut."""
    found = {}
    for item in json.loads(re.sub(r"(-seccomp)-[0-9a-z]{10}\b", r"\1", json.dumps(objects))):
        if item["kind"] == "DaemonSet":
            pod = item["spec"]["template"]
            pod["metadata"].get("annotations", {}).pop("xdp-edge.dev/seccomp-profile", None)
            pod["spec"]["volumes"].sort(key=lambda one: one["name"])
            for box in pod["spec"]["containers"]:
                box["env"].sort(key=lambda one: one["name"])
        metadata = item["metadata"]
        key = f"{item['kind']} {metadata.get('namespace', '')}/{metadata['name']}"
        assert key not in found, f"{key} twice"
        found[key] = item
    return found
