"""Users who were erased: their rows must not come back with an end that a worker, or the queue, still has.

Of each is kept a digest of the name, and the generation up to which nothing may be written. Before changing it: a
worker writes first and looks here second, in one transaction; an erasure marks first and deletes second. So whichever
commits last sees the other: SQLite has one writer at a time, InnoDB's delete waits for rows that are not committed, and
PostgreSQL, which would pass over them, is told to wait for the writers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from sqlalchemy import Connection, delete, insert, select, text

from presence.archive.tables import ENDED, ERASED

AT_ONCE = 500  # in one statement


def erase(connection: Connection, user: str, until: int) -> int:
    """Delete the user's rows up to that generation, and let none come back; returns how many there were."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"LOCK TABLE {ENDED.name} IN SHARE ROW EXCLUSIVE MODE"))
    name = _digest(user)
    connection.execute(delete(ERASED).where(ERASED.c.user_digest == name))
    connection.execute(insert(ERASED).values(user_digest=name, generation=until))
    return _delete(connection, user, until)


def delete_erased(connection: Connection, users: Iterable[str]) -> None:
    """Take back what was just written of users who are erased."""
    names = {_digest(user): user for user in users}
    digests = list(names)
    for at in range(0, len(digests), AT_ONCE):
        query = select(ERASED.c.user_digest, ERASED.c.generation)
        for digest, until in connection.execute(query.where(ERASED.c.user_digest.in_(digests[at : at + AT_ONCE]))):
            _delete(connection, names[digest], until)


def _delete(connection: Connection, user: str, until: int) -> int:
    rows = delete(ENDED).where(ENDED.c.user_id == user, ENDED.c.generation <= until)
    return int(connection.execute(rows).rowcount)


def _digest(user: str) -> str:
    return hashlib.sha256(user.encode()).hexdigest()
