"""Objects that stories on Kubernetes deploy: the echo of tests/kube/web behind a Service."""

from __future__ import annotations

from tests.kube.api import Object
from tests.kube.images import WEB


def deployment(
    name: str,
    namespace: str = "default",
    *,
    replicas: int = 1,
    version: str = "1",
    linger: str = "2s",
    environment: dict[str, str] | None = None,
) -> Object:
    """Return a Deployment of the echo; it goes on answering for `linger` after SIGTERM."""
    values = {"VERSION": version, "LINGER": linger, "SERVICE_NAME": name, **(environment or {})}
    env: list[Object] = [{"name": key, "value": value} for key, value in values.items()]
    fields = {"POD_NAME": "metadata.name", "NAMESPACE": "metadata.namespace", "NODE_NAME": "spec.nodeName"}
    env += [{"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items()]
    container = {
        "name": "web",
        "image": WEB,
        "imagePullPolicy": "Never",
        "env": env,
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}},
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": name}},
    }
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 10,
            "containers": [container],
            "topologySpreadConstraints": [spread],
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template,
        },
    }


def daemon_set(name: str, namespace: str = "default") -> Object:
    """Return a DaemonSet of the echo."""
    made = deployment(name, namespace)
    del made["spec"]["replicas"]
    return {**made, "kind": "DaemonSet"}


def service(name: str, namespace: str = "default", *, dual: bool = False) -> Object:
    """Return the Service of a Deployment; `dual` gives it both address families."""
    spec: Object = {
        "selector": {"app": name},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    }
    if dual:
        spec["ipFamilyPolicy"] = "RequireDualStack"
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def ingress(
    name: str,
    host: str,
    to: str,
    namespace: str = "default",
    *,
    path: str = "/",
    class_name: str = "edge",
    annotations: dict[str, str] | None = None,
) -> Object:
    """Return an Ingress of one host and one path to a Service's port `http`."""
    backend = {"service": {"name": to, "port": {"name": "http"}}}
    rule = {"host": host, "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend}]}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations or {}},
        "spec": {"ingressClassName": class_name, "rules": [rule]},
    }


def namespace(name: str) -> Object:
    """Return a Namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
