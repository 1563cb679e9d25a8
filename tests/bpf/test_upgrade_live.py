"""`edge upgrade` of the controller to code with another packet program, while a denied source sends.

The other code is a copy of the package whose bpf/ differs, run by an executable of its own: bcc compiles
it, maps of another shape are filled beside, and what the kernel refuses leads back to the code before.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from edge.messages import receive, send
from tests.bpf.test_never_off import LONG, Counters
from tests.bpf.witness import Witness, wait_quiet
from tests.e2e.lab import ADDRESS, ROOT, wait_for
from tests.e2e.survival.stage import Stage
from tests.e2e.survival.traffic import DENIED, DENIED_ROLE, PORT

pytestmark = [pytest.mark.root, pytest.mark.slow]


def other_code(folder: Path, file: str, old: str, new: str) -> Path:
    """Shape: an executable that runs a copy of the package, changed in one place of bpf/."""
    package = folder / "edge"
    left_out = shutil.ignore_patterns("__pycache__", "bpf", "stored")
    shutil.copytree(ROOT / "edge", package, symlinks=True, ignore=left_out)
    shutil.copytree(ROOT / "bpf", package / "xdp" / "bpf")
    path = package / "xdp" / "bpf" / file
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    run = folder / "python"
    # -I, which the holder gives, would leave the copy out.
    run.write_text(f'#!/bin/sh\nshift; cd {folder} && PYTHONPATH={folder} exec {sys.executable} "$@"\n')
    run.chmod(0o755)
    return run


def upgrade(stage: Stage, executable: Path | str) -> tuple[str, str]:
    """Ask the holder for another controller. Shape: done or failed, and why."""
    path = Path(str(stage.edge.options["run_dir"])) / stage.edge.name / "control.sock"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as control:
        control.settimeout(40)
        control.connect(str(path))
        send(control, "upgrade", what="controller", executable=executable)
        while True:
            message = receive(control)
            assert message is not None, "the holder went away"
            if message.verb in ("done", "failed"):
                return message.verb, message.fields.get("reason", "")


def xdp(stage: Stage) -> dict[str, Any]:
    """What /xdp shows, once the controller answers."""
    shown: dict[str, Any] = wait_for(
        "/xdp", lambda: (page := stage.edge.admin_json("/xdp")).get("counters") and page, 10
    )
    return shown


@pytest.mark.parametrize("mode", ["auto", "native"] if LONG else ["auto"])
def test_other_maps_come_and_go_and_what_is_refused_never_comes(tmp_path: Path, mode: str) -> None:
    more = other_code(
        tmp_path / "more", "edge_abi.h", "#define EDGE_VIPS_MAX 4096 ", "#define EDGE_VIPS_MAX 5000 "
    )
    # An endless loop: bcc compiles it, the verifier does not take it.
    refused = other_code(
        tmp_path / "refused", "count.h", "    count->packets++;", "    while (1) count->packets++;"
    )
    with Stage(tmp_path, "auto", xdp=mode) as stage:
        counters = Counters(stage)
        before = counters.at_rest()["drop_denied"]
        with Witness(stage.lab, DENIED_ROLE, DENIED, ADDRESS, PORT) as witness:
            program = xdp(stage)["program"]["id"]
            assert upgrade(stage, more) == ("done", "")
            assert xdp(stage)["maps"] == "new"
            wait_for("one place", lambda: [p.name for p in stage.edge.pins.glob("maps/*")] == ["b"], 10)
            assert xdp(stage)["program"]["id"] != program
            counters.look()
            verb, reason = upgrade(stage, refused)
            assert (verb, "it ended" in reason) == ("failed", True)
            wait_for("the old code is back", lambda: xdp(stage)["maps"] == "reopened", 10)
            assert upgrade(stage, sys.executable) == ("done", "")
            wait_for("the old place", lambda: [p.name for p in stage.edge.pins.glob("maps/*")] == ["a"], 10)
            with witness.resting():
                seen = wait_quiet(witness)
                page = counters.at_rest()
        assert seen.passed == 0, seen
        assert page["drop_denied"] - before == seen.sent, (page, seen)
        assert "the kernel refuses program edge_xdp" in stage.edge.lines()
        assert not list(stage.edge.state.glob("xdp_refused-*"))
