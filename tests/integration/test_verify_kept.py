"""Verifying from kept digests: nothing is read of what has not changed, and nothing is missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.integration.periodic_rig import QUICK, wait_equal, wait_until
from tests.integration.shared_pair import sessions
from tests.integration.test_node_listeners import ask
from tests.integration.verify_rig import members
from tests.plugins import least
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode, Node

KEEPS = {**QUICK, "PEERSYNC_VERIFY_CONTINUOUS_BUDGET": "100"}
_COMPLETE = (
    "SELECT 1 FROM peersync.proof_list AS l WHERE NOT EXISTS (SELECT FROM peersync.proof_block AS b"
    " WHERE b.list = l.list AND b.digest IS NULL) AND EXISTS (SELECT FROM peersync.proof_block AS b"
    " WHERE b.list = l.list) AND l.advanced_at > '{since}'"
)
_READ = (
    "SELECT pg_stat_force_next_flush(); SELECT seq_tup_read + coalesce(idx_tup_fetch, 0)"
    " FROM pg_stat_user_tables WHERE relname = 't'"
)


def _wait_kept(*nodes: Node) -> None:
    """Until what was written so far is in the lists."""
    for node in nodes:
        complete = _COMPLETE.format(since=node.database.psql("SELECT clock_timestamp()").strip())
        wait_until(
            f"{node.name} keeps its digests",
            lambda node=node, complete=complete: node.database.psql(complete),  # type: ignore[misc]
            60,
        )


def _kept(node: Node) -> dict[str, Any]:
    (database,) = node.run("status", "--json", check=False).json["databases"]
    assert isinstance(database["kept"], dict)
    return database["kept"]


def _verify(node: Node, *options: str, result: str = "identical") -> dict[str, Any]:
    peer = "server-a" if node.name == "server-b" else "server-b"
    found = node.run("verify", peer, "--json", *options, check=False).json
    assert found["result"] == result, found
    (table,) = found["tables"]
    assert isinstance(table, dict)
    return table


def test_an_unchanged_table_is_not_read_and_a_changed_one_is_not_missed(
    make_database: MakeDatabase, make_node: MakeNode, tmp_path: Path
) -> None:
    a, b = members(make_database, make_node, KEEPS)
    assert _verify(b)["kept_at"] is None, "nothing was kept yet"
    _wait_kept(a, b)

    wait_until("it is said how far they are", lambda: _kept(b)["complete"] == 1)
    kept = _kept(b)
    assert (kept["tables"], kept["waiting"], kept["rows"], kept["unread"]) == (1, 0, 3000, 0)
    assert kept["rows_read"] >= 3000 and kept["bytes_read"] > 3000 and kept["oldest_at"]
    assert "shop: kept digests: 1 of 1 table, as of " in b.run("status", check=False).out
    metrics = ask(b, "/metrics")[1]
    assert 'peersync_kept_tables{database="shop",state="complete"} 1.0' in metrics
    assert f'peersync_kept_read_bytes_total{{database="shop"}} {kept["bytes_read"]}' in metrics

    before = [int(node.database.psql(_READ)) for node in (a, b)]
    for node in (a, b, b):
        table = _verify(node)
        assert table["kept_at"] is not None and table["matched"] == 3000
    # what the agent has read before may be counted late: once the table, and not three times
    grown = [int(node.database.psql(_READ)) - n for node, n in zip((a, b), before, strict=True)]
    assert max(grown) <= 3000, "the table was read"
    shown = b.run("verify", "server-a").out
    assert "1 table from kept digests" in shown
    assert _verify(b, "--fresh")["kept_at"] is None
    assert _verify(b, "--paranoid")["kept_at"] is None

    # what is written here and what is applied there, looked at in the middle of it
    for turn in range(4):
        a.database.psql(
            f"UPDATE t SET v = 'a{turn}' WHERE id % 100 = {turn};"
            f"DELETE FROM t WHERE id = {turn + 50}; UPDATE t SET id = -id WHERE id = {turn + 1}"
        )
        b.database.psql(f"INSERT INTO t VALUES ({turn + 9000}, 'b')")
        found = b.run("verify", "server-a", "--json", check=False)
        assert found.json["result"] in ("identical", "in flight"), found.out
    wait_equal(a, b)
    assert _verify(b)["matched"] == 3000

    # an agent that dies before it has looked at the changes
    b.kill()
    b.database.psql("UPDATE t SET v = 'while it was dead' WHERE id BETWEEN 500 AND 600")
    b.start()
    wait_equal(a, b)
    _verify(b)
    _wait_kept(a, b)

    # what nobody's triggers saw is not in the list, until the table is read
    b.database.psql(
        "SET session_replication_role = replica; UPDATE t SET v = 'drift' WHERE id = 700"
    )
    assert _verify(b, "--fresh", result="differs")["different"] == 1
    b.database.psql("UPDATE peersync.proof_list SET stamp = 'another'")
    assert _verify(b, result="differs")["different"] == 1, "a list that does not hold is not used"
    _wait_kept(a, b)
    table = _verify(b, result="differs")
    assert table["different"] == 1 and table["keys"][0]["key"] == ["700"]
    assert table["kept_at"] is not None


def test_a_full_sync_over_a_kept_table_is_seen(
    make_database: MakeDatabase, make_node: MakeNode, tmp_path: Path
) -> None:
    a, b = members(make_database, make_node, KEEPS)
    wait_until(  # what is still on its way, or parked for a moment, would overwrite the drift
        "both have all rows", lambda: b.run("sync", "now", "--wait", check=False).code == 0
    )
    b.database.psql(
        "SET session_replication_role = replica; UPDATE t SET v = 'drift' WHERE id % 300 = 7"
    )
    _verify(b, result="differs")
    _wait_kept(a, b)
    assert _verify(b, result="differs")["kept_at"] is not None
    least.grant(b, "pull")
    b.run("repair", "server-a", "--from", "peer", "--yes")
    assert _verify(b)["different"] == 0
    _wait_kept(a, b)
    assert _verify(b)["kept_at"] is not None
    b.run("undo", sessions(b)[0]["id"], "--yes")
    assert b.database.psql("SELECT count(*) FROM t WHERE v = 'drift'").strip() == "10"
    wait_equal(a, b)  # what was put back is news to the others
    assert _verify(b)["matched"] == 3000
