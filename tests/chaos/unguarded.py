"""Preloaded into a node under test: takes the guard out that the environment names."""

from __future__ import annotations

import os

from tests.chaos.guards import GUARDS, VARIABLE
from tests.support.patches import without

_cut = without(next(guard.cut for guard in GUARDS if guard.name == os.environ[VARIABLE]))
_cut.__enter__()  # for as long as the node lives
