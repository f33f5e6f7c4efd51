"""What stands in the way of the final transaction is named, with what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from peersync.core.errors import DatabaseError, Locked
from tests.integration.target_rig import Rig
from tests.plugins.clusters import MakeDatabase

ITEMS = "CREATE TABLE items (id int PRIMARY KEY, name text UNIQUE);"


@pytest.fixture(params=[15, 18])
def rig(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Rig:
    rig = Rig(make_database(18), make_database(request.param, nth=1, migrated=True))
    for side in (rig.source, rig.target):
        side.psql(ITEMS + "CREATE TABLE other (id int PRIMARY KEY)")
    rig.source.psql("INSERT INTO items VALUES (1, 'a'), (2, 'b'); INSERT INTO other VALUES (1)")
    rig.target.psql("INSERT INTO items VALUES (1, 'A')")
    return rig


@contextmanager
def held(rig: Rig, statement: str) -> Iterator[int]:
    """A transaction of another application that does not end; gives its pid."""
    conninfo = rig.target.conninfo() + " application_name=billing"
    with psycopg.connect(conninfo) as connection:
        connection.execute(statement.encode())
        yield connection.info.backend_pid
        connection.rollback()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO items VALUES (7, 'mine')",  # holds up the lock of the table
        "SELECT FROM items FOR UPDATE",  # only a row of it
    ],
)
def test_who_holds_a_lock_is_named(rig: Rig, statement: str) -> None:
    with held(rig, statement) as pid, pytest.raises(Locked) as caught:
        rig.sync(lock_timeout_s=1)
    error = caught.value
    assert error.message.startswith(f"public.items is locked by pid {pid} (billing, user postgres")
    assert "idle in transaction, since 20" in error.message and " UTC)" in error.message
    assert f"pg_terminate_backend({pid})" in (error.hint or "")
    assert error.data["pids"] == [pid]
    assert {t.result for t in rig.sync().values()} == {"done"}


def test_a_table_that_was_dropped_meanwhile_is_named_and_the_others_go_on(rig: Rig) -> None:
    with rig.staged() as session:
        rig.target.psql("DROP TABLE items")
        done = session.commit()
    assert done["other"].result == "done"
    assert done["items"].result == "failed"
    assert "public.items was dropped or renamed here meanwhile" in (done["items"].error or "")
    assert "the plan is then made anew" in (done["items"].error or "")


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ("ALTER TABLE items DROP COLUMN name", "name"),
        ("ALTER TABLE items ALTER COLUMN name TYPE varchar(9)", "name"),
        ("ALTER TABLE items ADD COLUMN more int", "more"),
        ("DROP TABLE items; CREATE TABLE items (id int PRIMARY KEY, name text)", ""),
    ],
)
def test_a_table_that_was_changed_meanwhile_is_left_as_it_is(
    rig: Rig, change: str, column: str
) -> None:
    with rig.staged() as session:
        rig.target.psql(change)
        done = session.commit()
    assert (done["items"].result, done["other"].result) == ("failed", "done")
    assert column in (done["items"].error or "") and "Start again" in (done["items"].error or "")


def test_values_that_swap_need_the_replica_role_where_deletes_cascade(rig: Rig) -> None:
    rig.source.psql("UPDATE items SET name = 'x' WHERE id = 1; UPDATE items SET name = 'a' "
                    "WHERE id = 2; UPDATE items SET name = 'b' WHERE id = 1")  # fmt: skip
    rig.target.psql(
        "TRUNCATE items; INSERT INTO items VALUES (1, 'a'), (2, 'b');"
        "CREATE TABLE notes (item int REFERENCES items ON DELETE CASCADE);"
        "INSERT INTO notes VALUES (1)"
    )
    error = rig.sync(replica_role=False)["items"].error or ""
    assert "have moved between rows of public.items" in error
    assert "GRANT SET ON PARAMETER session_replication_role" in error
    assert "drop the unique key" not in error
    assert rig.target.psql("SELECT count(*) FROM notes") == "1"
    assert rig.sync()["items"].updated == 2


def test_a_value_that_a_row_of_ours_holds_is_said_as_such(rig: Rig) -> None:
    rig.target.psql(
        "INSERT INTO items VALUES (9, 'b');"
        "CREATE TABLE notes (item int REFERENCES items ON DELETE CASCADE)"
    )
    error = rig.sync(replica_role=False)["items"].error or ""
    assert "change the row here that has this value" in error
    assert "moved between rows" not in error


def test_when_all_of_it_is_gone_the_next_step_is_said(rig: Rig) -> None:
    with rig.staged() as session:
        rig.target.psql("DROP TABLE items, other")
        with pytest.raises(DatabaseError) as caught:
            session.commit()
    assert "the plan is then made anew" in (caught.value.detail or "")
