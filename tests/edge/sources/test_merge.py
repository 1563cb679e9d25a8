"""Objects of several files as one set, changed file by file: always what reading all anew would give."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge.resources.store import Key
from edge.sources.merge import Merge, Pair

PAIRS: list[Pair] = [(("Service", "n", name), {"v": number}) for name in "abc" for number in range(3)]
FILES = st.lists(
    st.tuples(
        st.sampled_from(["x.yaml", "y.yaml"]), st.lists(st.sampled_from(range(len(PAIRS))), max_size=6)
    ),
    max_size=8,
)


@given(FILES)
def test_steps_are_the_whole(steps: list[tuple[str, list[int]]]) -> None:
    merge = Merge()
    files: dict[str, list[Pair]] = {}
    seen: dict[Key, Any] = {}
    for name, numbers in steps:
        files[name] = [PAIRS[number] for number in numbers]
        merge.put(name, tuple(files[name]))
        for event in merge.changes():
            if event.raw is None:
                del seen[event.key]
            else:
                assert seen.get(event.key) != event.raw
                seen[event.key] = event.raw
        wanted: dict[Key, Any] = {}
        origins: dict[Key, str] = {}
        twice: set[str] = set()
        for file in sorted(files):
            for key, raw in files[file]:
                if key in wanted:
                    twice.add(f"stands in {origins[key]!a} and in {file!a}; the first is used {key[2]}")
                else:
                    wanted[key], origins[key] = raw, file
        assert seen == wanted
        assert merge.origins == origins
        assert {f"{one.message} {one.object.name}" for one in merge.duplicates()} == twice
