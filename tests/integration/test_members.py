"""Members of a group: seen, and not waited for any more."""

from __future__ import annotations

from tests.integration.test_join import ITEMS, join, shows
from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import TwoNodes


def test_a_member_that_is_expired_comes_back_with_what_it_has_changed(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ITEMS)
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "30")
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
    target.run("sync", "now", "--wait", "--timeout", "30")
    assert_same_rows(source.database, target.database)
    assert source.database.psql("SELECT count(*) FROM item WHERE id = 2").strip() == "0"
