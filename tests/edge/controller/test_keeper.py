"""The keeper: what a start finds, whatever has become of the files; and how writing goes on behind."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.controller import keeper as module
from edge.controller import lastgood
from edge.controller.keeper import CURRENT, PREVIOUS, SECRETS, SLOTS_ALONE, Accepted, Keeper
from edge.controller.lastgood import WITHHELD, Contents
from edge.controller.state import BYTES_MAX, DEFAULT_CERTIFICATE, StateDirectory
from edge.model.diagnostics import ObjectRef
from edge.resources.kinds import plain
from edge.resources.store import ResourceEvent, ResourceStore
from tests.edge.controller.test_lastgood import SECRET, SERVICE, TLS


def contents(version: int, *names: str) -> Contents:
    objects = {
        ("Service", "default", name): {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}}
        for name in names
    }
    origins = {key: f"{key[2]}.yaml" for key in objects}
    return Contents(version, b"r" * 32, b"e" * 32, f'{{"slots":{version}}}', objects, origins)


class Notes:
    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def __call__(self, kind: str, text: str) -> None:
        self.heard.append((kind, text))


def keep(keeper: Keeper, contents: Contents) -> None:
    keeper.keep(lambda: contents)


def make(folder: Path, secrets: bool = False) -> Keeper:
    return Keeper(StateDirectory(folder), secrets, Notes())


def write(folder: Path, *versions: Contents, secrets: bool = False) -> None:
    """Leave a state folder as a controller does that published these versions."""
    keeper = make(folder, secrets)
    for one in versions:
        error, _ = keeper._store(one)
        assert error == ""


def reasons(keeper: Keeper) -> list[str]:
    return [finding.reason for finding in keeper.findings]


def test_nothing_is_found_without_a_word(tmp_path: Path) -> None:
    keeper = make(tmp_path / "state")
    found = keeper.recover()
    assert (found.slots, dict(found.files), keeper.findings) == ("", {}, ())
    assert keeper.age_s == -1.0 and not keeper.current


def test_what_was_written_is_found(tmp_path: Path) -> None:
    write(tmp_path, contents(1, "old"), contents(2, "web"))
    keeper = make(tmp_path)
    found = keeper.recover()
    assert list(found.files) == ["web.yaml"] and found.slots == '{"slots":2}'
    assert (keeper.version, reasons(keeper)) == (2, [])
    assert 0 <= keeper.age_s < 60 and abs(found.written - time.time()) < 60


def a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


BAD: list[Any] = [
    pytest.param(changed(lambda _: b""), "is empty", id="empty"),
    pytest.param(changed(lambda data: data[:-20]), "half written", id="half-written"),
    pytest.param(changed(lambda data: data[: len(data) // 8]), "head", id="less-than-half"),
    pytest.param(changed(lambda data: data[:-5] + b"\0" * 5), "damaged", id="damaged"),
    pytest.param(changed(lambda data: b"\0" * len(data)), "head", id="zeroes"),
    pytest.param(
        changed(lambda data: data.replace(b'"format":1', b'"format":2')), "format 2, newer", id="newer"
    ),
    pytest.param(
        changed(lambda data: data.replace(b'"format":1', b'"format":0')), "format 0, older", id="older"
    ),
    pytest.param(changed(lambda _: os.urandom(10_000)), "head", id="noise"),
    pytest.param(a_link, "cannot be read", id="link"),
    pytest.param(a_folder, "no regular file", id="folder"),
    pytest.param(a_pipe, "no regular file", id="pipe"),
    pytest.param(lambda path: path.chmod(0o666), "everybody", id="for-everybody"),
    pytest.param(lambda path: os.truncate(path, BYTES_MAX + 1), "larger", id="oversize"),
    pytest.param(
        lambda path: os.chown(path, 65534, 65534), "user 65534", id="stranger", marks=pytest.mark.root
    ),
]


@pytest.mark.parametrize(("spoil", "word"), BAD)
def test_the_state_before_is_used_where_the_newest_is_of_no_use(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], spoil: Callable[[Path], object], word: str
) -> None:
    write(tmp_path, contents(1, "old"), contents(2, "web"))
    spoil(tmp_path / CURRENT)
    keeper = make(tmp_path)
    found = keeper.recover()
    assert list(found.files) == ["old.yaml"] and found.slots == '{"slots":1}'
    assert reasons(keeper) == ["Older", "Unusable"]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and word in lines[0] and CURRENT in lines[0] and "before it is used" in lines[1]
    # What is written next replaces the bad one, and leaves the good one before it.
    if (tmp_path / CURRENT).is_dir():
        return
    assert keeper._store(contents(3, "new")) == ("", ())
    assert list(make(tmp_path).recover().files) == ["new.yaml"]
    (tmp_path / CURRENT).write_bytes(b"")
    assert list(make(tmp_path).recover().files) == ["old.yaml"]


def test_nothing_is_left(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, contents(1, "old"), contents(2, "web"))
    for name in (CURRENT, PREVIOUS):
        (tmp_path / name).write_bytes(b"spoilt")
    keeper = make(tmp_path)
    assert dict(keeper.recover().files) == {}
    assert reasons(keeper) == ["Unusable", "Unusable"]
    assert len(capfd.readouterr().err.splitlines()) == 2


def test_a_state_of_a_version_before_this_file(tmp_path: Path) -> None:
    (tmp_path / SLOTS_ALONE).write_text('{"format":1}')
    keeper = make(tmp_path)
    assert keeper.recover().slots == '{"format":1}' and reasons(keeper) == ["Older"]
    assert keeper._store(contents(1)) == ("", ())
    assert [path.name for path in tmp_path.iterdir()] == [CURRENT]


class Died(BaseException):
    """A power cut, as far as a test can have one."""


@pytest.mark.parametrize("secrets", [False, True])
def test_a_death_at_any_step_leaves_the_old_or_the_new(tmp_path: Path, secrets: bool) -> None:
    real = {name: getattr(os, name) for name in ("open", "fsync", "link", "replace", "write", "unlink")}
    steps, ends = 0, set()
    while True:
        folder = tmp_path / str(steps)
        write(folder, contents(1, "first"), contents(2, "old"), secrets=secrets)
        left = [steps]

        def counted(name: str, left: list[int] = left) -> Callable[..., Any]:
            def call(*given: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Died
                return real[name](*given, **named)

            return call

        keeper = make(folder, secrets)
        keeper.recover()
        with pytest.MonkeyPatch.context() as patch:
            for name in real:
                patch.setattr(os, name, counted(name))
            try:
                keeper._store(contents(3, "new"))
                died = False
            except Died:
                died = True
        again = make(folder, secrets)
        ends.add(next(iter(again.recover().files)))
        assert again.findings == (), f"after {steps} steps"
        assert again._store(contents(4, "last")) == ("", ())
        assert not [path for path in folder.iterdir() if path.name.endswith(".new")]
        if not died:
            break
        steps += 1
    assert steps >= 6 and ends == {"old.yaml", "new.yaml"}


def test_a_clock_that_went_back_makes_no_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, contents(1, "web"))
    real = time.time
    for day in (-86_400, 86_400):
        monkeypatch.setattr(time, "time", lambda day=day: real() + day)
        keeper = make(tmp_path)
        assert list(keeper.recover().files) == ["web.yaml"]
        age = keeper.age_s
        assert age < 60 if day < 0 else 86_400 <= age < 86_460
        monkeypatch.setattr(time, "time", lambda: real() + 1e9)
        assert keeper.age_s - age < 60, "while it runs the clock does not matter"


def test_keys_are_on_disk_only_where_that_was_asked_for(tmp_path: Path) -> None:
    whole = Contents(1, b"", b"", "", {TLS: SECRET}, {})
    write(tmp_path, whole, secrets=True)
    assert (tmp_path / SECRETS).stat().st_mode & 0o777 == 0o600
    assert b"a2V5" not in (tmp_path / CURRENT).read_bytes()
    (tmp_path / DEFAULT_CERTIFICATE).write_text("kept")
    [(_, raw)] = make(tmp_path, secrets=True).recover().files[""]
    assert plain(raw) == SECRET
    [(_, raw)] = make(tmp_path).recover().files[""]
    assert plain(raw)[WITHHELD] == ["auth", "tls.key"]
    assert not (tmp_path / SECRETS).exists() and not (tmp_path / DEFAULT_CERTIFICATE).exists()
    keeper = make(tmp_path, secrets=True)
    assert [plain(raw) for _, raw in keeper.recover().files[""]] == [lastgood.redact(SECRET)]


def test_a_spoilt_file_of_secrets_costs_the_keys_alone(tmp_path: Path) -> None:
    objects = {**contents(1, "web").objects, TLS: SECRET}
    write(tmp_path, Contents(1, b"", b"", "", objects, {}), secrets=True)
    (tmp_path / SECRETS).write_bytes(b"spoilt")
    keeper = make(tmp_path, secrets=True)
    found = dict(keeper.recover().files[""])
    assert WITHHELD in plain(found[TLS]) and len(found) == 2 and reasons(keeper) == ["Unusable"]


def test_what_was_accepted_follows_the_store() -> None:
    accepted, store = Accepted(), ResourceStore()
    service = ObjectRef("Service", "default", "a")

    def names(changed: list[ResourceEvent], *refused: ObjectRef) -> str:
        accepted.follow(store, store.apply(changed), refused)
        return "".join(sorted(key[2] for key in accepted.objects()))

    def event(name: str, raw: Any = SERVICE) -> ResourceEvent:
        return ResourceEvent("Service", "default", name, raw)

    assert names([event("a"), event("b")]) == "ab"
    before = accepted.objects()
    assert names([event("c"), ResourceEvent("Found out by ourselves", "", "x", {})], service) == "bc"
    assert names([], service) == "bc"
    assert names([]) == "abc", "forgiven though it has not changed"
    assert names([event("a", None), event("b", None)], service) == "c"
    assert names([]) == "c"
    assert len(before) == 2, "a copy stays as it is"


# ---- writing -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APART_S", "RETRY_S", "LOOK_S"):
        monkeypatch.setattr(module, name, 0.01)
    monkeypatch.setattr(module, "SHARE_MAX", 0)


def running(folder: Path, story: Callable[[Keeper], Awaitable[None]]) -> Keeper:
    async def run() -> Keeper:
        keeper = make(folder)
        task = asyncio.create_task(keeper.run())
        try:
            await asyncio.wait_for(story(keeper), 10)
        finally:
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
        return keeper

    return asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_of_many_the_last_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "APART_S", 30.0)
    writes: list[int] = []
    real = Keeper._store

    def store(self: Keeper, one: Contents) -> tuple[str, Any]:
        writes.append(one.version)
        return real(self, one)

    monkeypatch.setattr(Keeper, "_store", store)

    async def story(keeper: Keeper) -> None:
        keep(keeper, contents(1, "web"))
        await until(lambda: keeper.current)
        for version in range(2, 50):
            keep(keeper, contents(version, "web"))
            await asyncio.sleep(0)
        assert not keeper.current

    running(tmp_path, story)
    assert writes == [1, 49], "the first at once, and at the end what was left"
    assert make(tmp_path).recover().slots == '{"slots":49}'


def test_a_stop_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "APART_S", 30.0)

    async def story(keeper: Keeper) -> None:
        keep(keeper, contents(1))
        await until(lambda: keeper.current)
        keep(keeper, contents(2))
        keeper.hurry()
        await until(lambda: keeper.current)

    running(tmp_path, story)


def test_a_stop_with_a_full_disk_does_not_spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APART_S", "RETRY_S", "LOOK_S"):
        monkeypatch.setattr(module, name, 30.0)
    folder = tmp_path / "state"
    folder.write_text("in the way")

    async def story(keeper: Keeper) -> None:
        keep(keeper, contents(1))
        await until(lambda: keeper.errors == 1)
        keeper.hurry()
        await until(lambda: keeper.errors == 2)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert keeper.errors == 2

    running(folder, story)


def test_what_cannot_be_written_is_said_once_and_tried_until_it_can(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "state"
    folder.write_text("in the way")

    async def story(keeper: Keeper) -> None:
        keep(keeper, contents(1, "web"))
        await until(lambda: keeper.errors >= 3)
        assert reasons(keeper) == ["NotWritten"] and not keeper.current
        folder.unlink()
        await until(lambda: keeper.current)
        assert keeper.findings == () and keeper.version == 1

    keeper = running(folder, story)
    assert keeper.errors >= 3
    assert len(capfd.readouterr().err.splitlines()) == 2
    assert len(keeper._note.heard) == 2  # type: ignore[attr-defined]


def test_a_file_that_was_taken_away_is_written_again(tmp_path: Path) -> None:
    async def story(keeper: Keeper) -> None:
        keep(keeper, contents(1, "web"))
        await until(lambda: keeper.current)
        (tmp_path / CURRENT).unlink()
        await until((tmp_path / CURRENT).exists)

    running(tmp_path, story)
    assert list(make(tmp_path).recover().files) == ["web.yaml"]


def test_a_disk_that_hangs_holds_up_no_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look whether the file is still there is a thread's."""
    looked: list[int] = []

    def is_lost(_: Keeper) -> bool:
        looked.append(threading.get_ident())
        return False

    async def story(_: Keeper) -> None:
        await until(lambda: len(looked) > 1)

    monkeypatch.setattr(Keeper, "_is_lost", is_lost)
    running(tmp_path, story)
    assert threading.get_ident() not in looked


def test_a_state_that_is_served_for_a_lost_source_keeps_its_time(tmp_path: Path) -> None:
    write(tmp_path, replace(contents(1, "web"), written=1000))

    async def story(keeper: Keeper) -> None:
        assert keeper.recover().written == 1000
        keep(keeper, replace(contents(2, "web"), written=keeper.written))
        await until(lambda: keeper.current)
        assert keeper.written == 1000 and keeper.age_s > 1e9
        keep(keeper, contents(2, "web"))
        await until(lambda: keeper.current)
        assert keeper.age_s < 60, "the source is back"

    running(tmp_path, story)
    assert make(tmp_path).recover().written > 1000


def test_the_same_is_not_written_again(tmp_path: Path) -> None:
    async def story(keeper: Keeper) -> None:
        keep(keeper, contents(1, "web"))
        await until(lambda: keeper.current)
        before = (tmp_path / CURRENT).stat().st_ino
        keep(keeper, contents(1, "web"))
        await until(lambda: keeper.current)
        assert (tmp_path / CURRENT).stat().st_ino == before

    running(tmp_path, story)


def test_an_object_without_a_form_is_a_finding(tmp_path: Path) -> None:
    async def story(keeper: Keeper) -> None:
        odd = {("Service", "default", "x"): {"kind": "Service", "x": {None: 1}}}
        keep(keeper, Contents(1, b"", b"", "", odd, {}))
        await until(lambda: keeper.current)
        assert [str(finding.object) for finding in keeper.findings] == ["Service/default/x"]

    running(tmp_path, story)
