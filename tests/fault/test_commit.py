"""COMMIT in flight: whether it happened is asked of the database, and said truthfully.

A deferred trigger that waits for an advisory lock holds a COMMIT for as long as a test likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.fault.conftest import start_both
from tests.fault.rig import (
    NEW,
    OLD,
    SOURCE_ROWS,
    TARGET_ROWS,
    Rig,
    ask,
    eventually,
    free_port,
    make_rig,
)
from tests.plugins.clusters import Database, GetCluster
from tests.plugins.proxy import Proxy

SLOW_COMMIT = """
    CREATE OR REPLACE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT OR UPDATE ON notes
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_at_commit();
    ALTER TABLE notes ENABLE ALWAYS TRIGGER slow;"""
END_RESTORE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name LIKE 'peersync/restore/%'"
)


@contextmanager
def commit_held(rig: Rig) -> Iterator[tuple[str, psycopg.Connection]]:
    """A session whose COMMIT is under way; the connection's end lets it go on."""
    rig.target.database.psql(SLOW_COMMIT)
    with rig.sql(rig.target) as other:
        other.execute("SELECT pg_advisory_lock(4711)")
        job = rig.begin()
        running = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
            " AND application_name LIKE 'peersync/restore/%' AND query = 'COMMIT'"
        )
        eventually("COMMIT is in flight", lambda: rig.target.database.psql(running) == "1")
        yield job, other


def let_commit(other: psycopg.Connection) -> None:
    other.execute("SELECT pg_advisory_unlock_all()")


def test_p1_a_commit_that_was_ended_is_done_again(rig: Rig) -> None:
    with commit_held(rig) as (job, _other):
        assert rig.target.database.psql(END_RESTORE) == "t"
    view = rig.done(job)
    assert view["progress"]["resumed"] == 1


def test_p1_target_killed_while_it_commits(rig: Rig) -> None:
    with commit_held(rig) as (job, other):
        rig.target.kill()
        assert rig.state() == OLD
        let_commit(other)
        eventually("PostgreSQL has committed", lambda: rig.state() == NEW)
        rig.target.start()
        before = rig.target.database.psql("SELECT min(xmin::text) FROM notes")
        rig.done(job)
        assert rig.target.database.psql("SELECT min(xmin::text) FROM notes") == before


def test_a_cancel_that_comes_while_it_commits_tells_the_truth(rig: Rig) -> None:
    with commit_held(rig) as (job, other):
        assert ask(rig.target, "POST", f"/api/admin/jobs/{job}/cancel")["state"] == "cancelling"
        let_commit(other)
    view = rig.end(job)
    assert (view["state"], rig.state()) in [("done", NEW), ("cancelled", OLD)]
    rig.assert_clean()


@pytest.fixture(scope="module")
def paired_over_tcp(
    clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Rig, Proxy]]:
    """The target's agent logs in to its PostgreSQL with a password, through a proxy."""
    home: Path = tmp_path_factory.mktemp("tcp")
    names = ("commit_a", "commit_b")
    databases = [Database(clusters(18, nth), name) for nth, name in enumerate(names)]
    for database in databases:
        database.cluster.createdb(database.name)
    databases[0].psql(SOURCE_ROWS)
    port = free_port()
    cluster = databases[1].cluster
    with Proxy("127.0.0.1", port) as proxy, Proxy("127.0.0.1", cluster.port) as to_server:
        conninfo = databases[1].conninfo(host="127.0.0.1")
        conninfo = conninfo.replace(f"port='{cluster.port}'", f"port='{to_server.port}'")
        rig = make_rig(home, databases[0], databases[1], proxy, f"127.0.0.1:{port}", b=conninfo)
        yield rig, to_server
    for database in databases:
        database.cluster.dropdb(database.name)


def test_p1_the_answer_to_commit_is_lost(paired_over_tcp: tuple[Rig, Proxy]) -> None:
    rig, to_server = paired_over_tcp
    rig.target.database.psql(TARGET_ROWS)
    start_both(rig)
    try:
        with commit_held(rig) as (job, other):
            to_server.refuse()
            let_commit(other)
            eventually("PostgreSQL has committed", lambda: rig.state() == NEW)
            written = rig.target.database.psql("SELECT min(xmin::text) FROM notes")
            assert rig.target.process is not None
            to_server.heal()
        rig.done(job)
        assert rig.target.database.psql("SELECT min(xmin::text) FROM notes") == written
    finally:
        for node in (rig.source, rig.target):
            node.close()
