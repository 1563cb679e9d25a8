"""The container image: what is in it, and that it runs as its manifest asks: PID 1, read-only, few rights.

Built without a container engine; the first build on a machine takes a minute or two.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import privileges
from manifests.image.build import TAGS, build, layers
from tests.e2e.lab import ADDRESS, Lab
from tests.e2e.objects import endpoints, ingress, policy, service, write
from tests.fakes.client import Client
from tests.manifests.container import BASE, Contained, unpack
from tests.manifests.written import container

pytestmark = [pytest.mark.root, pytest.mark.slow]

HOST = "a.example"
MEGABYTE = 1_000_000
TARGETS = sorted(TAGS) if os.environ.get("EDGE_LONG") else ["edge"]
BUILDERS = re.compile(
    r"bin/(gcc|cc|clang|ld|as|make|pip3?|bpftool)(-?[0-9.]+)?$|libLLVM|libclang|/include/.*\.h$"
)


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def archive(target: str) -> Path:
    return build(target)


@pytest.fixture(scope="module")
def root(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("image", numbered=True) / "root"
    unpack(archive, root)
    return root


@pytest.fixture
def edge(tmp_path: Path, root: Path) -> Iterator[Contained]:
    with Lab(clients=1, pods=1) as lab:
        lab.start_pod(1, "web")
        config = tmp_path / "config"
        config.mkdir(mode=0o755)
        slices = endpoints("web", 8080, [lab.pod_address(1)])
        write(config, "objects.yaml", service("web"), slices, ingress("a", [(HOST, "/", "web")]))
        write(config, "policy.yaml", policy(deny=["198.18.1.3/32"]))
        running = Contained(
            tmp_path, config, lab=lab, http=f"{ADDRESS}:80", xdp="native", interface=lab.interfaces(),
            workers=2, loop="uring", access_log="-", run_dir="/run/edge", state_dir="/var/lib/edge",
        )  # fmt: skip
        running.root = root
        with running:
            yield running


def test_it_is_small_and_its_last_layer_smaller(archive: Path, target: str) -> None:
    limit = 240 if target == "edge" else 700
    assert archive.stat().st_size < limit * MEGABYTE
    assert layers(archive)[-1][1] < 10 * MEGABYTE, "what changes most often is the smallest layer"


def test_nothing_that_builds_is_in_it(root: Path, target: str) -> None:
    names = [str(path.relative_to(root)) for path in root.rglob("*")]
    found = [name for name in names if BUILDERS.search(name)]
    if target == "bcc":
        found = [
            name for name in found if "libLLVM" not in name and "libclang" not in name and "bcc" not in name
        ]
    assert not found


def test_nothing_of_the_machine_that_built_it_is_in_it(root: Path) -> None:
    for name in ("etc/apt/sources.list", "etc/apt/apt.conf", "etc/pip.conf", "etc/host-ca-certificates.crt"):
        path = root / name
        assert not path.exists() or not path.stat().st_size, name


def test_it_serves_as_pid_1_with_the_rights_of_its_manifest(edge: Contained, target: str) -> None:
    assert edge.lab is not None
    with edge.lab.inside("client1"), Client(ADDRESS, 80) as client:
        assert client.ask(HOST, "/").status == 200
    shown = edge.admin_json("/xdp")
    assert shown["attached"] and set(shown["interfaces"].values()) == {"native"}, shown
    assert ("stored" if target == "edge" else "compiled") in edge.lines(), edge.lines()
    assert "uring" in edge.inside_of("edge", "status", "--instance", edge.name).stdout
    assert edge.inside_of("touch", "/opt/x").returncode != 0, "the root file system can be written"
    assert edge.inside_of("cat", "/proc/1/comm").stdout.strip() == "edge-holder"
    kept = {"edge-holder": privileges.HOLDER_KEEPS, "edge-controller": privileges.CONTROLLER_KEEPS}
    for name, wanted in {**kept, "edge-data": ()}.items():
        assert capabilities(edge.pid(name)) == sum(1 << privileges.CAPABILITIES[one] for one in wanted), name
    assert edge.stop() == 0, edge.lines()


def capabilities(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("CapEff:")[2].split()[0], 16)


def test_the_probe_of_the_start_sees_its_own_data_plane(edge: Contained) -> None:
    probe = container(BASE)["startupProbe"]["exec"]["command"]
    assert edge.inside_of(*probe).returncode == 0
    outside = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *probe], check=False
    )
    assert outside.returncode == 1, "it passes where there is none"
