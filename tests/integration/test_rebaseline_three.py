"""Coming back to more than one: what was sent before a restore counts once, on every server."""

from __future__ import annotations

from tests.integration.test_join import join, shows
from tests.integration.test_rebaseline import keep_copy, restore_copy
from tests.plugins.clusters import MakeDatabase
from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import MakeNode, TwoNodes

TABLES = """
CREATE TABLE item (id int PRIMARY KEY, name text);
CREATE TABLE stock (id int PRIMARY KEY, n int);
CREATE TABLE visit (who text);
INSERT INTO item VALUES (1, 'old'), (2, 'old'); INSERT INTO stock VALUES (1, 100);
"""
SENT = (
    "INSERT INTO visit VALUES ('twice?'); UPDATE stock SET n = n - 5;"
    "UPDATE item SET name = 'of c' WHERE id = 1"
)
RESTORED = "INSERT INTO visit VALUES ('later'); UPDATE item SET name = 'later' WHERE id = 2"
ENDS = """
SELECT (SELECT string_agg(name, ' ' ORDER BY id) FROM item), (SELECT n FROM stock),
       (SELECT string_agg(who, ' ' ORDER BY who) FROM visit)
"""


def test_what_others_have_of_a_restored_server_is_not_made_again(
    pair_18: TwoNodes, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    """Its backup has changes without a position. They got one after it: by that they are told
    from nothing, only by the moment of their capture. One of the others wrote on top of them."""
    a, b = pair_18
    c = make_node("server-c", make_database(18, nth=2, migrated=True))
    for other in pair_18:
        c.pair_with(other)
    a.database.psql(TABLES)
    join(b, a)
    a.run("sync", "now", "--wait", "--timeout", "60")
    join(c, a)
    for node in (a, b, c):
        node.run("tables", "strategy", "public.stock", "delta:n")
    a.run("sync", "now", "--wait", "--timeout", "60")

    c.stop()
    c.database.psql(SENT)
    keep_copy(c.database)
    c.start()
    for other in pair_18:
        shows(other.database, ENDS, "of c old|95|twice?")
    b.database.psql("UPDATE item SET name = 'of b' WHERE id = 1")
    shows(a.database, ENDS, "of b old|95|twice?")

    c.stop()
    restore_copy(c.database)
    c.database.psql(RESTORED)
    c.start()
    shows(c.database, "SELECT state FROM peersync.replica", "held")
    c.run("rebaseline", "server-a", "--yes")
    for node in (a, b, c):
        shows(node.database, ENDS, "of b later|95|later twice?")
    a.run("sync", "now", "--wait", "--timeout", "60")
    for other in (b, c):
        assert_same_rows(a.database, other.database)
    assert c.run("conflicts", "list", "--open", "--json").json["conflicts"] == []
