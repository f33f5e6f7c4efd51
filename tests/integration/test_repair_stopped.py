"""A repair whose agent is killed as it begins to write: its sync is found again, or it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.fault.rig import eventually
from tests.integration.shared_pair import sessions
from tests.integration.test_repair import TABLES, newest
from tests.plugins.clusters import Database
from tests.plugins.nodes import Node, TwoNodes

NOTED_LATE = """
CREATE FUNCTION noted_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF EXISTS (SELECT FROM peersync.full_sync_sessions) THEN
        PERFORM pg_advisory_xact_lock(77);
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER noted_late BEFORE UPDATE ON peersync.repairs
   FOR EACH ROW EXECUTE FUNCTION noted_late();
"""


# One that was left in the middle, too, with a peer that was removed since.
NOBODY = "f" * 32
OF_NOBODY = f"""
INSERT INTO peersync.repairs
SELECT '{NOBODY}', 'nobody', started_at - interval '1 hour', false, view || '{{"id": "{NOBODY}"}}'
  FROM peersync.repairs
"""


@pytest.fixture
def pair(pair_18: TwoNodes) -> TwoNodes:
    for node in pair_18:
        node.database.psql(TABLES)
    return pair_18


@contextmanager
def killed(node: Node, side: str, at: Database, waiting: str, hold: str) -> Iterator[None]:
    """Its agent dies while a statement like `waiting` waits for `hold`, and is back; then go on."""
    with psycopg.connect(at.conninfo()) as user:
        user.execute(hold.encode())
        command = ("repair", "server-a", "--from", side, "--yes")
        with node.popen(*command) as running:
            eventually("it is about to write", lambda: waits(at, waiting))
            node.kill()
            running.kill()  # once it knows the sync, it would wait a minute for the agent
            running.wait(60)
        node.database.psql(OF_NOBODY)
        node.start()
        user.rollback()
        yield


def waits(database: Database, statement: str) -> bool:
    return bool(
        database.psql(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE"
            f" '%{statement}%' AND datname = current_database()"
        )
    )


def lost(node: Node) -> None:
    node.database.psql("UPDATE item SET name = 'lost' WHERE id = 1")


SESSIONS = "LOCK TABLE peersync.full_sync_sessions IN EXCLUSIVE MODE"
RECORD = "INTO peersync.full_sync_sessions"


def test_before_its_sync_is_recorded_nothing_was_changed_and_that_is_said(pair: TwoNodes) -> None:
    _, target = pair
    lost(target)
    with killed(target, "peer", target.database, RECORD, SESSIONS):
        ended = eventually(
            "it has ended", lambda: newest(target)["completed_at"] and newest(target)
        )
    assert (ended["state"], ended["session"] is None) == ("failed", True)
    assert "nothing was changed" in ended["error"]["message"]
    assert target.database.psql("SELECT name FROM item WHERE id = 1").strip() == "lost"
    assert not sessions(target)
    left = target.run("repair", "--show", NOBODY, "--json", check=False).json
    assert left["state"] == "failed" and "its peer was removed" in left["error"]["message"]
    target.run("repair", "server-a", "--from", "peer", "--yes")  # nothing stands in its way


def test_a_sync_that_began_before_the_repair_knew_is_found_again(pair: TwoNodes) -> None:
    _, target = pair
    lost(target)
    target.database.psql(NOTED_LATE)
    hold = "SELECT pg_advisory_xact_lock(77)"
    with killed(target, "peer", target.database, "INTO peersync.repairs", hold):
        ended = eventually(
            "it has ended", lambda: newest(target)["completed_at"] and newest(target)
        )
    (only,) = sessions(target)
    assert (ended["state"], ended["session"]) == ("done", only["id"])
    assert target.database.psql("SELECT name FROM item WHERE id = 1").strip() == "item 1"


def test_a_push_that_the_peer_begins_later_is_found_again(pair: TwoNodes) -> None:
    source, target = pair
    source.run("peer", "allow", "server-b", "--push")
    lost(source)
    with killed(target, "this", source.database, RECORD, SESSIONS):
        ended = eventually(
            "it has ended", lambda: newest(target)["completed_at"] and newest(target)
        )
    (only,) = sessions(target)
    assert (ended["state"], ended["session"]) == ("done", only["id"])
    assert source.database.psql("SELECT name FROM item WHERE id = 1").strip() == "item 1"
