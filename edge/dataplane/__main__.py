"""``python -m edge.dataplane``: the data plane's process, as the holder starts it."""

import sys

from edge.dataplane.main import main

sys.exit(main())
