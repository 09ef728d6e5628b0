"""The database of ended presences: a batch in one transaction, and the questions that nodes ask.

Every call blocks: it belongs into a thread. What goes wrong is one of two things, and nothing here may confuse them:
the database cannot take anything now (`StoreAway`), or it refuses one row for what is in it (`Refused`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, delete, event, func, select
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from presence.archive.tables import ENDED, KEY, METADATA
from presence.errors import BadSetting

DRIVERS = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
SIGNALLED = 1644  # MariaDB, MySQL: a trigger or procedure refused the row by SIGNAL
READING = "presence_reading"
USERS_AT_ONCE = 500  # in one statement


@dataclass(frozen=True, slots=True)
class Ended:
    """One presence that ended. Moments in ms by Redis's clock; `info` and `state` are JSON objects as text, `state`
    None where it was never learnt; `generation` is greater in each later presence of the user in the channel."""

    user_id: str
    channel: str
    generation: int
    info: str
    state: str | None
    first_seen: int
    last_seen: int
    ended_at: int
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that the database would not take, and the kind of its refusal."""

    row: Ended
    error: str


class StoreAway(Exception):
    """The database cannot be asked or take anything now; the message shows no row and no password."""


class Store:
    """One database. `patience_ms`: how long a call waits for it."""

    def __init__(self, url: str, *, patience_ms: int = 10_000, connections: int = 4) -> None:
        self._engine = _engine(_address(url), patience_ms, connections)

    def prepare(self) -> None:
        """Create the table where it is missing; several may do so at once. Raises StoreAway."""
        url = self._engine.url
        if url.drivername.startswith("sqlite") and url.database and not url.database.startswith("file:"):
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(3):
            try:
                METADATA.create_all(self._engine)
                return
            except SQLAlchemyError as error:  # another was creating it, too
                if attempt == 2:
                    raise _away(error) from error

    def write(self, rows: Sequence[Ended]) -> list[Refused]:
        """Write all rows in one transaction and return those that the database refused; the others are committed.

        A row that is there already stays one row: the later end of the two is kept. Raises StoreAway; then nothing
        is written, or, where the connection was lost in the commit, all of it.
        """
        ordered = sorted(rows, key=lambda row: (row.user_id, row.channel, row.generation))  # so that two wait in line
        values = [asdict(row) for row in ordered]
        statement = _upsert(self._engine.dialect.name)
        try:
            with self._engine.begin() as connection:
                connection.execute(statement, values)
            return []
        except SQLAlchemyError as error:
            if not _refuses_rows(error):
                raise _away(error) from error
        try:
            with self._engine.begin() as connection:
                return list(_one_by_one(connection, statement, ordered))
        except SQLAlchemyError as error:
            raise _away(error) from error

    def last_seen(self, users: Sequence[str]) -> dict[str, int]:
        """When each of these users was last seen, as far as it is known here. Raises StoreAway."""
        found: dict[str, int] = {}
        with self._asking() as connection:
            for at in range(0, len(users), USERS_AT_ONCE):
                chosen = ENDED.c.user_id.in_(users[at : at + USERS_AT_ONCE])
                query = select(ENDED.c.user_id, func.max(ENDED.c.last_seen)).where(chosen).group_by(ENDED.c.user_id)
                found |= {user: int(moment) for user, moment in connection.execute(query)}
        return found

    def last_states(self, places: Iterable[tuple[str, str, int]]) -> list[tuple[int, str] | None]:
        """Of each (channel, user, generation) the generation and state of the newest presence before that one, None
        where there is none, in the same order. Raises StoreAway."""
        found = []
        with self._asking() as connection:
            for channel, user, generation in places:
                query = (
                    select(ENDED.c.generation, ENDED.c.state)
                    .where(ENDED.c.user_id == user, ENDED.c.channel == channel)
                    .where(ENDED.c.generation < generation, ENDED.c.state.is_not(None))
                    .order_by(ENDED.c.generation.desc())
                    .limit(1)
                )
                row = connection.execute(query).first()
                found.append(None if row is None else (int(row[0]), str(row[1])))
        return found

    def channels(self, user: str) -> list[str]:
        """The channels in which a presence of the user is archived. Raises StoreAway."""
        with self._asking() as connection:
            query = select(ENDED.c.channel).where(ENDED.c.user_id == user).distinct()
            return [str(channel) for (channel,) in connection.execute(query)]

    def erase(self, user: str) -> int:
        """Delete every row of the user, and return how many there were. Raises StoreAway."""
        try:
            with self._engine.begin() as connection:
                return int(connection.execute(delete(ENDED).where(ENDED.c.user_id == user)).rowcount)
        except SQLAlchemyError as error:
            raise _away(error) from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _asking(self) -> _Asking:
        return _Asking(self._engine.execution_options(**{READING: True}))


class _Asking:
    """A connection for reading, whose errors are StoreAway."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Connection:
        try:
            self._connection = self._engine.connect()
        except SQLAlchemyError as error:
            raise _away(error) from error
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._connection.close()
        if isinstance(error, SQLAlchemyError):
            raise _away(error) from error


def _one_by_one(connection: Connection, statement: Any, rows: Sequence[Ended]) -> Iterable[Refused]:
    for row in rows:
        try:
            with connection.begin_nested():
                connection.execute(statement, [asdict(row)])
        except SQLAlchemyError as error:
            if not _refuses_rows(error):
                raise
            yield Refused(row, _kind(error))


def _refuses_rows(error: SQLAlchemyError) -> bool:
    """Whether a row was refused for its content. Everything else, such as a lock, a full disk or a table that is
    not there, would refuse any row, and nothing may be set aside for it."""
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return False
    if isinstance(error, (DataError, IntegrityError)):
        return True
    arguments = getattr(error.orig, "args", ())
    state = getattr(error.orig, "sqlstate", None)
    return arguments[:1] == (SIGNALLED,) or state == "P0001"  # PostgreSQL: RAISE in a trigger


def _away(error: SQLAlchemyError) -> StoreAway:
    return StoreAway(_kind(error))


def _kind(error: SQLAlchemyError) -> str:
    """The name of an error and its number, without the text, which may quote rows."""
    original = getattr(error, "orig", None)
    if original is None:
        return type(error).__name__
    number = getattr(original, "sqlstate", None) or getattr(original, "sqlite_errorname", None)
    arguments = getattr(original, "args", ())
    if number is None and arguments and isinstance(arguments[0], int):
        number = str(arguments[0])
    return type(original).__name__ + (f" {number}" if number else "")


def _upsert(dialect: str) -> Any:
    others = [column.name for column in ENDED.columns if column.name not in (*KEY, "ended_at")]
    if dialect in ("mysql", "mariadb"):
        insert = mysql.insert(ENDED)
        new, later = insert.inserted, insert.inserted.ended_at > ENDED.c.ended_at
        # In this order: an assignment sees those before it.
        changes = [(name, func.if_(later, new[name], ENDED.c[name])) for name in (*others, "ended_at")]
        return insert.on_duplicate_key_update(changes)
    make: Callable[[Any], Any] = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = make(ENDED)
    return statement.on_conflict_do_update(
        index_elements=list(KEY),
        set_={name: statement.excluded[name] for name in (*others, "ended_at")},
        where=statement.excluded.ended_at > ENDED.c.ended_at,
    )


def _address(text: str) -> URL:
    """The address with the driver that comes with the extra, where none is named."""
    try:
        url = make_url(text)
    except ArgumentError:
        raise BadSetting("the database's address must look like postgresql://user:password@host/name") from None
    return url.set(drivername=DRIVERS.get(url.drivername, url.drivername))


def _engine(url: URL, patience_ms: int, connections: int) -> Engine:
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
