"""The same golden cases by way of an API server: what it holds is served as a folder's files are.

What a folder says about its files (documents that cannot be read) has no counterpart there, nor has what YAML
can say and JSON cannot (an infinite port), nor what the state alone says (a Secret without its key).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from edge.model.build import ModelBuilder, ModelSettings
from edge.model.types import Model
from edge.options import Options
from edge.resources.kinds import RESOLVED_NAME, plain
from edge.resources.store import ResourceEvent, ResourceStore
from edge.sources.api import Api
from edge.sources.kubernetes import KubernetesSource
from tests.fakes.apiserver import ApiServer
from tests.golden.test_golden import CASES, read, settings_of, shown_model

pytestmark = pytest.mark.slow  # all together
DEADLINE_S = 20.0
OF_THE_STATE = "tls-withheld"


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as found:
        found.stamps = False
        yield found


async def served(source: KubernetesSource, settings: ModelSettings, others: list[ResourceEvent]) -> Model:
    """The model of what the source gives; Secrets of any type and ConfigMaps, once they were asked for."""
    store, builder = ResourceStore(), ModelBuilder(settings)
    changed = store.apply([*await asyncio.to_thread(source.load), *others])
    model = builder.update(store, changed, source.diagnostics)
    source.want(builder.wanted)
    batches = source.watch()
    async with asyncio.timeout(DEADLINE_S):
        while not all(one.listed for one in source._named.values()):
            await asyncio.sleep(0.001)
        if source._pending:
            model = builder.update(store, store.apply(await anext(batches)), source.diagnostics)
    await batches.aclose()  # type: ignore[attr-defined]
    return model


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name != OF_THE_STATE], ids=lambda path: path.name
)
def test_golden_through_the_api(case: Path, tmp_path: Path, server: ApiServer) -> None:
    events, _ = read(case, tmp_path)
    server.clear()
    no_json = [event for event in events if not isinstance(event.raw, bytes) and event.kind != RESOLVED_NAME]
    for event in events:
        if isinstance(event.raw, bytes):
            server.put(dict(plain(event.raw)))
    source = KubernetesSource(Api.by_kubeconfig(server.kubeconfig(tmp_path)), Options(kubernetes=True))
    names = [event for event in events if event.kind == RESOLVED_NAME]
    try:
        model = asyncio.run(served(source, settings_of(case), names))
    finally:
        source.close()
    wanted = yaml.safe_load((case / "out.yaml").read_text())
    absent = [" File/", *(f" {'/'.join(event.key)} " for event in no_json)]
    wanted["diagnostics"] = [one for one in wanted["diagnostics"] if not any(what in one for what in absent)]
    shown = yaml.safe_load(yaml.safe_dump(shown_model(model)))
    assert shown["diagnostics"] == wanted["diagnostics"]
    assert shown == wanted
