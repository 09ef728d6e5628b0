"""Preloaded into a node under test: it lets go of clients that do not read after seconds instead of a minute."""

from __future__ import annotations

from presence.handlers import base, wire

base.UNREAD_S = 1.0
wire.SLOW_END_S = 3.0
