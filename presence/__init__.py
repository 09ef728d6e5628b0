"""Presence server: who is in a channel right now, and who just vanished."""

__version__ = "0.1.0"
