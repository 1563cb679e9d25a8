"""Where pins cannot be had: `--xdp auto` serves without XDP and says so in one line, `native` is an error.

`edge run` in a mount namespace of its own, where bpffs is away and cannot be mounted, or is read-only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod

pytestmark = [pytest.mark.root, pytest.mark.slow]

AWAY = (
    "while mountpoint -q /sys/fs/bpf; do umount /sys/fs/bpf || exit 9; done; "
    'exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin "$@"'
)
READ_ONLY = (
    "mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf; "
    'mount -o remount,ro,bind /sys/fs/bpf; exec "$@"'
)
CASES = {
    "away": (AWAY, "no BPF file system on /sys/fs/bpf: "),
    "read-only": (READ_ONLY, "Read-only file system"),
}


class Apart(Running):
    """An instance that a shell line prepares a mount namespace for."""

    line = ""

    def command(self) -> list[str]:
        prepared: Sequence[str] = ("unshare", "--mount", "--propagation=private", "sh", "-c", self.line, "sh")
        return [*prepared, *super().command()]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "config"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("case", CASES)
def test_it_serves_without_xdp_and_says_so(tmp_path: Path, config: Path, case: str) -> None:
    with pod("web") as port:
        write(
            config,
            "a.yaml",
            service("web"),
            endpoints("web", port),
            ingress("a", [("a.example", "/", "web")]),
        )
        edge = Apart(tmp_path, config, xdp="auto", interface="lo")
        edge.line, word = CASES[case]
        with edge:
            assert edge.served("a.example") == 200
            lines = [line for line in edge.lines().splitlines() if "XDP" in line]
            assert len(lines) == 1 and "serving without XDP: " in lines[0] and word in lines[0], lines
            assert word in edge.admin_json("/xdp")["reason"]
            assert edge.metrics()["edge_xdp_attached"] == 0


@pytest.mark.parametrize("case", CASES)
def test_native_is_an_error(tmp_path: Path, config: Path, case: str) -> None:
    edge = Apart(tmp_path, config, xdp="native", interface="lo")
    edge.line, word = CASES[case]
    status, lines = edge.refusal()
    assert status not in (0, 9)
    assert f"--xdp native: {'' if case == 'away' else 'cannot use'}" in lines and word in lines, lines
    assert "Traceback" not in lines
