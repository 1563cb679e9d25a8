"""What the running data plane can still do, read from /proc: nothing but serve."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from tests.e2e.lab import ADDRESS, Lab, wait_for
from tests.e2e.objects import endpoints, ingress, policy, service, write
from tests.e2e.running import Running
from tests.fakes.client import ask

pytestmark = [pytest.mark.root, pytest.mark.slow]

FORBIDDEN_MAPPINGS = ("libLLVM", "libclang", "libbcc", "bcc/", "kubernetes")


def status_of(path: Path) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)


@pytest.mark.parametrize("loop", ["uring", "epoll"])
def test_every_thread_is_confined_and_nothing_leaks_in(tmp_path: Path, loop: str) -> None:
    config = tmp_path / "config"
    config.mkdir()
    with Lab(clients=1, pods=1) as lab:
        lab.start_pod(1, "web")
        write(
            config,
            "all.yaml",
            ingress("web", [("a.example.com", "/", "web")]),
            service("web"),
            endpoints("web", 8080, [lab.pod_address(1)]),
            policy(deny=["198.19.66.0/24"]),
        )
        http = f"{ADDRESS}:80"
        options = {"xdp": "native", "interface": lab.interfaces(), "loop": loop}
        with Running(tmp_path, config, lab=lab, http=http, **options) as edge:
            with lab.inside("client1"):
                assert ask(ADDRESS, 80, "a.example.com").status == 200
            process = Path(f"/proc/{edge.pid('edge-data')}")
            threads = list((process / "task").iterdir())
            names = {(thread / "comm").read_text().strip() for thread in threads}
            assert "edge-w0" in names, names
            for thread in threads:
                status = status_of(thread / "status")
                where = f"thread {status['Name']}"
                for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
                    assert int(status[kind], 16) == 0, (where, kind)
                assert status["NoNewPrivs"] == "1", where
                assert status["Seccomp"] == "2", where
                assert "0" not in status["Uid"].split(), where
                assert "0" not in status["Gid"].split(), where
            targets = []
            for entry in (process / "fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # a connection that ended meanwhile
                    targets.append(os.readlink(entry))
            assert not [t for t in targets if "bpf" in t or "btf" in t], targets
            assert not [t for t in targets if "secrets" in t and not t.startswith("/memfd:")], targets
            rings = [t for t in targets if "io_uring" in t]
            assert bool(rings) == (loop == "uring"), targets
            mappings = (process / "maps").read_text().splitlines()
            assert not [m for m in mappings for word in FORBIDDEN_MAPPINGS if word in m]
            heartbeat = [m for m in mappings if "bpf-map" in m]
            assert len(heartbeat) == 1, heartbeat
            first, last = (int(end, 16) for end in heartbeat[0].split()[0].split("-"))
            assert last - first == os.sysconf("SC_PAGE_SIZE")
            words = (process / "environ").read_bytes().lower()
            assert b"token" not in words and b"kube" not in words


def test_the_other_processes_are_what_they_say(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    write(config, "all.yaml", ingress("web", [("a.example.com", "/", "web")]), service("web"))
    with Running(tmp_path, config) as edge:
        holder = (Path(f"/proc/{edge.process.pid}/comm")).read_text().strip()
        assert holder == "edge-holder"
        for name in ("edge-controller", "edge-data"):
            pid = edge.pid(name)
            wait_for(f"{name} mapped", lambda pid=pid: Path(f"/proc/{pid}/maps").read_text(), 5)
            assert "libLLVM" not in Path(f"/proc/{pid}/maps").read_text()
        assert "libbcc" not in Path(f"/proc/{edge.process.pid}/maps").read_text()
