"""``python -m presence`` is the command ``presence``."""

import sys

from presence.cli import main

sys.exit(main())
