"""The Service of --default-backend: behind every Ingress, and there again when they go."""

from __future__ import annotations

from edge.model.build import ModelBuilder, ModelSettings
from edge.model.types import Model
from edge.resources.store import ResourceEvent, ResourceStore

CATCH_ALL = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "Ingress",
    "metadata": {"name": "all", "namespace": "default"},
    "spec": {
        "ingressClassName": "edge",
        "defaultBackend": {"service": {"name": "web", "port": {"number": 80}}},
    },
}
SERVICE = {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"name": "http", "port": 80}]}}


def service(namespace: str, name: str) -> ResourceEvent:
    return ResourceEvent(
        "Service", namespace, name, {**SERVICE, "metadata": {"namespace": namespace, "name": name}}
    )


class Told:
    """A builder with the option, and a store to tell it of."""

    def __init__(self) -> None:
        self.store = ResourceStore()
        self.builder = ModelBuilder(ModelSettings(default_backend="edge/nothing:80"))

    def tell(self, *events: ResourceEvent) -> Model:
        return self.builder.update(self.store, self.store.apply(list(events)))


def targets(model: Model) -> list[str]:
    return [f"{key.namespace}/{key.service}" for route in model.routes for key, _ in route.references]


def test_it_is_there_while_no_ingress_takes_all() -> None:
    told = Told()
    assert targets(told.tell(service("edge", "nothing"), service("default", "web"))) == ["edge/nothing"]
    taken = told.tell(ResourceEvent("Ingress", "default", "all", CATCH_ALL))
    assert targets(taken) == ["default/web"]
    assert not [one for one in taken.diagnostics if one.reason == "Conflict"], "it loses without a word"
    assert targets(told.tell(ResourceEvent("Ingress", "default", "all", None))) == ["edge/nothing"]


def test_without_its_service_it_answers_503_and_says_so() -> None:
    model = Told().tell()
    assert targets(model) == ["edge/nothing"]
    (found,) = model.diagnostics
    assert (str(found.object), found.field, found.reason) == (
        "Option/edge/default-backend",
        "--default-backend.name",
        "ServiceNotFound",
    )
