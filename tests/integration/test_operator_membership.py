"""What an operator meets around a membership: joining, leaving, expiring, removing a peer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.shared_pair import wait_until
from tests.integration.test_join import ITEMS, join, shows
from tests.plugins import least
from tests.plugins.clusters import Database, GetCluster
from tests.plugins.nodes import Node, introduce


class Chain:
    """server-b – server-a – server-c: the leaves know only the one in the middle."""

    def __init__(self, nodes: list[Node]) -> None:
        self.middle, self.left, self.right = nodes


@pytest.fixture
def chain(clusters: GetCluster, tmp_path: Path) -> Iterator[Chain]:
    cluster = clusters(18)
    nodes = []
    for name in "abc":
        dbname = f"chain_{name}"
        cluster.createdb(dbname)
        (tmp_path / name).mkdir()
        nodes.append(Node(f"server-{name}", Database(cluster, dbname), tmp_path / name))
    made = Chain(nodes)
    try:
        for node in nodes:
            node.init()
        introduce(made.left, made.middle)
        introduce(made.right, made.middle)
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_until_ready()
        yield made
    finally:
        for node in nodes:
            node.close()
            cluster.dropdb(node.database.name)


def status(node: Node, peer: str) -> str:
    links = node.run("status", "--json", check=False).json["links"]
    return str(next(link["state"] for link in links if link["peer"] == peer))


def places(chain: Chain) -> list[int]:
    nodes = (chain.middle, chain.left, chain.right)
    return sorted(node.run("sequences", "check", "--json").json["slot"] for node in nodes)


def check_places(chain: Chain) -> None:
    """Leaves can't ask each other: the one between them asks for them."""
    chain.middle.run("sequences", "apply")
    chain.left.run("sequences", "apply")
    assert chain.right.run("sequences", "apply", "--json").json["silent"] == {}
    assert places(chain) == [0, 1, 2]


def test_servers_join_leave_and_are_expired_in_a_chain(chain: Chain) -> None:
    middle, left, right = chain.middle, chain.left, chain.right
    middle.database.psql(ITEMS)
    hint = left.run("status", check=False).out
    assert "peersync join server-a --database shop" in hint
    assert "takes part in no periodic sync" in left.run("tables", "list").err

    joined = left.run("join", "server-a", "--yes")
    assert "PLAN  join  server-a:shop" in joined.err
    assert "afterwards every change goes both ways" in joined.err
    assert "shop is kept in step from now on: peersync status" in joined.err
    assert "peersync sequences plan" in joined.err  # note draws from one on both
    assert status(left, "server-a") in ("syncing", "in sync")
    join(right, middle)

    # a second join is refused for what it is, before anything about rows is said
    left.database.psql("INSERT INTO item VALUES (9001, 'only here', 1)")
    again = left.run("join", "server-a", "--yes", check=False)
    assert "takes part in periodic sync already" in again.err
    assert "only on this server" not in again.err

    # who is there is not expired, nor removed as a peer, by a slip
    unknown = middle.run("members", "expire", "nobody", "--yes", check=False)
    assert (unknown.code, "no member is called" in unknown.err) == (2, True)
    alive = middle.run("members", "expire", "server-b", "--yes", check=False)
    assert alive.code == 6
    assert "server-b is there: it was heard" in alive.err
    assert "members expire server-b --database shop --force" in alive.err
    kept = middle.run("peer", "remove", "server-b", check=False)
    assert kept.code == 6
    assert "on server-b: peersync leave --database shop" in kept.err
    assert "server-b" in middle.run("peer", "list").out

    if not least.ASKED:  # a sequence is altered by its owner
        check_places(chain)
    # who is taken anew waits until the other leaf has told what it has of it, which it does
    left.run("rebaseline", "server-a", "--yes")
    if not least.ASKED:
        assert places(chain) == [0, 1, 2]
    left.database.psql("UPDATE item SET name = 'anew' WHERE id = 3")
    shows(right.database, "SELECT name FROM item WHERE id = 3", "anew")

    # a leaf leaves: the other leaf never talks to it, and has everything through the middle
    right.database.psql("UPDATE item SET name = 'last words' WHERE id = 1")
    assert right.run("leave", check=False).code == 2  # nobody has confirmed it
    began = time.monotonic()
    left_group = right.run("leave", "--yes", "--timeout", "30", "--json")
    took_s = time.monotonic() - began
    assert left_group.json["behind"] == []
    assert took_s < 25
    shows(left.database, "SELECT name FROM item WHERE id = 1", "last words")
    wait_until(lambda: "server-c" not in left.run("members", "list").out)
    assert "server-c" in left.run("members", "list", "--all").out

    # one that is away, and expired: said once, and all is fine without it
    left.stop()
    left.database.psql("UPDATE item SET name = 'while away' WHERE id = 2")
    expired = middle.run("members", "expire", "server-b", "--yes", "--force")
    assert "peersync rebaseline server-a" in expired.err
    shown = middle.run("lag")
    assert "on server-b: peersync rebaseline server-a --database shop" in shown.out
    assert "server-b was expired" in shown.err
    assert "too long" not in shown.out + shown.err
    left.start()
    said = ""
    deadline = time.monotonic() + 20
    while "rebaseline server-a --database shop" not in said and time.monotonic() < deadline:
        time.sleep(0.2)
        said = left.run("lag", check=False).out
    assert "rebaseline server-a --database shop" in said
    plan = left.run("rebaseline", "server-a", "--dry-run").err
    assert "PLAN  rebaseline  server-a:shop" in plan
    assert "unless they are changes that were not sent" in plan
    left.run("rebaseline", "server-a", "--yes")
    left.run("sync", "now", "--wait", "--timeout", "60")
    shows(middle.database, "SELECT name FROM item WHERE id = 2", "while away")


def test_nobody_leaves_in_the_middle_of_a_join(chain: Chain) -> None:
    middle, left = chain.middle, chain.left
    middle.database.psql(ITEMS)
    left.run("join", "server-a", "--yes", "--no-wait", "--bandwidth", "2KiB")
    wait_until(lambda: left.database.psql("SELECT count(*) FROM peersync.replica").strip() == "1")
    refused = left.run("leave", "--yes", check=False)
    assert refused.code == 6
    assert "a join from server-a is running" in refused.err
    job = left.run("jobs", "list", "--json").json["jobs"][0]["id"]
    assert f"peersync jobs cancel {job[:8]}" in refused.err
    left.run("jobs", "cancel", job)
