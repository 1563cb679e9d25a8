"""Faults of what is pinned in the kernel: XDP must go on filtering through them.

As faults.py, on a network of namespaces: a denied source sends all the time, and whatever of it comes past
XDP is seen. What the pins go through step by step stands in tests/bpf.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pyroute2 import IPRoute

from tests.e2e.lab import ADDRESS, Lab, give, wait_for
from tests.e2e.objects import endpoints, ingress, policy, service, write
from tests.e2e.survival.scene import HOST, Asking, Odd, ask_inside
from tests.e2e.survival.table import Line
from tests.e2e.survival.traffic import DENIED, DENIED_ROLE, DeniedSource, Tap


def pins_of_another_version(folder: Path, loop: str) -> Line:
    """A controller finds maps of another shape than its program has, while we run and after a stop."""
    order = folder / "other"

    class Other(Odd):
        # As long as the file is there, the controller's program has a map with one entry more.
        in_child = f"""
import os
if module == 'edge.controller' and os.path.exists({str(order)!r}):
    from dataclasses import replace
    from edge.xdp import plane
    real = plane.edge_object
    def other(cache=None):
        found = real(cache)
        maps = dict(found.object.maps)
        spec = maps['edge_counts']
        maps['edge_counts'] = replace(spec, shape=replace(spec.shape, entries=spec.shape.entries + 1))
        return replace(found, object=replace(found.object, maps=maps))
    plane.edge_object = other
    plane.compare_layouts = lambda _found: None
"""

    config = folder / "config"
    config.mkdir()
    line = Line("pins of another version", loop, times=3)
    with Lab(clients=2, pods=1) as lab:
        lab.start_pod(1, "web")
        with lab.inside(DENIED_ROLE), IPRoute() as route:
            give(route, "eth0", DENIED, 32)
        slices = endpoints("web", 8080, [lab.pod_address(1)])
        write(config, "objects.yaml", service("web"), slices, ingress("a", [(HOST, "/", "web")]))
        write(config, "policy.yaml", policy(deny=[f"{DENIED}/32"]))
        options: dict[str, object] = {"xdp": "native", "interface": lab.interfaces(), "loop": loop}
        with (
            Other(folder, config, lab=lab, http=f"{ADDRESS}:80", **options) as edge,
            Tap(lab) as tap,
            DeniedSource(lab) as denied,
        ):
            inside = ask_inside(lab)
            with Asking(edge, client=inside) as asking:
                asking.go_on(30)
                for other in (True, False):
                    order.touch() if other else order.unlink()
                    before = int(edge.holder()["committed"])
                    os.kill(edge.pid("edge-controller"), 9)
                    wait_for("published anew", lambda n=before: int(edge.holder()["committed"]) > n)
                    wait_for("ready", edge.ready)
                    asking.go_on(30)
                asking.finish(line, 0)
            order.touch()
            assert edge.stop() == 0
            edge.start()
            wait_for("ready after a stop", edge.ready)
            with Asking(edge, client=inside) as asking:
                asking.go_on(30)
                asking.finish(line, 0)
            tried = denied.finish()
            line.denied = len(tap.read())
            line.wrong += (
                [f"the denied source got through: {tried}"] if tried["accepted"] or line.denied else []
            )
            if not tried["attempts"]:
                line.wrong.append("the denied source did not try")
            said = [text for text in edge.lines().splitlines() if "xdp:" in text]
            if sum("new maps" in text for text in said) != 4:
                line.wrong.append(f"maps were not made anew each time: {said}")
    line.clients = "nothing; connections refused between stop and start"
    line.operator = said[-1]
    return line


FAULTS: dict[str, Callable[[Path, str], Line]] = {"pins_of_another_version": pins_of_another_version}
