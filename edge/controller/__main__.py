"""The controller process: `python -m edge.controller`, started by the holder with one descriptor.

Puts the parts together, and nothing else. Its exit status 78 tells the holder that another start would
not help; any other death is answered by a restart.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys

from edge import privileges
from edge.admin.server import AdminApi
from edge.channel import Channel
from edge.controller.log import say
from edge.controller.loop import Controller, Hopeless
from edge.dataplane.link import HolderLink
from edge.errors import EdgeError, OptionError, SourceError
from edge.options import Options

EXIT_HOPELESS = 78


async def control(options: Options, end: socket.socket) -> None:
    """Run until the holder says drain, or is gone and does not need us. Errors: EdgeError."""
    link = HolderLink(Channel(end), options.instance_run_dir / "control.sock")
    try:
        await link.open()
        gc.disable()  # until the first objects are there
        controller = Controller(options, link)
        admin = AdminApi(controller.view)
        await admin.start(socket.socket(fileno=os.dup(link.holdings.admin)), options.admin)
        await controller.start()
        # Ten thousand objects that stay are a million for the collector to walk, each time for nothing.
        gc.collect()
        gc.freeze()
        gc.enable()
        await controller.run()
        await admin.close()
    finally:
        link.close()


def main() -> int:
    """Shape: the exit status."""
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
