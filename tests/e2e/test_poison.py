"""Poison files beside a hundred canaries: each is named, and nobody notices."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod
from tests.fakes.client import Client

pytestmark = [pytest.mark.slow]

CANARIES = 100
SERVED_S = 10.0  # also while a million documents are read


def bomb(path: Path) -> None:
    """Nine levels of ten aliases: a billion values in 500 bytes."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    path.write_text("\n".join(rows))


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)  # a hole: it takes no room


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def documents(path: Path) -> None:
    path.write_bytes(b"a: 1\n---\n" * 1_000_000)


def same_object(path: Path) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}})
    path.write_text("---\n".join([text + "\n"] * 2_000))


def deep(path: Path) -> None:
    path.write_text("[" * 200_000)


def text(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


POISONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "bomb": (bomb, "Unreadable"),
    "huge": (huge, "Unreadable"),
    "documents": (documents, "Unreadable"),
    "same object": (same_object, "Duplicate"),
    "deep": (deep, "Unreadable"),
    "itself": (text(b"a: &a {b: *a}\n"), "Unreadable"),
    "nul": (text(b"a: \0\n"), "Unreadable"),
    "utf-16": (text("a: 1".encode("utf-16")), "Unreadable"),
    "tag": (text(b"!!python/object/apply:os.system [true]\n"), "Unreadable"),
    "words": (text(b"nothing but words\n"), "NotAnObject"),
    "name": (text(b"apiVersion: v1\nkind: Service\nmetadata: {name: $(id)}\n"), "InvalidName"),
    # Nobody's: looked past, and nothing is said.
    "loop": (loop, ""),
    "pipe": (os.mkfifo, ""),
    "device": (lambda path: path.symlink_to("/dev/zero"), ""),
}


def test_poison_files(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    rules = [[(f"c{n % 10}.test", f"/{n}", "web")] for n in range(CANARIES)]
    with pod("web") as port:
        write(config, "objects.yaml", service("web"), endpoints("web", port))
        write(config, "canaries.yaml", *(ingress(f"canary-{n}", rule) for n, rule in enumerate(rules)))
        with (
            Running(tmp_path, config, workers=1) as edge,
            Client("127.0.0.1", edge.port) as client,
        ):

            def answers() -> list[tuple[int, bytes]]:
                rows = []
                for number in range(CANARIES):
                    answer = client.ask(f"c{number % 10}.test", f"/{number}")
                    rows.append((answer.status, answer.body))
                return rows

            def findings(name: str) -> list[dict[str, Any]]:
                found = edge.admin_json("/diagnostics")["diagnostics"]
                return [one for one in found if one["reason"] == name]

            good = answers()
            assert {status for status, _ in good} == {200}
            for number, (name, (make, reason)) in enumerate(POISONS.items()):
                path = config / "poison.yaml"
                make(path)
                changed = f"/changed-{number}"
                began = time.monotonic()
                write(config, "good.yaml", ingress("good", [("good.test", changed, "web")]))
                if reason:
                    wait_for(f"{name} is named", lambda reason=reason: findings(reason), SERVED_S)
                assert answers() == good, name
                wait_for(
                    f"a change beside {name} is served",
                    lambda changed=changed: client.ask("good.test", changed).status == 200,
                    SERVED_S - (time.monotonic() - began),
                )
                path.unlink()
                if reason:
                    wait_for(f"{name} is forgotten", lambda reason=reason: not findings(reason), SERVED_S)
            assert answers() == good
            assert edge.admin_json("/snapshot")["data_plane"]["restarts"] == 0
