"""One of two servers can't be connected to: syncs go over the connections that it opens."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode, Node
from tests.plugins.proxy import Proxy
from tests.plugins.waiting import eventually

ROWS = 60_000
MAKE = f"""
    CREATE TABLE items (id int PRIMARY KEY, pad text NOT NULL);
    INSERT INTO items SELECT i, (SELECT string_agg(md5(i::text || j), '')
        FROM generate_series(1, 8) j) FROM generate_series(1, {ROWS}) i;"""
SUM = "SELECT count(*), md5(string_agg(items::text, ',' ORDER BY id)) FROM items"
SETTINGS = {
    "PEERSYNC_FULL_SYNC_CHUNK_MIB": "1",
    "PEERSYNC_NETWORK_RETRY_MAX_S": "0.5",
    "PEERSYNC_NETWORK_CONNECT_TIMEOUT_S": "3",
}


@dataclass
class Walled:
    """`inside` can't be connected to; it reaches `outside` through `proxy`."""

    inside: Node
    outside: Node
    proxy: Proxy

    def way(self) -> Any:
        """How the outer one reaches the inner one."""
        listed = self.outside.run("peer", "list", "--probe", "--json", check=False).json
        return listed["peers"][0]["reached"]


@pytest.fixture
def walled(make_database: MakeDatabase, make_node: MakeNode) -> Iterator[Walled]:
    """On servers of two versions, once: what agents open between them knows nothing of these."""
    inside = make_node("server-a", make_database(15), reachable=False, env=SETTINGS)
    outside = make_node("server-b", make_database(18), env=SETTINGS)
    host, _, port = outside.listen.rpartition(":")
    with Proxy(host, int(port)) as proxy:
        invited = outside.run("peer", "invite", "-q", "--address", proxy.address)
        inside.run("peer", "join", invited.out.split()[-1])
        outside.run("peer", "allow", "server-a", "--schema")
        inside.run("peer", "allow", "server-b", "--schema")
        yield Walled(inside, outside, proxy)
        for node in (inside, outside):  # before the proxy: nothing shall pass when it ends
            node.close()


def same(one: Node, other: Node) -> bool:
    return one.database.psql(SUM) == other.database.psql(SUM)


def test_the_outer_server_pulls_from_the_inner_one(walled: Walled) -> None:
    walled.inside.database.psql("CREATE TABLE items (id int PRIMARY KEY, v int)")
    walled.inside.database.psql("INSERT INTO items SELECT i, i FROM generate_series(1, 999) i")
    done = walled.outside.pull("server-a").json
    assert (done["result"], done["rows"]["inserted"]) == ("done", 999)
    assert same(walled.inside, walled.outside)
    assert walled.way() == "by its own connections"


def test_the_inner_server_pulls_from_the_outer_one(walled: Walled) -> None:
    walled.outside.database.psql("CREATE TABLE items (id int PRIMARY KEY, v int)")
    walled.outside.database.psql("INSERT INTO items SELECT i, i FROM generate_series(1, 999) i")
    assert walled.inside.pull("server-b").json["rows"]["inserted"] == 999
    assert same(walled.inside, walled.outside)
    listed = walled.inside.run("peer", "list", "--probe", "--json").json
    assert listed["peers"][0]["reached"] == "direct"


def test_pushes_work_in_both_directions(walled: Walled) -> None:
    for giver, table, taker in (
        (walled.inside, "one", walled.outside), (walled.outside, "two", walled.inside)
    ):  # fmt: skip
        giver.database.psql(f"CREATE TABLE {table} (id int PRIMARY KEY)")
        giver.database.psql(f"INSERT INTO {table} SELECT generate_series(1, 99)")
        giver.run("push", taker.name, "--yes", "--json")
        assert taker.database.psql(f"SELECT count(*) FROM {table}") == "99"


@pytest.fixture
def pulling(walled: Walled) -> Iterator[subprocess.Popen[bytes]]:
    """The outer one pulls so much that there is time to do something to it meanwhile."""
    walled.inside.database.psql(MAKE)
    eventually("a way", lambda: walled.way() == "by its own connections")
    before = walled.proxy.up_bytes
    process = walled.outside.popen("pull", "server-a", "--yes", "-q")
    eventually("bytes", lambda: walled.proxy.up_bytes - before > 300_000)
    assert process.poll() is None
    yield process
    process.kill()
    process.wait()


def test_a_transfer_whose_lines_are_cut_goes_on(
    walled: Walled, pulling: subprocess.Popen[bytes]
) -> None:
    cuts, before = 0, walled.proxy.up_bytes
    while pulling.poll() is None and cuts < 8:
        if walled.proxy.up_bytes - before > 600_000:
            walled.proxy.cut()
            cuts, before = cuts + 1, walled.proxy.up_bytes
        time.sleep(0.002)
    assert pulling.wait(60) == 0, walled.outside.log
    assert cuts >= 3
    assert same(walled.inside, walled.outside)


def test_the_inner_agent_dies_in_the_middle(
    walled: Walled, pulling: subprocess.Popen[bytes]
) -> None:
    walled.inside.kill()
    walled.inside.start()
    assert pulling.wait(60) == 0, walled.outside.log
    assert same(walled.inside, walled.outside)


def test_the_outer_agent_dies_in_the_middle(
    walled: Walled, pulling: subprocess.Popen[bytes]
) -> None:
    walled.outside.kill()
    walled.outside.start()
    assert pulling.wait(60) == 0, walled.outside.log
    assert same(walled.inside, walled.outside)


def test_no_lines_are_opened_where_the_owner_wants_none(walled: Walled) -> None:
    eventually("a way", lambda: walled.way() == "by its own connections")
    walled.inside.stop()
    walled.inside.env["PEERSYNC_NETWORK_REVERSE_LINES"] = "false"
    walled.inside.start()
    time.sleep(1)
    assert walled.way() == "not at all"


def test_a_removed_peer_has_no_lines_any_more(walled: Walled) -> None:
    eventually("a way", lambda: walled.way() == "by its own connections")
    walled.outside.run("peer", "remove", "server-a")
    walled.inside.run("peer", "remove", "server-b")
    open_now = walled.proxy.accepted
    time.sleep(2)
    assert walled.proxy.accepted == open_now, "it goes on dialling a peer that it has removed"
