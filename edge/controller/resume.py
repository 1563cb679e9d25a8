"""What a start takes over of what runs: slots, keys, and whether its source was lost.

Called by the controller's loop. The holder keeps what runs in memory; that wins over the state folder, which
may be older. Nothing here decides what is served.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping

from edge.controller.lastgood import complete
from edge.controller.log import YEAR_9999, say
from edge.dataplane.tables import read_secrets
from edge.errors import NativeError
from edge.holdings import ImageStore
from edge.resources.kinds import Raw
from edge.resources.store import Key
from edge.snapshot.slots import SlotTables

Files = Mapping[str, tuple[tuple[Key, Raw], ...]]


def slots(handed: str, kept: str) -> SlotTables:
    """Read the holder's slot table, else the state's, else begin anew."""
    for name, text in (("the holder's slot table", handed), ("the state's slot table", kept)):
        if not text:
            continue
        try:
            return SlotTables.from_json(text)
        except ValueError as error:
            say(f"{name} is of no use ({error})")
    return SlotTables()


def keys_that_run(store: ImageStore) -> dict[bytes, bytes]:
    """Shape: chains and keys of the running version; none where nothing runs."""
    if not store.chain or len(store.chain[0].descriptors) != 2:
        return {}
    descriptor = store.chain[0].descriptors[1]
    try:
        return read_secrets(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    except (OSError, NativeError) as error:
        say(f"the secrets of the running version are of no use ({error})")
        return {}


def with_keys(files: Files, running: Mapping[bytes, bytes]) -> Files:
    """Shape: the objects of a state, with the keys that it may not hold but that run."""
    if not running:
        return files
    return {
        file: tuple((key, complete(raw, running)) for key, raw in objects) for file, objects in files.items()
    }


def pack(slots_text: str, lost_since: float | None) -> bytes:
    """Shape: what the holder keeps for the next controller: a line about the source, then the slots."""
    return f"{json.dumps({'lost_since': lost_since})}\n{slots_text}".encode()


def unpack(text: str) -> tuple[str, float | None]:
    """Shape: the slots, and since when the source is lost; anything else is nothing."""
    head, _, slots_text = text.partition("\n")
    with contextlib.suppress(ValueError, AttributeError):
        since = json.loads(head).get("lost_since")
        known = isinstance(since, int | float) and 0 <= since < YEAR_9999
        return slots_text, float(since) if known else None
    return "", None
