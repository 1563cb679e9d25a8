"""`edge doctor` says what the controller can do, which is less than what root can."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.running import EDGE

pytestmark = [pytest.mark.root, pytest.mark.slow]


def examine(folder: Path, *before: str) -> dict[str, tuple[str, str]]:
    """Shape: name of a finding to its mark and text; the line on xdp as "xdp:"."""
    words = [*before, str(EDGE), "doctor", "--run-dir", str(folder), "--state-dir", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith("xdp: "):
            found["xdp:"] = ("", line[5:])
        elif line[4:6] == "  ":
            found[line[6:22].strip()] = (line[:4].strip(), line[23:])
    return found


def test_the_program_is_compiled_and_updated_with_the_controllers_capabilities(tmp_path: Path) -> None:
    before = sorted(Path("/sys/fs/bpf").rglob("*"))
    found = examine(tmp_path)
    assert found["bpf"] == ("ok", "maps can be made")
    assert found["packet program"] == ("ok", "bcc compiles it")
    assert found["native XDP"] == ("ok", "the packet program attaches to a veth, and is updated in place")
    assert found["xdp:"][1].startswith("native")
    doctors = [pin for pin in Path("/sys/fs/bpf").rglob("*") if pin not in before and "doctor" in pin.name]
    assert not doctors


def test_what_root_may_and_the_controller_may_not_is_found(tmp_path: Path) -> None:
    """SYS_ADMIN stands for CAP_BPF in every check of the kernel, but the controller does not keep it."""
    found = examine(tmp_path, "setpriv", "--bounding-set", "-bpf")
    assert found["bpf"] == ("no", "BPF maps are refused: Operation not permitted")
    assert found["native XDP"][0] == "no"
    assert found["xdp:"][1].startswith("off or generic")
