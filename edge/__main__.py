"""`python -m edge` is the command `edge`."""

import sys

from edge.cli.main import main

sys.exit(main())
