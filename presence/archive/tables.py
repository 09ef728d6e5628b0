"""The tables of ended presences and of erased users, alike in SQLite, PostgreSQL and MariaDB or MySQL.

Before changing it: they live in databases of others, and are only ever created, never altered. Names compare by bytes
everywhere, as they do in the protocol: `Ann` and `ann`, or `e` and `é`, must not be one row.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Dialect, Index, MetaData, String, Table, Text, TypeDecorator
from sqlalchemy.dialects.mysql import VARBINARY
from sqlalchemy.dialects.postgresql import VARCHAR
from sqlalchemy.types import TypeEngine

NAME_BYTES = 200


class Name(TypeDecorator[str]):
    """A channel or user: at most 200 bytes of UTF-8, compared byte by byte."""

    impl = String(NAME_BYTES)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(VARBINARY(NAME_BYTES))
        if dialect.name == "postgresql":
            return dialect.type_descriptor(VARCHAR(NAME_BYTES, collation="C"))
        return dialect.type_descriptor(String(NAME_BYTES))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        return value.encode() if value is not None and dialect.name in ("mysql", "mariadb") else value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return value.decode() if isinstance(value, bytes) else value


METADATA = MetaData()
ENDED = Table(
    "ended_presences",
    METADATA,
    # `user` alone would mean the database's own user in PostgreSQL, without an error.
    Column("user_id", Name, primary_key=True),
    Column("channel", Name, primary_key=True),
    Column("generation", BigInteger, primary_key=True, autoincrement=False),
    Column("info", Text, nullable=False),
    Column("state", Text),  # NULL: nobody set one, and an earlier one had not been found yet
    Column("first_seen", BigInteger, nullable=False),
    Column("last_seen", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("reason", String(20), nullable=False),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
)
ERASED = Table(
    "erased_users",
    METADATA,
    Column("user_digest", String(64), primary_key=True),  # SHA-256 of the name, in hexadecimal digits
    Column("generation", BigInteger, nullable=False),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
)
Index("ended_presences_last_seen", ENDED.c.user_id, ENDED.c.last_seen)
KEY = tuple(column.name for column in ENDED.primary_key.columns)
