"""The database of ended presences, on real SQLite, PostgreSQL and MariaDB: nothing twice, nothing confused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="needs the extra `archive`")

from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError

from presence.archive.erased import delete_erased
from presence.archive.store import Ended, Store, StoreAway
from presence.errors import BadSetting
from tests.support.archivist import rows
from tests.support.databases import execute

ROW = Ended("ann", "room", 5, '{"n":"ann"}', '{"mood":"fine"}', 100, 200, 210, "left")


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """An empty store."""
    store = Store(database, patience_ms=2000)
    store.prepare()
    yield store
    store.close()


def refuse(database: str, user: str) -> None:
    """Make the database refuse rows of that user, by a trigger as an operator might have one."""
    head = "CREATE TRIGGER refuse BEFORE INSERT ON ended_presences FOR EACH ROW"
    if database.startswith("sqlite"):
        body = f"{head} WHEN NEW.user_id = '{user}' BEGIN SELECT RAISE(ABORT, 'no'); END"
        execute(database, body)
    elif database.startswith("mysql"):
        body = f"IF NEW.user_id = '{user}' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF"
        execute(database, f"{head} BEGIN {body}; END")
    else:
        body = f"BEGIN IF NEW.user_id = '{user}' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END"
        execute(database, f"CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
        execute(database, f"{head} EXECUTE FUNCTION no()")


def test_a_row_keeps_everything_and_writing_it_again_makes_no_second_one(store: Store, database: str) -> None:
    assert store.write([]) == []
    assert store.write([ROW, ROW]) == []
    assert store.write([ROW]) == []

    assert [Ended(**row) for row in rows(database)] == [ROW]


def test_of_two_ends_of_one_presence_the_later_is_kept_whichever_is_written_last(store: Store, database: str) -> None:
    later = replace(ROW, ended_at=300, last_seen=290, state='{"mood":"tired"}', reason="timeout")

    store.write([ROW])
    store.write([later])
    store.write([ROW])

    (row,) = rows(database)
    assert (row["ended_at"], row["last_seen"], row["state"], row["reason"]) == (300, 290, '{"mood":"tired"}', "timeout")


def test_a_worker_that_comes_too_late_does_not_bring_an_older_state_back(store: Store) -> None:
    store.write([replace(ROW, generation=7, state='{"mood":"new"}', last_seen=400)])
    store.write([ROW])

    assert store.last_states([("room", "ann", 9)]) == [(7, '{"mood":"new"}')]
    assert store.last_seen(["ann"]) == {"ann": 400}


def test_the_last_state_is_that_of_the_newest_earlier_presence_in_which_one_was_known(store: Store) -> None:
    store.write([ROW, replace(ROW, generation=6, state=None), replace(ROW, generation=8, state="{}")])

    places = [("room", "ann", generation) for generation in (5, 6, 7, 8, 9)]
    known = (5, ROW.state)
    assert store.last_states([*places, ("hall", "ann", 9), ("room", "ben", 9)]) == [
        *(None, known, known, known, (8, "{}")),
        *(None, None),
    ]


def test_the_states_of_a_whole_batch_are_one_question_for_a_database_may_be_far_away(store: Store) -> None:
    users = [f"user-{number:03d}" for number in range(250)]
    store.write([replace(ROW, user_id=user, state=f'{{"of":"{user}"}}') for user in users])
    asked = list[str]()

    def note(*given: Any) -> None:
        asked.append(given[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        found = store.last_states([("room", user, 9) for user in reversed(users)])
    finally:
        event.remove(Engine, "before_cursor_execute", note)

    assert found == [(5, f'{{"of":"{user}"}}') for user in reversed(users)]
    assert len([text for text in asked if "ended_presences" in text]) == 3


NAMES = ["ann", "Ann", "änn", "a%", "a_", "*", "' OR 1=1 --", "{p0}", "é", "e", "ß", "ss", "😀", "ä" * 100, "a|b", "\\"]


def test_names_are_taken_literally_and_compare_byte_by_byte(store: Store) -> None:
    store.write([replace(ROW, user_id=name, channel=name, last_seen=at) for at, name in enumerate(NAMES)])

    assert store.last_seen(NAMES) == {name: at for at, name in enumerate(NAMES)}
    assert store.last_seen(["ANN", "a", "nobody"]) == {}


def test_a_state_of_any_characters_comes_back_as_it_went(store: Store) -> None:
    state = '{"t":"\\u0000 \\" \' \\\\ 😀 \u2028 ä","n":[1.5,-0.0,1e300,12345678901234567890,null,true]}'

    store.write([replace(ROW, state=state, info=state)])

    assert store.last_states([("room", "ann", 9)]) == [(5, state)]


def test_a_row_that_the_database_refuses_is_set_aside_and_the_rest_of_its_batch_commits(
    store: Store, database: str
) -> None:
    refuse(database, "bad")
    batch = [replace(ROW, user_id=user) for user in ("ann", "bad", "cid")]

    refused = store.write(batch)

    assert [each.row.user_id for each in refused] == ["bad"]
    assert "no" not in refused[0].error.split()  # the text of an error may quote the row
    assert {row["user_id"] for row in rows(database)} == {"ann", "cid"}


def test_a_database_without_its_table_refuses_no_row_but_is_away(store: Store, database: str) -> None:
    execute(database, "DROP TABLE ended_presences")

    with pytest.raises(StoreAway):
        store.write([ROW])
    store.prepare()
    assert store.write([ROW]) == []


def test_who_reads_before_the_first_worker_came_finds_nothing_and_makes_nothing(database: str, tmp_path: Path) -> None:
    missing = tmp_path / "folder" / "file.sqlite"
    for url in (database, f"sqlite:///{missing}"):
        store = Store(url)

        assert store.last_seen(["ann"]) == {}
        assert store.last_states([("room", "ann", 9), ("hall", "ann", 9)]) == [None, None]
        assert "worker" in str(store.problem())
        store.close()

    assert not missing.parent.exists()
    with pytest.raises(DBAPIError):
        rows(database)


def test_an_erased_user_leaves_no_row_and_the_others_stay(store: Store, database: str) -> None:
    store.write([ROW, replace(ROW, channel="hall"), replace(ROW, user_id="Ann"), replace(ROW, user_id="ben")])

    assert store.erase("ann", 100) == 2
    assert store.erase("ann", 100) == 0
    assert {row["user_id"] for row in rows(database)} == {"Ann", "ben"}


def test_what_comes_late_of_an_erased_user_is_not_written_and_what_is_newer_is(store: Store, database: str) -> None:
    store.erase("ann", 100)

    for generation in (5, 100, 101):
        store.write([replace(ROW, generation=generation), replace(ROW, user_id="ben", generation=generation)])

    kept = {(row["user_id"], row["generation"]) for row in rows(database)}
    assert kept == {("ann", 101), ("ben", 5), ("ben", 100), ("ben", 101)}


def test_an_erasure_beside_a_writer_leaves_nothing_whichever_commits_last(
    store: Store, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, erased = Event(), Event()

    def look_late(connection: Any, users: Any) -> None:
        written.set()
        erased.wait(1)  # SQLite and PostgreSQL let the erasure wait for this writer: then time is up first
        delete_erased(connection, users)

    monkeypatch.setattr("presence.archive.store.delete_erased", look_late)
    with ThreadPoolExecutor() as threads:
        writing = threads.submit(store.write, [ROW])
        assert written.wait(5)
        erasing = threads.submit(store.erase, "ann", 100)
        erasing.add_done_callback(lambda _: erased.set())
        assert writing.result(10) == []
        erasing.result(10)

    assert rows(database) == []


def test_several_workers_may_create_the_table_and_write_the_same_rows_at_once(database: str) -> None:
    batch = [replace(ROW, user_id=f"u{number % 50}", generation=number) for number in range(300)]

    def work(turn: int) -> list[Any]:
        store = Store(database)
        try:
            store.prepare()
            return store.write(batch if turn % 2 else batch[::-1])
        finally:
            store.close()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(8))) == [[]] * 8
    assert len(rows(database)) == 300


@pytest.mark.parametrize("url", ["postgresql://nobody:secret@127.0.0.1:1/x", "mysql://nobody:secret@127.0.0.1:1/x"])
def test_a_database_that_is_not_there_is_away_and_its_password_is_in_no_message(url: str) -> None:
    store = Store(url, patience_ms=500)

    with pytest.raises(StoreAway) as caught:
        store.write([ROW])
    with pytest.raises(StoreAway):
        store.last_seen(["ann"])

    assert "secret" not in str(caught.value)
    store.close()


def test_an_address_or_driver_that_does_not_exist_is_a_bad_setting() -> None:
    for url in ("nonsense", "oracle://x/y", "postgresql+nothing://x/y"):
        with pytest.raises(BadSetting):
            Store(url)
