"""What the holder keeps of published versions, and in which order a fresh data plane gets it."""

import mmap
import os
import struct

import pytest

from edge.holder.store import CommitPage, seal_size
from edge.holdings import IMAGE_FULL, IMAGE_PATCH, ImageStore, Stored


def stored(version: int, kind: int) -> Stored:
    return Stored(version, kind, tuple(os.memfd_create("x") for _ in range(2 if kind == IMAGE_FULL else 1)))


def close(store: ImageStore) -> None:
    for one in store.all():
        one.close()


def test_commit_of_a_full_image_ends_the_chain() -> None:
    store = ImageStore()
    for version, kind in ((1, IMAGE_FULL), (2, IMAGE_PATCH), (3, IMAGE_PATCH)):
        store.stage(stored(version, kind))
        assert store.commit(version)
    assert [one.version for one in store.all()] == [1, 2, 3]
    old = store.chain[0].descriptors[0]
    store.stage(stored(4, IMAGE_FULL))
    assert [one.version for one in store.all()] == [1, 2, 3, 4]
    assert store.committed == 3
    assert store.commit(4)
    assert [one.version for one in store.all()] == [4]
    with pytest.raises(OSError):
        os.fstat(old)
    close(store)


def test_only_what_is_staged_can_be_committed() -> None:
    store = ImageStore()
    assert not store.commit(1)
    store.stage(stored(1, IMAGE_FULL))
    assert not store.commit(2)
    store.drop(1)
    assert not store.commit(1)
    assert store.all() == []


def test_commit_page_can_be_read_and_not_written_by_data_planes() -> None:
    page = CommitPage()
    page.write(42)
    with mmap.mmap(page.reader, 4096, prot=mmap.PROT_READ) as view:
        assert struct.unpack_from("=Q", view, 8) == (42,)
        after = CommitPage(page.descriptor)  # of the next holder
        after.write(43)
        assert struct.unpack_from("=Q", view, 8) == (43,)
        after.close()
    with pytest.raises(PermissionError):
        mmap.mmap(page.reader, 4096)
    with pytest.raises(OSError):
        os.ftruncate(page.reader, 0)
    with pytest.raises(PermissionError):
        os.ftruncate(page.descriptor, 0)
    page.close()
    os.close(page.descriptor)


def test_sealed_memory_cannot_be_cut_off() -> None:
    descriptor = os.memfd_create("s", os.MFD_ALLOW_SEALING)
    seal_size(descriptor)  # still empty: its first writer gives it a size
    os.ftruncate(descriptor, 4096)
    seal_size(descriptor)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def test_the_newest_slot_table_is_kept() -> None:
    store = ImageStore()
    older, newer = os.memfd_create("older"), os.memfd_create("newer")
    store.keep_slots(older)
    store.keep_slots(newer)
    assert store.slots == newer
    with pytest.raises(OSError):
        os.fstat(older)
    os.close(newer)
