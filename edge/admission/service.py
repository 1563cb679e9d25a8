"""The webhook of one instance, put together: its Secret followed, its server opened as soon as it can.

Started by the controller's process with --webhook. The leader tends the Secret beside; every instance serves
what stands in it, and goes on with what it has while the API server cannot be asked.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable

from edge.admission.certificate import dates_of
from edge.admission.scope import scope_of
from edge.admission.secret import Contents, Tender, WebhookSecret
from edge.admission.server import Serving, Webhook
from edge.controller.calls import Calls, RequestApi
from edge.controller.listening import until_open
from edge.controller.log import say
from edge.controller.view import View
from edge.errors import ApiError, OptionError
from edge.options import Options

FOLLOW_S = 20.0  # between two looks at the Secret
READ_S = 30.0  # for the objects that are there
READ_LOOK_S = 0.05
FIRST_S = 1.0  # while there is none


class AdmissionService:
    """Errors: OptionError for a --watch-selector or --webhook-client-ca that cannot be used."""

    def __init__(self, options: Options, view: View, api: RequestApi, namespace: str) -> None:
        try:
            self.webhook = Webhook(view, scope_of(options), options.webhook_client_ca)
        except OSError as error:
            raise OptionError(
                f"--webhook-client-ca: {options.webhook_client_ca}: {error.strerror}"
            ) from error
        self._view = view
        self._calls = Calls(api, 1, "edge-webhook")
        self._secret = WebhookSecret(self._calls, namespace, options.webhook_service)
        self._place = options.webhook
        self._serving: Contents | None = None
        self._tender = Tender(self._secret)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, listening: socket.socket, leads: Callable[[], bool]) -> None:
        """Serve on the holder's socket from the moment on that there is a certificate.

        ``leads``: whether this instance is the one that makes and renews it now.
        """
        self._tasks = [
            asyncio.create_task(self._follow(listening)),
            asyncio.create_task(self._tender.run(leads)),
        ]

    def stop_accepting(self) -> None:
        """Leave new calls to a successor that has the same socket."""
        self.webhook.stop()

    async def close(self) -> None:
        """End; calls under way are answered."""
        for task in self._tasks:
            task.cancel()
        await self.webhook.close()
        self._calls.close()

    async def _follow(self, listening: socket.socket) -> None:
        opened = False
        told = ""
        try:
            while True:
                try:
                    found = await self._secret.read()
                    problem = "there is no Secret yet; the leader makes it" if found is None else ""
                    if found is not None:
                        problem = self._use(found[1])
                except ApiError as error:
                    problem = str(error)
                if self._serving is not None and not opened:
                    what = "the admission webhook"
                    if not await until_open(listening, self._place, "--webhook", what):
                        return
                    await self._until_read()
                    opened = True
                    self.webhook.start(listening)
                    say(f"{what} is open on {self._place}")
                if problem and problem != told:
                    say(f"webhook: {problem}")
                told = problem
                await asyncio.sleep(FIRST_S if self._serving is None else FOLLOW_S)
        finally:
            if not opened:
                listening.close()

    async def _until_read(self) -> None:
        """Wait for the objects: a predecessor that knows them may accept on the same socket still.

        Not for ever, because somebody must say that they are not there.
        """
        deadline = time.monotonic() + READ_S
        while self._view.judge is None and time.monotonic() < deadline:
            await asyncio.sleep(READ_LOOK_S)

    def _use(self, contents: Contents) -> str:
        """Serve what the Secret says, if it is another. Shape: "" or why it cannot be served."""
        if contents == self._serving:
            return ""
        if not contents.token or not contents.serves(self._secret.names):
            return "what stands in the Secret cannot be served; the leader makes it anew"
        try:
            self.webhook.use(Serving(contents.chain, contents.key, (contents.token,)))
        except (ssl.SSLError, OSError) as error:
            return f"the certificate cannot be loaded: {error}"
        self._serving = contents
        dates = dates_of(contents.chain)
        self._view.admission.certificate_ends = dates.ends.timestamp() if dates else 0.0
        return ""
