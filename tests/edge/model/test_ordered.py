"""A sorted collection that is changed a little: as sorting all of it, and its steps tell every change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.model.ordered import Ordered


class Thing:
    """Compared by identity, as the routes of a row are."""


KEYS = st.integers(0, 300)
BATCHES = st.lists(
    st.lists(st.tuples(KEYS, st.booleans()), max_size=8)
    | st.tuples(KEYS, st.integers(1, 200), st.booleans()).map(
        lambda run: [(key, run[2]) for key in range(run[0], run[0] + run[1])]
    ),
    max_size=8,
)


@given(BATCHES)
def test_a_step_tells_what_changed_however_much_it_is(batches: list[list[tuple[int, bool]]]) -> None:
    row: Ordered[Thing] = Ordered()
    wanted: dict[int, Thing] = {}
    before: tuple[Thing, ...] = ()
    for batch in batches:
        for key, there in batch:
            if there:
                wanted[key] = Thing()
                row.put(key, wanted[key])
            else:
                wanted.pop(key, None)
                row.remove(key)
        values = row.values()
        assert values == tuple(wanted[key] for key in sorted(wanted))
        if values is not before:
            assert row.step is not None and row.step.before is before
            removed, added = set(map(id, row.step.removed)), set(map(id, row.step.added))
            assert (set(map(id, before)) - removed) | added == set(map(id, values))
            assert removed <= set(map(id, before))
        before = values
