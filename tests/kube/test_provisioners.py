"""Whoever provides the Kubernetes, stories find the same: what one provider lacks is found here, unrun."""

from __future__ import annotations

import pytest

from tests.kind.provisioner import Kind, KindControl, KindNode
from tests.kube.cluster import Cluster
from tests.kube.control import Control
from tests.kube.kubernetes import AnyControl, AnyNode, Kubernetes
from tests.kube.node import Node

PAIRS = [(Kubernetes, Cluster), (Kubernetes, Kind), (AnyNode, Node), (AnyNode, KindNode)]
PAIRS += [(AnyControl, Control), (AnyControl, KindControl)]


@pytest.mark.parametrize(("wanted", "given"), PAIRS, ids=lambda kind: kind.__name__)
def test_a_provider_offers_all_that_stories_use(wanted: type, given: type) -> None:
    actions = {name for name in vars(wanted) if not name.startswith("_") and callable(vars(wanted)[name])}
    assert actions <= {name for name in dir(given) if callable(getattr(given, name))}
