"""DDL on the source while it is dumped: the application goes on, and the sync ends by itself."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.fault.rig import Rig, dump_processes, eventually

STALL_S = 2.5  # one second of patience, half a one between two looks, and a slow machine
WAITS = (
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
    " AND relation = 'items'::regclass"
)


@pytest.fixture
def one_by_one(rig: Rig) -> Iterator[Rig]:
    """A sync of several parts that run one after the other: the schema comes, too."""
    rig.source.close()
    rig.source.env["PEERSYNC_FULL_SYNC_PARALLEL"] = "1"
    rig.source.database.psql("CREATE TABLE more (id int PRIMARY KEY); INSERT INTO more VALUES (1)")
    rig.source.start()
    rig.target.run("peer", "allow", "server-a", "--schema")
    yield rig
    del rig.source.env["PEERSYNC_FULL_SYNC_PARALLEL"]
    rig.source.database.psql(
        "DROP TABLE more; ALTER TABLE items DROP COLUMN IF EXISTS note;"
        "DROP TABLE IF EXISTS items_was"
    )
    rig.target.database.psql("DROP TABLE IF EXISTS more")


class Reader:
    """An application that reads one row again and again; `longest_s` is its worst wait."""

    def __init__(self, conninfo: str) -> None:
        self.longest_s = 0.0
        self._conninfo = conninfo
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            while not self._end.is_set():
                before = time.monotonic()
                connection.execute("SELECT v FROM items WHERE id = 1")
                self.longest_s = max(self.longest_s, time.monotonic() - before)
                time.sleep(0.02)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


@contextmanager
def altering(rig: Rig, sql: str) -> Iterator[threading.Thread]:
    """A migration of the application, begun while the dump holds the table."""
    conninfo = rig.source.database.conninfo() + " application_name=migration"

    def alter() -> None:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(sql.encode())

    thread = threading.Thread(target=alter)
    thread.start()
    try:
        eventually("it waits", lambda: rig.source.database.psql(WAITS) != "0")
        yield thread
    finally:
        thread.join()


def test_an_alter_table_passes_and_the_sync_begins_again(one_by_one: Rig) -> None:
    rig = one_by_one
    seen: list[str] = []

    def told(job: str) -> dict[str, Any] | None:
        view = rig.view(job)
        waiting = (view["progress"] or {}).get("waiting_for") or ""
        if waiting and waiting not in seen:
            seen.append(waiting)
        return view if view["state"] in ("done", "partly", "failed") else None

    with Reader(rig.source.database.conninfo()) as reader:
        with rig.dump_held() as job, altering(rig, "ALTER TABLE items ADD COLUMN note text"):
            pass
        view = eventually("the job ends", lambda: told(job), 90)
    assert reader.longest_s < STALL_S
    assert view["state"] == "partly", view["error"]  # the target has no column note
    assert "ALTER TABLE (pid" in rig.source.log
    assert "application migration" in rig.source.log
    assert any("application migration" in words for words in seen), seen


def test_a_table_that_another_session_keeps_is_waited_for_and_its_holder_named(rig: Rig) -> None:
    with rig.sql(rig.source) as other, rig.gate() as job:
        other.execute("SET application_name = 'nightly'; LOCK TABLE notes")
        rig.open_gate()
        waiting = eventually("it is said", lambda: waiting_for(rig, job))
        assert "application nightly" in waiting
        assert "on public.notes" in waiting
    rig.done(job)


def waiting_for(rig: Rig, job: str) -> str:
    words: str = (rig.view(job)["progress"] or {}).get("waiting_for") or ""
    return words if "application" in words else ""


def test_a_truncate_right_before_the_view_leaves_no_table_that_only_looks_empty(rig: Rig) -> None:
    """What commits while the dump waits for its locks is in the dump: its view comes after."""
    rig.source.database.psql("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)")
    rig.target.database.psql("CREATE TABLE late (id int PRIMARY KEY)")
    try:
        with rig.sql(rig.source) as other, rig.gate() as job:
            other.execute("TRUNCATE late; INSERT INTO late VALUES (2)")
            rig.open_gate()
            rig.waits(rig.source, "peersync/backup/%")
            other.commit()
        assert rig.end(job)["state"] == "done"
        assert rig.target.database.psql("SELECT * FROM late") == "2"
    finally:
        for node in (rig.source, rig.target):
            node.database.psql("DROP TABLE late")


def test_pg_dump_does_not_outlive_its_agent(rig: Rig) -> None:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name LIKE 'peersync/backup/%'"
    )
    with rig.dump_held() as job:
        assert dump_processes(os.getpid())
        rig.source.kill()
        eventually("pg_dump is gone", lambda: not dump_processes(os.getpid()), 3)
        # also in PostgreSQL: the statement that waited was cancelled, the lock is not in the way
        eventually("its session is gone", lambda: rig.source.database.psql(query) == "0", 3)
    rig.source.start()
    rig.done(job)
