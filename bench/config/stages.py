"""Where the processor time of one change goes: each stage between a changed file and the sealed image.

`python -m bench.config.stages [--changes N] [--ingresses N] [--services M]`: the folder of
bench.config.publish, read and translated by the parts that the controller is made of, in this process. Prints
one JSON line: the median milliseconds of each stage, for one Ingress and for one endpoint, and the memory.
Not in them, and said in the line: garbage collection, which is off; sending; the full image that the
publisher makes after many patches of endpoints.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bench.config.objects import Folder
from bench.config.publish import resident_mb
from edge.dataplane.tables import Tables, sealed_memfd
from edge.model.build import ModelBuilder, settings_of
from edge.options import Options
from edge.resources.store import ResourceStore
from edge.snapshot.compile import SnapshotCompiler
from edge.snapshot.diff import compare
from edge.snapshot.slots import SlotTables
from edge.snapshot.types import Snapshot
from edge.sources.files import FileSource

T = TypeVar("T")


class Stages:
    """The controller's parts in a row, each call timed."""

    def __init__(self, folder: Folder) -> None:
        self.spent: dict[str, list[float]] = {}
        self.source = FileSource(folder.path)
        self.store = ResourceStore()
        self.builder = ModelBuilder(settings_of(Options(config=str(folder.path), http=("127.0.0.1:80",))))
        self.slots = SlotTables()
        self.handed = -1
        self.compiler = SnapshotCompiler(self.slots)
        self.tables = Tables()
        changed = self.store.apply(self.source.load())
        self.running = self.compiler.compile(self.builder.update(self.store, changed), 1)
        self.tables.full(self.running)

    def timed(self, name: str, call: Callable[[], T]) -> T:
        """Do it, and note how long it took."""
        begin = time.thread_time()
        result = call()
        self.spent.setdefault(name, []).append(1000 * (time.thread_time() - begin))
        return result

    def change(self, moved: tuple[Path, Path]) -> None:
        """One file changed."""
        os.rename(*moved)
        version = self.running.version + 1
        events = self.timed("read", lambda: self.source._scan({moved[1].name}))
        changed = self.timed("store", lambda: self.store.apply(events))
        self.slots.release(version - 2)
        model = self.timed("model", lambda: self.builder.update(self.store, changed))
        snapshot = self.timed("snapshot", lambda: self.compiler.compile(model, version))
        kind = self.timed("compare", lambda: compare(self.running, snapshot)).kind.name.lower()
        if self.slots.changes != self.handed:
            self.timed("slots", self.slots.to_json)
            self.handed = self.slots.changes
        self.timed(f"image, {kind}", lambda: os.close(self.encoded(snapshot)))
        self.running = snapshot

    def encoded(self, snapshot: Snapshot) -> int:
        """Shape: a memory file, as the publisher would send it."""
        patch = self.tables.patch(self.running, snapshot)
        return sealed_memfd("bench", patch) if patch else self.tables.full_memory(snapshot)[0]


def main() -> int:
    """Run the benchmark; shape: the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--ingresses", type=int, default=10_000)
    parser.add_argument("--services", type=int, default=2_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-stages-") as work:
        folder = Folder(Path(work) / "config", False, arguments.ingresses, arguments.services, 8080)
        stages = Stages(folder)
        gc.freeze()
        gc.disable()
        line: dict[str, object] = {
            "bench": "config.stages",
            "left_out": "garbage collection; sending; the full image after many patches of endpoints",
            "mb": round(resident_mb(os.getpid()), 1),
        }
        for name, moved in (
            ("ingress", lambda turn: folder.change_ingress(turn * 7919 % folder.ingresses, f"/c{turn}")),
            ("endpoint", lambda turn: folder.change_slice(turn % folder.services, "127.0.0.2")),
        ):
            stages.spent.clear()
            for turn in range(arguments.changes):
                stages.change(moved(turn))
            line[f"{name}_ms"] = {
                stage: round(statistics.median(spent), 3) for stage, spent in stages.spent.items()
            }
        stages.source.close()
        print(json.dumps({**line, "summary": True}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
