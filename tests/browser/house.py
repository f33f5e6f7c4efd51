"""Three agents with something to show, for all tests of the page.

server-a and server-b are paired: `shop` is pulled, `stock` is kept in step. server-c stands alone,
for what begins or ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pgcluster import Cluster

from tests.browser.people import set_password
from tests.integration.periodic_rig import QUICK, make_group, wait_until
from tests.plugins.clusters import Database
from tests.plugins.nodes import Node

OPEN = ("--open", "--database", "stock")
HOSTILE = "<img src=x onerror=alert(1)>"


@dataclass(frozen=True)
class House:
    """`a` gives, `b` takes, `c` is alone."""

    a: Node
    b: Node
    c: Node


@contextmanager
def lay_out(cluster: Cluster, home: Path) -> Iterator[House]:
    """Three running agents with two empty databases each."""
    nodes: list[Node] = []
    try:
        for name in ("a", "b", "c"):
            for database in ("shop", "stock"):
                cluster.createdb(f"page_{database}_{name}")
            (home / name).mkdir()
            node = Node(f"server-{name}", Database(cluster, f"page_shop_{name}"), home / name)
            conninfo = cluster.conninfo(f"page_stock_{name}")
            node.settings = f'[database.stock]\nconninfo = "{conninfo}"\n'
            node.env = dict(QUICK)
            nodes.append(node)
            node.init()
            node.launch()
        for node in nodes:
            node.wait_until_ready()
        yield House(*nodes)
    finally:
        for node in nodes:
            node.tell_to_end()
        for node in nodes:
            node.close()
            for database in ("shop", "stock"):
                cluster.dropdb(f"page_{database}_{node.name[-1]}")


def furnish(house: House) -> None:
    """Rows to pull, a group to keep in step, and accounts; server-c has none of these."""
    a, b = house.a, house.b
    a.database.psql(
        "CREATE TABLE items (id int PRIMARY KEY, name text, body text);"
        "INSERT INTO items SELECT i, 'item ' || i, repeat(md5(i::text), 20)"
        " FROM generate_series(1, 3000) AS i;"
        f'CREATE TABLE "{HOSTILE}" (id int PRIMARY KEY, "{HOSTILE}" text);'
        f"INSERT INTO \"{HOSTILE}\" VALUES (1, '{HOSTILE}')"
    )
    b.pair_with(a)
    a.run("peer", "allow", b.name, "--schema")
    set_password(a)
    set_password(b)
    make_group(stock(a), stock(b), table="CREATE TABLE prices (id int PRIMARY KEY, cents int)")


def stock(node: Node) -> Node:
    """The same node, for the rigs that look at one database of it."""
    database = Database(node.database.cluster, f"page_stock_{node.name[-1]}")
    return replace(node, database=database)


def conflict(house: House, row: int, *, settled: bool = True) -> None:
    """Both sides change one row while they do not hear of each other; server-b was later.

    `settled`: by the rule; else it waits for a person on server-b.
    """
    a, b = house.a, house.b
    stock(a).database.psql(f"INSERT INTO prices VALUES ({row}, 100)")
    wait_until("the row is there", lambda: cents(b, row) == "100")
    b.run("sync", "pause", "--database", "stock")
    stock(a).database.psql(f"UPDATE prices SET cents = 111 WHERE id = {row}")
    stock(b).database.psql(f"UPDATE prices SET cents = 222 WHERE id = {row}")
    b.run("sync", "resume", "--database", "stock")
    if settled:
        wait_until("the later one has won", lambda: cents(a, row) == cents(b, row) == "222")
    else:
        wait_until("it waits", lambda: f"({row})" in b.run("conflicts", "list", *OPEN).out)


def refused(house: House, row: int) -> None:
    """A change of server-a that server-b cannot apply, and keeps in quarantine."""
    a, b = stock(house.a), stock(house.b)
    b.database.psql(f"CREATE UNIQUE INDEX one_price ON prices (cents) WHERE id >= {row}")
    a.database.psql(f"INSERT INTO prices VALUES ({row}, 5), ({row + 1}, 5)")
    wait_until(
        "it is in quarantine",
        lambda: b.database.psql("SELECT count(*) FROM peersync.quarantine") != "0",
    )


def cents(node: Node, row: int) -> str:
    """The price of a row in the database that is kept in step."""
    return stock(node).database.psql(f"SELECT cents FROM prices WHERE id = {row}")
