"""`edge detach` as an operator runs it: what it refuses, what it removes, what it leaves and says.

Instances are made by the plane itself, but for the one whose holder must live. After it, the interface has no
program, bpffs no folder of the instance, and other instances are as they were.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from pyroute2 import IPRoute, netns

from edge.xdp import syscalls
from edge.xdp.pins import pins_of
from edge.xdp.plane import XdpPlane, detach
from tests.e2e.lab import ROOT, Lab, inside
from tests.e2e.running import EDGE, Running

pytestmark = [pytest.mark.root, pytest.mark.slow]

_numbers = count()


@pytest.fixture
def instance(cache: Path) -> Iterator[str]:
    """Attached to edge0, and a second instance `-b` to edge2."""
    name = f"test-detach-{os.getpid()}-{next(_numbers)}"
    netns.create(name)
    try:
        with inside(name):
            for one, other in (("edge0", "edge1"), ("edge2", "edge3")):
                with IPRoute() as route:
                    route.link("add", ifname=one, kind="veth", peer=other)
            XdpPlane.open(name, ["edge0"], "native", cache=cache).close()
            XdpPlane.open(f"{name}-b", ["edge2"], "native", cache=cache).close()
            yield name
    finally:
        detach(name)
        detach(f"{name}-b")
        netns.remove(name)


def attached(interface: str) -> bool:
    with IPRoute() as route:
        shown = route.link("get", index=socket.if_nametoindex(interface))[0].get_attr("IFLA_XDP")
    return bool(shown and shown.get_attr("IFLA_XDP_PROG_ID"))


def run(instance: str, run_dir: Path, *before: str) -> tuple[int, list[str]]:
    words = [*before, str(EDGE), "detach", "--instance", instance, "--run-dir", str(run_dir)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_it_removes_its_instance_and_no_other(instance: str, tmp_path: Path) -> None:
    status, lines = run(instance, tmp_path)
    assert status == 0
    assert "removed links/native/edge0" in lines and "removed maps/a/edge_counts" in lines
    assert all(line.startswith("removed ") for line in lines)
    assert not pins_of(instance).exists() and not attached("edge0")
    assert pins_of(f"{instance}-b").exists() and attached("edge2")
    assert run(instance, tmp_path) == (0, [f"instance '{instance}' has nothing attached"])


def test_it_removes_what_half_a_start_left(instance: str, tmp_path: Path) -> None:
    """A second place, a program without its link, a link whose interface is gone."""
    folder = pins_of(instance)
    (folder / "maps" / "b").mkdir()
    (folder / "maps" / "a" / "edge_vips").rename(folder / "maps" / "b" / "edge_vips")
    (folder / "programs" / "native" / "edge0%a").rename(folder / "programs" / "native" / "edge9%b")
    with IPRoute() as route:
        route.link("del", index=socket.if_nametoindex("edge0"))
    status, lines = run(instance, tmp_path)
    assert status == 0
    assert {"removed maps/b/edge_vips", "removed programs/native/edge9%b"} <= set(lines)
    assert not folder.exists()


def test_it_leaves_a_strangers_pin_and_says_so(instance: str, tmp_path: Path) -> None:
    pin = pins_of(instance) / "maps" / "a" / "theirs"
    fd = syscalls.map_create(syscalls.MapShape(2, 4, 4, 1, 0), "theirs")
    syscalls.pin(fd, str(pin))
    os.close(fd)
    status, lines = run(instance, tmp_path)
    assert status == 0
    assert [line for line in lines if line.startswith("left")] == ["left maps/a/theirs: it is none of ours"]
    assert pin.exists() and not attached("edge0")
    pin.unlink()


def test_it_needs_root(instance: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    status, lines = run(instance, tmp_path, "setpriv", "--reuid", "65534", "--clear-groups")
    assert status != 0 and len(lines) == 1 and "detach needs root" in lines[0], lines
    assert attached("edge0")


def test_it_has_nothing_to_do_where_bpffs_is_away(instance: str, tmp_path: Path) -> None:
    away = 'while mountpoint -q /sys/fs/bpf; do umount /sys/fs/bpf || exit 9; done; exec "$@"'
    before = ("unshare", "--mount", "--propagation=private", "sh", "-c", away, "sh")
    assert run(instance, tmp_path, *before) == (0, [f"instance '{instance}' has nothing attached"])
    assert attached("edge0")


def test_it_does_not_touch_an_instance_that_lives(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    with Lab(clients=1, pods=1) as lab:
        options = {"xdp": "native", "interface": lab.interfaces()}
        with Running(tmp_path, config, lab=lab, http="198.18.0.1:80", **options) as edge:
            with lab.inside("node"):
                status, lines = run(edge.name, Path(str(edge.options["run_dir"])))
                assert status != 0 and len(lines) == 1, lines
                assert attached("client1")
            assert edge.admin_json("/xdp")["attached"] is True
