"""Connections to the database: the address as people write it, how long each driver waits, SQLite's ways."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from presence.errors import BadSetting

DRIVERS = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
READING = "presence_reading"


def file_of(url: URL) -> Path | None:
    """The file of a SQLite database that is one."""
    named = url.database if url.drivername.startswith("sqlite") else None
    return Path(named) if named and named != ":memory:" and not named.startswith("file:") else None


def address_of(text: str) -> URL:
    """The address with the driver that comes with the extra, where none is named."""
    try:
        url = make_url(text)
    except ArgumentError:
        raise BadSetting("the database's address must look like postgresql://user:password@host/name") from None
    return url.set(drivername=DRIVERS.get(url.drivername, url.drivername))


def make_engine(url: URL, patience_ms: int, connections: int) -> Engine:
    family = url.drivername.partition("+")[0]
    try:
        engine = create_engine(
            url,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=patience_ms / 1000,
            pool_pre_ping=family != "sqlite",
            connect_args=_patience(url.drivername, patience_ms),
            hide_parameters=True,
        )
    except (ImportError, NoSuchModuleError) as error:
        wanted = re.sub(r"[^\w.]", "", getattr(error, "name", None) or url.drivername)
        raise BadSetting(
            f"{url.drivername} needs {wanted}, which is not installed: pip install 'presence-server[archive]'"
        ) from None
    if family == "sqlite":
        _tune_sqlite(engine)
    return engine


def _patience(driver: str, patience_ms: int) -> dict[str, Any]:
    """How each driver is told not to wait for ever."""
    seconds = max(1, patience_ms // 1000)
    if driver.startswith("sqlite"):
        return {"timeout": patience_ms / 1000}
    if driver == "postgresql+psycopg":
        options = f"-c statement_timeout={patience_ms} -c lock_timeout={patience_ms}"
        # libpq knows no limit below 2 s for connecting.
        return {"connect_timeout": max(2, seconds), "tcp_user_timeout": patience_ms, "options": options}
    if driver.endswith("+pymysql"):
        return {"connect_timeout": seconds, "read_timeout": seconds, "write_timeout": seconds}
    return {}


def _tune_sqlite(engine: Engine) -> None:
    """Readers do not wait for writers, a commit is on the disk, and transactions are begun by us: left to itself the
    driver would take a savepoint for the transaction."""

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        # Who will write says so at once: a reader that turns writer finds that it read too early, and must give up.
        connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(READING) else "BEGIN IMMEDIATE")
