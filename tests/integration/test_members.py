"""Members of a group: seen, and not waited for any more."""

from __future__ import annotations

from tests.integration.periodic_rig import make_group, wait_until
from tests.integration.test_join import ITEMS, join, shows
from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import TwoNodes


def test_a_member_that_is_expired_comes_back_with_what_it_has_changed(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ITEMS)
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "60")
    listed = target.run("members", "list", "--json").json["members"]
    assert {m["name"]: m["state"] for m in listed} == {"server-a": "member", "server-b": "active"}

    target.stop()
    target.database.psql("UPDATE item SET name = 'while away' WHERE id = 1")
    target.database.psql("INSERT INTO item VALUES (6001, 'new while away', 1)")
    target.database.psql("UPDATE item SET name = 'against a delete' WHERE id = 2")
    source.database.psql("DELETE FROM note WHERE item = 2; DELETE FROM item WHERE id = 2")
    refused = source.run("members", "expire", "nobody", "--yes", check=False)
    assert refused.code == 2
    expired = source.run("members", "expire", "server-b", "--yes", "--force", "--json").json
    assert {m["name"]: m["state"] for m in expired["members"]}["server-b"] == "expired"

    target.start()
    shows(target.database, "SELECT state FROM peersync.replica", "active")
    target.run("rebaseline", "server-a", "--yes")
    shows(source.database, "SELECT name FROM item WHERE id = 6001", "new while away")
    target.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(source.database, target.database)
    assert source.database.psql("SELECT count(*) FROM item WHERE id = 2").strip() == "0"


def test_two_servers_that_have_expired_each_other_say_so_and_come_together_again(
    pair_18: TwoNodes,
) -> None:
    """Both go on alone, and each for itself would be fine."""
    a, b = pair_18
    make_group(a, b)
    a.run("members", "expire", "server-b", "--yes", "--force")
    alone = a.run("lag", "--json", check=False).json["links"][0]
    assert alone["state"] == "expired"  # the other does not know, and nobody else has expired it
    b.run("members", "expire", "server-a", "--yes", "--force")
    a.database.psql("INSERT INTO t VALUES (1, 'on a')")
    b.database.psql("INSERT INTO t VALUES (2, 'on b')")
    for node, other in ((a, "server-b"), (b, "server-a")):
        told = node.run("lag", "--json", check=False)
        link = told.json["links"][0]
        assert (link["state"], told.code != 0) == ("failed", True)
        assert f"{other} has expired this server, too" in link["problem"]
        assert f"peersync rebaseline {other} --database shop" in link["hint"]
    b.run("rebaseline", "server-a", "--yes")
    b.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(a.database, b.database)
    assert a.database.psql("SELECT count(*) FROM t").strip() == "2"


def test_a_join_that_only_its_expired_sponsor_knew_is_void_and_loses_nothing(
    pair_18: TwoNodes,
) -> None:
    """server-b joined through server-x, which was expired before server-a heard of it (R9)."""
    a, b = pair_18
    make_group(a, b)
    b.database.psql("INSERT INTO t VALUES (1, 'from before')")
    known = "SELECT count(*) FROM t"
    wait_until("it came", lambda: a.database.psql(known).strip() == "1")
    a.stop()
    x = f"(2000, '{'e' * 32}', 'server-x')"
    b.database.psql(
        f"INSERT INTO peersync.member (origin, node_id, node_name) VALUES {x};"
        "UPDATE peersync.member SET sponsor = 2000, joined_at = 7 WHERE origin = 1001;"
        "INSERT INTO t VALUES (2, 'nobody has it')"
    )
    a.database.psql(
        "DELETE FROM peersync.member WHERE origin = 1001; DELETE FROM peersync.relayed;"
        "DELETE FROM peersync.transaction WHERE origin = 1001;"
        "SET session_replication_role = replica; DELETE FROM t;"
        "INSERT INTO peersync.member (origin, node_id, node_name, state, info)"
        f" VALUES (2000, '{'e' * 32}', 'server-x', 'expired', '{{\"by\": 1000, \"at\": 0}}')"
    )
    a.start()
    shows(b.database, "SELECT state FROM peersync.replica", "held")
    link = b.run("lag", "--json", check=False).json["links"][0]
    assert link["state"] == "failed"
    assert "its join is void: server-x, through which it joined" in link["problem"]
    assert "peersync rebaseline server-a" in link["hint"]
    b.run("rebaseline", "server-a", "--yes")
    b.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(a.database, b.database)
    assert a.database.psql(known).strip() == "2"
