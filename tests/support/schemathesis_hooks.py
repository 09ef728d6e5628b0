"""What schemathesis is told besides its configuration; it loads this by name, outside of pytest."""

from __future__ import annotations

from typing import Any

import schemathesis

LONGEST_WAIT_MS = 50


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """A take that may wait for a minute would do so: nothing is in the queue."""
    body = case.body
    if isinstance(body, dict) and type(body.get("wait_ms")) is int and LONGEST_WAIT_MS < body["wait_ms"] <= 60_000:
        body["wait_ms"] = LONGEST_WAIT_MS
