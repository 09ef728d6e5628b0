"""One line per log entry: time, level, event name, then fields; never a token, never raw input.

What comes from outside may hold line breaks, terminal codes or a token in an address: every value is escaped,
cut and stripped of tokens here, also in the lines and tracebacks of libraries.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time

MAX_VALUE_CHARACTERS = 200
MAX_TRACEBACK_CHARACTERS = 8000

_BARE = re.compile(r"[A-Za-z0-9_.:/@+-]+")
_TOKEN = re.compile(r"(?<=token=)[^&\s'\"]+|\beyJ[\w-]+\.[\w-]+\.?[\w-]*|(?<=Bearer )[^\s'\"]+")


class Logger:
    """A named logger whose entries are an event name and fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        """Say what helps only while developing."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Say what happened as it should."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Say what an operator must act on."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, *, exc_info: BaseException | bool | None = None, **fields: object) -> None:
        """Say what is broken, with the traceback of ``exc_info`` if given."""
        self._log(logging.ERROR, event, fields, exc_info)

    def _log(
        self, level: int, event: str, fields: dict[str, object], exc_info: BaseException | bool | None = None
    ) -> None:
        if self._logger.isEnabledFor(level):
            line = " ".join([event, *(f"{key}={_value(value)}" for key, value in fields.items())])
            self._logger.log(level, "%s", line, exc_info=exc_info, extra={"composed": True})


def get(name: str) -> Logger:
    """Return the logger of a module."""
    return Logger(name)


def setup(level: str = "INFO") -> None:
    """Send every log line of the process to stderr in this format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Tornado's access log prints addresses, and addresses may carry tokens; metrics count requests instead.
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL + 1)
    # Its notes about malformed requests quote them, tokens included.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)


class _LineFormatter(logging.Formatter):
    """Prints our own lines as they are and wraps the lines of libraries as the field of a ``log`` event."""

    def format(self, record: logging.LogRecord) -> str:
        instant = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = record.getMessage()
        if not hasattr(record, "composed"):
            line = f"log logger={_value(record.name)} message={_value(line)}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += f" traceback={_value(trace[-MAX_TRACEBACK_CHARACTERS:], MAX_TRACEBACK_CHARACTERS)}"
        return f"{instant}.{int(record.msecs):03d}Z {record.levelname.lower()} {line}"


def _value(value: object, most: int = MAX_VALUE_CHARACTERS) -> str:
    text = _TOKEN.sub("***", str(value))
    if len(text) > most:
        text = text[:most] + "…"
    if _BARE.fullmatch(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in quoted)
