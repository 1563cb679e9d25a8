"""`edge doctor`: what each probe says, and what decides its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.cli import doctor
from edge.cli.doctor import Finding, examine
from edge.errors import XdpError
from edge.options import Options

NAMES = ("kernel", "native", "io_uring", "seccomp", "bpffs", "bpf_map", "bcc", "xdp_native")
SHOWN = {"native": "data plane", "bpf_map": "bpf", "bcc": "packet program", "xdp_native": "native XDP"}


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    for name in NAMES:
        works(monkeypatch, name)
    return Options(run_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state"))


def works(monkeypatch: pytest.MonkeyPatch, name: str, yes: bool = True, needed: bool = False) -> None:
    finding = Finding(SHOWN.get(name, name), yes, f"about {name}", needed)
    monkeypatch.setattr(doctor, f"_{name}", lambda: finding)


def test_all_is_well(options: Options, capsys: pytest.CaptureFixture[str]) -> None:
    assert examine(options) == 0
    said = capsys.readouterr().out
    assert "loop: uring" in said and "xdp: native" in said
    assert not Path(options.run_dir).exists() and not Path(options.state_dir).exists()


def test_without_ring_and_bpf_it_serves_all_the_same(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works(monkeypatch, "io_uring", False)
    works(monkeypatch, "bpf_map", False)
    assert examine(options) == 0
    said = capsys.readouterr().out
    assert "loop: epoll, because about io_uring" in said
    assert "xdp: off or generic, because about bpf_map" in said


def test_what_is_needed_decides(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works(monkeypatch, "seccomp", False, needed=True)
    assert examine(options) == 1
    assert "FAIL  seccomp" in capsys.readouterr().out


def test_a_probe_that_raises_is_a_finding(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def _xdp_native() -> Finding:
        raise XdpError("the kernel said no")

    monkeypatch.setattr(doctor, "_xdp_native", _xdp_native)
    assert examine(options) == 0
    assert "the kernel said no" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    found = doctor._folder("state directory", Path("/proc/nothing/below"))
    assert not found.works and found.needed and "/proc" in found.text
    assert doctor._folder("state directory", tmp_path / "a" / "b").works
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_users() -> None:
    assert not doctor._user("no-such-user").works
    assert not doctor._user("root").works
    assert doctor._user("nobody").works


def test_the_real_probes_of_this_host_change_nothing() -> None:
    for probe in (doctor._kernel, doctor._io_uring, doctor._seccomp, doctor._bpffs, doctor._bpf_map):
        assert isinstance(doctor._tried(probe), Finding)
