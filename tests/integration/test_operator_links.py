"""What an operator is told of a link that waits for somebody: which state, and what to type."""

from __future__ import annotations

import time

from tests.integration.shared_pair import wait_until
from tests.integration.test_join import ITEMS, join
from tests.plugins.nodes import Node, TwoNodes

ODD = 'CREATE TABLE "Odd Items" (id int PRIMARY KEY, extra text);'
OPEN_CONFLICT = """
INSERT INTO peersync.conflict (tbl, schema_name, table_name, key, kind, strategy, winner, reason,
    state, kept_origin, in_origin, in_position, in_ordinal, in_hlc, in_op, in_shape, in_image)
SELECT tbl, schema_name, table_name, '(1)', 'update_origin_differs', 'rebaseline', 'kept',
       'the change of the others is newer', 'open',
       (SELECT origin FROM peersync.member WHERE node_name = 'server-a'),
       (SELECT origin FROM peersync.replica), 0, 1, 1, 'U', shape, '(1,mine,2.00)'
  FROM peersync.synced_table WHERE table_name = 'item'
"""


def link(node: Node) -> dict[str, object]:
    found: dict[str, object] = node.run("lag", "--json", check=False).json["links"][0]
    return found


def test_a_link_says_what_it_waits_for(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ITEMS + ODD)
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "60")

    # a name that needs quotes is printed as it is typed
    listed = target.run("tables", "list").out
    assert 'public."Odd Items"' in listed
    assert target.run("tables", "list", 'public."Odd Items"', "--json").json["tables"]
    target.run("tables", "remove", "public.note")
    said = link(target)
    assert (said["state"], said["problem"]) == ("in sync", "here 1 table left out")
    wait_until(lambda: link(source)["problem"] == "on server-b 1 table left out")
    target.run("tables", "add", "public.note")

    # a table that does not fit is parked: the list of tables has the statement
    target.database.psql('ALTER TABLE "Odd Items" DROP COLUMN extra')
    source.database.psql("INSERT INTO \"Odd Items\" VALUES (1, 'x')")
    wait_until(lambda: link(target)["state"] == "conflict")
    assert "peersync tables list" in str(link(target)["hint"])
    assert "on server-b: peersync tables list" in str(link(source)["hint"])
    wait_until(lambda: "incoming changes of public.Odd Items wait" in target.log)
    target.database.psql('ALTER TABLE "Odd Items" ADD COLUMN extra text')
    wait_until(lambda: link(target)["state"] == "in sync")

    # an open conflict that a rebaseline has made
    target.database.psql(OPEN_CONFLICT)
    shown = target.run("conflicts", "show", "1")
    assert "what server-a has" in shown.out
    assert "(no row)" not in shown.out
    assert "--take     what server-b has" in shown.err
    both = target.run("conflicts", "resolve", "1", "--keep", "--take", check=False)
    assert both.code == 2
    kept = target.run("conflicts", "resolve", "1", "--keep")
    assert "conflict 1 is resolved" in kept.out
    assert "no such conflict" in target.run("conflicts", "list", "--open").out

    # paused by the other side: nothing failed
    source.run("sync", "pause", "server-b")
    waited = target.run("sync", "now", "--wait", "--timeout", "20", check=False)
    assert waited.code == 3
    assert "on server-a: peersync sync resume server-b" in waited.err
    source.run("sync", "resume", "server-b")

    # held: said at once, with what to type
    target.database.psql("UPDATE peersync.replica SET state = 'held', reason = 'it is older'")
    began = time.monotonic()
    held = target.run("sync", "now", "--wait", "--timeout", "60", check=False)
    assert held.code == 1
    assert time.monotonic() - began < 10
    assert "shop is held on this node: it is older" in held.err
    assert "peersync rebaseline server-a --database shop" in held.err


def test_a_refused_peer_is_said_once_in_the_log(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ITEMS)
    join(target, source)
    source.run("sync", "pause", "server-b")
    for _ in range(3):
        target.run("lag", "--json", check=False)
    assert source.log.count("is paused on the other side") <= 2  # changes, and position
    assert "is paused on the other side" in source.log
