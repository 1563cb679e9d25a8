"""Fixtures of the packet tests: a plane of its own instance for each test, without an interface."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from edge.xdp.plane import XdpPlane, detach
from tests.bpf.packets import ipv4, ipv6, tcp
from tests.bpf.probe import V4, V6, Probe

_NUMBERS = count()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One compilation for all tests."""
    return tmp_path_factory.mktemp("objects")


@pytest.fixture
def probe(cache: Path) -> Iterator[Probe]:
    instance = f"test-bpf-{os.getpid()}-{next(_NUMBERS)}"
    plane = XdpPlane.open(instance, [], cache=cache)
    try:
        yield Probe(plane)
    finally:
        plane.close()
        detach(instance)


@pytest.fixture(params=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build(family: str):
    """Frame builder of the family, to our VIP unless told."""

    def make(payload: bytes | None = None, **values: object) -> bytes:
        payload = tcp() if payload is None else payload
        if family == "ipv4":
            return ipv4(str(values.pop("target", V4)), payload, **values)  # type: ignore[arg-type]
        return ipv6(str(values.pop("target", V6)), payload, **values)  # type: ignore[arg-type]

    return make
