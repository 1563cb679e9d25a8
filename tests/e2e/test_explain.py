"""`edge explain` on a running instance says what the instance does, and what the folder would."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import EDGE, Running, pod

pytestmark = [pytest.mark.slow]


def asked(*words: str) -> tuple[int, Any]:
    done = subprocess.run([EDGE, "explain", *words, "--json"], capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr


def test_instance_folder_and_image_agree(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    with pod("web") as port:
        write(config, "objects.yaml", service("web"), endpoints("web", port))
        write(config, "a.yaml", ingress("a", [("a.example", "/", "web"), ("a.example", "/deep", "none")]))
        with Running(tmp_path, config, workers=1) as edge:
            admin = ["--admin", f"127.0.0.1:{edge.admin_port}"]
            image = str(tmp_path / "image")
            url = f"http://a.example:{edge.port}/x"
            status, running = asked("GET", url, *admin, "--record", image)
            assert status == 0 and running["action"] == "forward"
            assert running["upstreams"][0]["endpoints"][0]["port"] == port
            assert edge.served("a.example") == 200
            for other in (["--config", str(config)], ["--image", image]):
                status, found = asked("GET", url, *other)
                assert status == 0
                for name in ("action", "route", "candidates"):
                    assert found[name] == running[name]
            assert asked("GET", "no url", *admin)[0] == 1

            write(config, "a.yaml", ingress("a", [("a.example", "/deep", "web")]))
            wait_for("the change is explained", lambda: asked("GET", url, *admin)[0] == 1)
            status, found = asked("GET", url, "--image", image)
            assert status == 0 and found["route"] == running["route"]
