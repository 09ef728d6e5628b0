"""The database of ended presences: a batch in one transaction, and the questions that nodes ask.

Every call blocks: it belongs into a thread. What goes wrong is one of two things, and nothing here may confuse them:
the database cannot take anything now (`StoreAway`), or it refuses one row for what is in it (`Refused`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Select,
    bindparam,
    func,
    inspect,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from presence.archive.engine import READING, address_of, file_of, make_engine
from presence.archive.erased import delete_erased, erase
from presence.archive.tables import ENDED, KEY, METADATA

T = TypeVar("T")

SIGNALLED = 1644  # MariaDB, MySQL: a trigger or procedure refused the row by SIGNAL
NO_TABLE = "no worker has made its table yet"
USERS_AT_ONCE = 500  # in one statement
PLACES_AT_ONCE = 100  # SQLite takes 500 parts at the most


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
        self._engine = make_engine(address_of(url), patience_ms, connections)

    def prepare(self) -> None:
        """Create the tables where they are missing; several may do so at once. Raises StoreAway."""
        if path := file_of(self._engine.url):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreAway(f"{path.parent}: {error.strerror}") from None
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
        if not rows:
            return []
        ordered = sorted(rows, key=lambda row: (row.user_id, row.channel, row.generation))  # so that two wait in line
        values = [asdict(row) for row in ordered]
        statement = _upsert(self._engine.dialect.name)
        try:
            with self._engine.begin() as connection:
                connection.execute(statement, values)
                delete_erased(connection, {row.user_id for row in rows})
            return []
        except SQLAlchemyError as error:
            if not _refuses_rows(error):
                raise _away(error) from error
        try:
            with self._engine.begin() as connection:
                refused = list(_one_by_one(connection, statement, ordered))
                delete_erased(connection, {row.user_id for row in rows})
                return refused
        except SQLAlchemyError as error:
            raise _away(error) from error

    def last_seen(self, users: Sequence[str]) -> dict[str, int]:
        """When each of these users was last seen, as far as it is known here. Raises StoreAway."""

        def ask(connection: Connection) -> dict[str, int]:
            found: dict[str, int] = {}
            for at in range(0, len(users), USERS_AT_ONCE):
                chosen = ENDED.c.user_id.in_(users[at : at + USERS_AT_ONCE])
                query = select(ENDED.c.user_id, func.max(ENDED.c.last_seen)).where(chosen).group_by(ENDED.c.user_id)
                found |= {user: int(moment) for user, moment in connection.execute(query)}
            return found

        return self._ask(ask, {})

    def last_states(self, places: Sequence[tuple[str, str, int]]) -> list[tuple[int, str] | None]:
        """Of each (channel, user, generation) the generation and state of the newest presence before that one, None
        where there is none, in the same order. Raises StoreAway."""

        def ask(connection: Connection) -> list[tuple[int, str] | None]:
            found: dict[int, tuple[int, str]] = {}
            for at in range(0, len(places), PLACES_AT_ONCE):
                wanted = _named(places[at : at + PLACES_AT_ONCE])
                rows = connection.execute(_last_states(len(wanted) // 3), wanted)
                found |= {at + number: (int(generation), str(state)) for number, generation, state in rows}
            return [found.get(number) for number in range(len(places))]

        return self._ask(ask, [None] * len(places))

    def erase(self, user: str, until: int) -> int:
        """Delete the user's rows up to that generation, also those that workers still bring; returns how many there
        were. Raises StoreAway."""
        self.prepare()
        try:
            with self._engine.begin() as connection:
                return erase(connection, user, until)
        except SQLAlchemyError as error:
            raise _away(error) from error

    def problem(self) -> str | None:
        """What is wrong with the database for whoever reads it, None where nothing is."""
        try:
            asked = self._ask(lambda connection: connection.execute(_last_state("", "", 0)).all(), None)
        except StoreAway as error:
            return str(error)
        return NO_TABLE if asked is None else None

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _ask(self, question: Callable[[Connection], T], empty: T) -> T:
        """Read; a database in which no worker has made the table yet is an empty one, and stays as it is."""
        path = file_of(self._engine.url)
        if path is not None and not path.exists():
            return empty
        try:
            with self._engine.execution_options(**{READING: True}).connect() as connection:
                return question(connection)
        except SQLAlchemyError as error:
            if self._has_no_table():
                return empty
            raise _away(error) from error

    def _has_no_table(self) -> bool:
        """Whether the database says so; False also where it says nothing."""
        try:
            return not inspect(self._engine).has_table(ENDED.name)
        except SQLAlchemyError:
            return False


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


def _named(places: Sequence[tuple[str, str, int]]) -> dict[str, str | int]:
    """The parameters of `_last_states`, with places where nobody is until there are as many as one of its sizes."""
    size = next(size for size in (1, 10, PLACES_AT_ONCE) if size >= len(places))
    padded = [*places, *[("", "", 0)] * (size - len(places))]
    named: dict[str, str | int] = {}
    for at, (channel, user, generation) in enumerate(padded):
        named |= {f"c{at}": channel, f"u{at}": user, f"g{at}": generation}
    return named


@lru_cache
def _last_states(size: int) -> CompoundSelect[Any]:
    """One statement for so many places: a database that is far away takes as long for each statement. Made and compiled
    once, for that takes longer than to run it."""
    answers = [
        _last_state(bindparam(f"c{at}"), bindparam(f"u{at}"), bindparam(f"g{at}")).subquery() for at in range(size)
    ]
    return union_all(
        *(
            select(literal_column(str(number)), answer.c.generation, answer.c.state)
            for number, answer in enumerate(answers)
        )
    )


def _last_state(channel: Any, user: Any, generation: Any) -> Select[Any]:
    return (
        select(ENDED.c.generation, ENDED.c.state)
        .where(ENDED.c.user_id == user, ENDED.c.channel == channel)
        .where(ENDED.c.generation < generation, ENDED.c.state.is_not(None))
        .order_by(ENDED.c.generation.desc())
        .limit(1)
    )
