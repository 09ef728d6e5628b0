"""System programs that some tests need: missing ones are skipped on a laptop, and are a failure in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def need_program(*names: str) -> str:
    """The path of the first of these programs that is installed; without any, skip (or fail under CI=true)."""
    for name in names:
        if found := shutil.which(name):
            return found
    missing = f"needs the system program {' or '.join(names)}"
    if os.environ.get("CI") == "true":
        pytest.fail(missing + ", which CI must install")
    pytest.skip(missing)
