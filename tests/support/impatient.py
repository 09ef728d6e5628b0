"""Preloaded into a node under test: it gives up answers that nobody reads after a second instead of a minute."""

from __future__ import annotations

from presence.handlers import base

base.UNREAD_S = 1.0
