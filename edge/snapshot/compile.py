"""Model to Snapshot: slots, numeric precedence, version and both digests.

Called by the controller's loop with its one `SlotTables` (edge/snapshot/slots.py) and by `edge
explain` with fresh ones. Pure apart from the slot tables, which it advances. The caller:

    slots = SlotTables.from_json(text)                    # or SlotTables() at the first start
    snapshot = compile_snapshot(model, slots, version)    # version: larger than every earlier one
    change = compare(previous, snapshot)                  # edge/snapshot/diff.py: Change.kind is
                                                          # NOTHING, ENDPOINTS (patch) or FULL
    slots.release(served)                                 # once all readers serve version >= served
    text = slots.to_json()                                # write to the state folder before prepare

Listener i of the model has slot i, generation 1: the order of the options.
"""

from __future__ import annotations

from edge.model.types import Model
from edge.snapshot.slots import SlotTables
from edge.snapshot.types import Snapshot


def compile_snapshot(model: Model, slots: SlotTables, version: int) -> Snapshot:
    """Give every route and upstream its stable slot and freeze the result under ``version``."""
    raise NotImplementedError
