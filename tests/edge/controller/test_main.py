"""The controller's parts put together: who may write for the webhook, and from when on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edge.admission import service
from edge.controller.__main__ import open_webhook
from edge.controller.view import View
from edge.dataplane.link import HolderLink
from edge.options import Options
from edge.sources.api import Api


class Service:
    """Notes whom it asks whether we lead."""

    def __init__(self, *_: Any) -> None:
        self.leads: Callable[[], bool] = lambda: False

    def start(self, listener: Any, leads: Callable[[], bool]) -> None:
        listener.close()
        self.leads = leads

    def stop_accepting(self) -> None:
        """Nothing was begun."""


@pytest.mark.parametrize("kubernetes", [True, False])
def test_who_leads_before_the_objects_are_there(kubernetes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "AdmissionService", Service)
    monkeypatch.setattr(Api, "of", lambda _: SimpleNamespace(namespace="ns"))
    view: Any = SimpleNamespace(reporter=None)

    async def story() -> None:
        listener = socket.socket()
        holdings = SimpleNamespace(webhook=listener.fileno())
        link: Any = SimpleNamespace(holdings=holdings, gone=asyncio.Future())
        made: Any = open_webhook(
            Options(kubernetes=kubernetes, webhook="127.0.0.1:0"), cast(HolderLink, link), cast(View, view)
        )
        listener.close()
        assert made.leads() is not kubernetes, "one of many, which the election has not begun for"
        for acting in (True, False):
            view.reporter = SimpleNamespace(acting=lambda acting=acting: acting)
            assert made.leads() is acting

    asyncio.run(story())
