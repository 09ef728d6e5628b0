"""The archive: ended presences in SQL, written by workers on the queue `archive`, read by nodes.

`store` is the database, `worker` the loop that fills it, `command` what `presence archive` runs. Nothing here is
imported before somebody names a database: SQLAlchemy is an extra.
"""
