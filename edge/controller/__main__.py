"""The controller process: `python -m edge.controller`, started by the holder with one descriptor.

Puts the parts together, and nothing else. Its exit status 78 tells the holder that another start would
not help; any other death is answered by a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from edge import privileges
from edge.admin.server import AdminApi
from edge.channel import Channel
from edge.controller.log import say
from edge.controller.loop import Controller, Hopeless
from edge.dataplane.link import HolderLink
from edge.errors import EdgeError, OptionError, SourceError
from edge.options import Options

if TYPE_CHECKING:
    from edge.admission.service import AdmissionService
    from edge.controller.view import View

EXIT_HOPELESS = 78
# How long a thread that works holds up the loop's next step, of which a publish has ten (Python's own: 5 ms).
SWITCH_S = 0.0005
# Rows of all routes are young objects after each publish, and a collection looks at each: 3 to 20 ms.
COLLECT = (50_000, 20, 100)


def open_webhook(options: Options, link: HolderLink, view: View) -> AdmissionService | None:
    """Start the admission webhook, before the objects are there: until then it says so. Errors: EdgeError."""
    if not options.webhook:
        return None
    # Here, so that a folder's instance pays no memory for it.
    from edge.admission.service import AdmissionService
    from edge.sources.api import Api

    api = Api.of(options)
    namespace = options.pod_namespace or api.namespace or "default"
    webhook = AdmissionService(options, view, api, namespace)
    link.on_succeeded = webhook.stop_accepting
    link.gone.add_done_callback(lambda _: webhook.stop_accepting())

    def leads() -> bool:
        return view.reporter.acting() if view.reporter is not None else not options.from_kubernetes

    webhook.start(socket.socket(fileno=os.dup(link.holdings.webhook)), leads)
    return webhook


async def control(options: Options, end: socket.socket) -> None:
    """Run until the holder says drain, or is gone and does not need us. Errors: EdgeError."""
    link = HolderLink(Channel(end), options.instance_run_dir / "control.sock")
    ends = contextlib.AsyncExitStack()
    try:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, link.leave)
        await link.open()
        gc.disable()  # until the first objects are there
        sys.setswitchinterval(SWITCH_S)
        controller = Controller(options, link)
        admin = AdminApi(controller.view)
        await admin.start(socket.socket(fileno=os.dup(link.holdings.admin)), options.admin)
        ends.push_async_callback(admin.close)
        webhook = open_webhook(options, link, controller.view)
        if webhook is not None:
            ends.push_async_callback(webhook.close)
        await controller.start()
        # Ten thousand objects that stay are a million for the collector to walk, each time for nothing.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECT)
        gc.enable()
        await controller.run()
    finally:
        await ends.aclose()
        link.close()


def main() -> int:
    """Shape: the exit status."""
    faulthandler.enable()  # what ends in a library leaves the line of each thread in the log
    privileges.name_process("edge-controller")
    try:
        options = Options.from_environment(os.environ)
        privileges.keep_capabilities(privileges.CONTROLLER_KEEPS)
        with privileges.inherited_channel() as end:
            asyncio.run(control(options, end))
    except (Hopeless, OptionError, SourceError) as error:
        say(str(error))
        return EXIT_HOPELESS
    except (EdgeError, ConnectionError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
