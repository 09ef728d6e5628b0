"""The archive: ended presences in SQL, written by workers on the queue `archive`, read by nodes.

`store` is the database, `worker` the loop that fills it, `command` what `presence archive` runs. SQLAlchemy is an
extra: nothing imports it before somebody names a database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from presence.errors import BadSetting

if TYPE_CHECKING:
    from presence.archive.store import Store


def open_store(url: str, *, patience_ms: int, connections: int) -> Store:
    """The database at this address; nothing is asked of it yet. Raises BadSetting, also where a library is missing."""
    try:
        from presence.archive.store import Store
    except ModuleNotFoundError as error:
        raise missing(error) from None
    return Store(url, patience_ms=patience_ms, connections=connections)


def missing(error: ModuleNotFoundError) -> BadSetting:
    """What to say where a library of the extra is missing."""
    return BadSetting(f"the archive needs {error.name}, which is not installed: pip install 'presence-server[archive]'")
