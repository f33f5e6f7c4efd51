"""A database that only receives, one that only gives: rows go one way, and the logs still empty."""

from __future__ import annotations

import asyncio
from functools import partial

import asyncpg
import pytest

from peersync.agent.periodic.joining import abandon_join, prepare_join
from peersync.config.model import Config
from peersync.config.model import Database as DatabaseConfig
from peersync.core.errors import BadRequest
from peersync.core.names import TableName
from peersync.core.patterns import Patterns
from peersync.postgres import pool
from peersync.postgres.conninfo import resolve
from peersync.postgres.keptback import kept_back
from peersync.postgres.log.baseline import refuse_to_sponsor
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.members import (
    add_member,
    back_to_earlier_origin,
    change_origin,
    read_members,
    read_replica,
)
from peersync.postgres.log.membership import dissolve
from peersync.postgres.log.oneway import set_direction
from peersync.postgres.log.prune import prune
from peersync.postgres.log.publish import publish
from peersync.postgres.rowform import Shape
from peersync.postgres.sqlfiles import queries
from tests.integration.log_rig import NODE, Connect, make_log, transactions
from tests.integration.periodic_rig import QUICK, make_group, wait_until
from tests.integration.test_join import ITEMS, join, shows
from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.nodes import MakeNode, Node, TwoNodes


def link(node: Node, peer: str) -> dict[str, object]:
    links = node.run("lag", "--json", check=False).json["links"]
    found: dict[str, object] = next(one for one in links if one["peer"] == peer)
    return found


def gives(node: Node, peer: str) -> bool:
    return link(node, peer)["direction"] == "give"


def proved(node: Node, *peers: str) -> list[tuple[str, str]]:
    """(result, direction) by peer, after a wait for the proof."""
    answer = node.run("sync", "now", "--wait", "--timeout", "60", "--json").json
    links = {one["peer"]: (one["result"], one["direction"]) for one in answer["links"]}
    return [links[peer] for peer in peers]


def empties(node: Node) -> None:
    """Its log holds no change any more, once all members have told what they have."""

    async def pruned() -> bool:
        conn = await asyncpg.connect(node.database.url())
        try:
            await prune(conn)
            return not await conn.fetchval("SELECT sum(changes) FROM peersync.transaction")
        finally:
            await conn.close()

    wait_until(f"the log of {node.name} is empty", lambda: asyncio.run(pruned()), 40)


def test_branches_take_a_price_list_and_give_nothing_back(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    hq, north, south = (
        make_node(name, make_database(18, nth=nth), env=QUICK)
        for nth, name in enumerate(("hq", "north", "south"))
    )
    for branch in (north, south):
        branch.pair_with(hq)
    make_group(hq, north, south)
    hq.database.psql("INSERT INTO t VALUES (1, 'ten'), (2, 'twenty'), (3, 'thirty')")
    shows(north.database, "SELECT count(*) FROM t", "3")
    for branch in (north, south):
        branch.run("sync", "direction", "receive", "--yes")
        wait_until("hq knows", partial(gives, hq, branch.name))
    assert "only receives" in north.run("sync", "direction").out

    north.database.psql(
        "UPDATE t SET v = 'eleven' WHERE id = 1; DELETE FROM t WHERE id = 2;"
        "INSERT INTO t VALUES (50, 'a row of north')"
    )
    assert proved(hq, "north", "south") == [("proved", "give")] * 2
    assert proved(north, "hq") == [("proved", "receive")]
    for node in (hq, south):
        assert node.database.psql("SELECT string_agg(v, ' ' ORDER BY id) FROM t").strip() == (
            "ten twenty thirty"
        )

    hq.database.psql("UPDATE t SET v = v || '!' WHERE id < 3")
    assert proved(hq, "north", "south") == [("proved", "give")] * 2
    assert north.database.psql("SELECT string_agg(v, ' ' ORDER BY id) FROM t").strip() == (
        "ten! twenty! thirty a row of north"
    )
    found = north.run("conflicts", "list", "--json").json["conflicts"]
    assert sorted((c["kind"], c["strategy"], c["winner"], c["state"]) for c in found) == [
        ("update_missing", "source_wins", "incoming", "resolved"),
        ("update_origin_differs", "source_wins", "incoming", "resolved"),
    ]
    number = next(c["id"] for c in found if c["kind"] == "update_origin_differs")
    north.run("conflicts", "restore", str(number))
    assert north.database.psql("SELECT v FROM t WHERE id = 1").strip() == "eleven"
    for node, peer, direction in ((hq, "north", "give"), (north, "hq", "receive")):
        seen = link(node, peer)
        assert (seen["state"], seen["direction"], seen["problem"]) == ("in sync", direction, None)
        assert node.run("status", "--json").json["links"][0]["state"] == "in sync"
    for node in (hq, north):
        empties(node)
    shows(north.database, "SELECT count(*) FROM peersync.withheld", "2")
    assert hq.database.psql("SELECT v FROM t WHERE id = 1").strip() == "ten!"

    # verify knows what is kept back, on either side, and still finds what is not
    for node, peer in ((hq, "north"), (north, "hq")):
        found = node.run("verify", peer, "--json").json
        assert (found["result"], found["one_way"]) == ("identical", 2)
        assert "kept back" in found["tables"][0]["notes"][0]
        assert node.run("status", "--json").json["links"][0]["state"] == "in sync"
    north.database.psql("SET session_replication_role = replica; DELETE FROM t WHERE id = 3")
    found = hq.run("verify", "north", "--json", check=False)
    assert (found.code, found.json["extra"], found.json["one_way"]) == (4, 1, 2)

    # what is edited here stays here, and that is what is said
    north.database.psql("ALTER TABLE t ADD CHECK (v <> 'refused')")
    hq.database.psql("INSERT INTO t VALUES (60, 'refused')")
    shows(north.database, "SELECT count(*) FROM peersync.quarantine WHERE state = 'waiting'", "1")
    told = north.run("quarantine", "edit", "1", "v=edited", "--json").json
    assert (told["result"], told["after"]["v"]) == ("applied", "edited")
    assert "sent to nobody" in told["reason"]
    assert proved(north, "hq") == [("proved", "receive")]
    assert hq.database.psql("SELECT v FROM t WHERE id = 60") == "refused"


def test_a_branch_that_delivers_its_sales_takes_none_of_the_others(pair_18: TwoNodes) -> None:
    hq, branch = pair_18
    make_group(hq, branch)
    branch.run("sync", "direction", "give", "--yes")
    wait_until("hq knows", lambda: link(hq, "server-b")["direction"] == "receive")
    hq.database.psql("INSERT INTO t VALUES (1, 'of hq')")
    branch.database.psql("INSERT INTO t VALUES (2, 'sold')")
    assert proved(branch, "server-a") == [("proved", "give")]
    assert proved(hq, "server-b") == [("proved", "receive")]
    shows(hq.database, "SELECT string_agg(v, ' ' ORDER BY id) FROM t", "of hq sold")
    empties(hq)
    assert branch.database.psql("SELECT string_agg(v, ' ') FROM t").strip() == "sold"
    assert link(branch, "server-a")["to_take"] == 0

    # its positions say that it has seen what it never took: its rows replace nobody's
    hq.database.psql("UPDATE t SET v = 'booked' WHERE id = 2")
    assert proved(hq, "server-b") == [("proved", "receive")]
    refused = hq.run("pull", "server-b", "--yes", check=False)
    assert hq.database.psql("SELECT v FROM t WHERE id = 2").strip() == "booked"
    assert "server-b only gives" in refused.err
    assert "--source-wins" in refused.err
    assert hq.run("history", "--json").json["sessions"] == []  # nothing was begun
    pushed = branch.run("push", "server-a", "--yes", check=False)
    assert "server-b only gives" in pushed.err
    hq.run("pull", "server-b", "--yes", "--source-wins")
    assert hq.database.psql("SELECT v FROM t WHERE id = 2").strip() == "sold"

    for node, peer in ((hq, "server-b"), (branch, "server-a")):
        found = node.run("verify", peer)
        assert "identical" in found.out
        assert "1 row left aside: one-way" in found.out
    hq.database.psql("SET session_replication_role = replica; DELETE FROM t WHERE id = 2")
    found = branch.run("verify", "server-a", "--json", check=False)
    assert (found.code, found.json["extra"], found.json["one_way"]) == (4, 1, 1)


def test_the_way_back_sends_what_was_changed_meanwhile(pair_18: TwoNodes) -> None:
    hq, branch = pair_18
    hq.database.psql(ITEMS)
    join(branch, hq, "join", "--receive-only")
    withheld = "SELECT count(*) FROM peersync.withheld"
    branch.database.psql("UPDATE item SET name = 'to be taken back' WHERE id = 10")
    shows(branch.database, withheld, "1")
    branch.run("pull", "server-a", "--yes")  # what was changed here and never sent stays
    assert branch.database.psql("SELECT name FROM item WHERE id = 10") == "to be taken back"
    branch.run("pull", "server-a", "--yes", "--source-wins")
    assert branch.database.psql(f"SELECT name, ({withheld}) FROM item WHERE id = 10") == "item 10|0"
    branch.database.psql(
        "UPDATE item SET name = 'of the branch' WHERE id = 1;"
        "UPDATE item SET name = 'older' WHERE id = 2;"
        "INSERT INTO item VALUES (900, 'new there', 1); DELETE FROM note WHERE item = 3"
    )
    shows(branch.database, withheld, "4")
    hq.database.psql("UPDATE item SET name = 'newer' WHERE id = 2")
    assert proved(branch, "server-a") == [("proved", "receive")]
    refused = branch.run("sync", "direction", "both", "--yes", check=False)
    assert refused.code != 0
    assert "peersync rebaseline PEER --both-ways" in refused.err
    assert hq.database.psql("SELECT count(*) FROM item WHERE id = 900").strip() == "0"

    branch.run("rebaseline", "server-a", "--both-ways", "--yes")
    shows(hq.database, "SELECT name FROM item WHERE id = 900", "new there")
    shows(hq.database, "SELECT name FROM item WHERE id = 1", "of the branch")
    assert proved(hq, "server-b") == [("proved", "both")]
    for node in pair_18:
        assert node.database.psql("SELECT name FROM item WHERE id = 2").strip() == "newer"
        assert node.database.psql("SELECT count(*) FROM note WHERE item = 3").strip() == "0"
    assert branch.database.psql(withheld).strip() == "0"
    assert "gives its changes" in branch.run("sync", "direction").out


@pytest.fixture
async def conn(open_log: Connect) -> asyncpg.Connection:
    conn = await open_log()
    await make_log(conn)
    return conn


async def test_what_is_withheld_has_no_place_and_stays_small(conn: asyncpg.Connection) -> None:
    await conn.execute("INSERT INTO acc VALUES (1, 0)")  # committed before: it is given
    await set_direction(conn, "receive")
    kinds = await transactions(conn, "kind, changes")
    assert kinds == [(b"d", 1), (b"b", 0)]
    await conn.execute(
        "INSERT INTO peersync.proof_list (table_schema, table_name, form, shape)"
        " VALUES ('public', 'acc', '', '{}')"
    )
    for number in range(5):
        await conn.execute("UPDATE acc SET n = $1", number)
    await conn.execute("INSERT INTO acc VALUES (2, 0)")
    assert await publish(conn) is None
    assert await transactions(conn, "kind, changes") == kinds
    held = "SELECT count(*) FROM peersync.withheld"
    assert (await conn.fetchval(held), await conn.fetchval("TABLE peersync.change LIMIT 0")) == (
        6,
        None,
    )
    marks = "SELECT DISTINCT key FROM peersync.proof_mark WHERE table_name = 'acc' ORDER BY key"
    assert [row["key"] for row in await conn.fetch(marks)] == ["(1)", "(2)"]
    await prune(conn)
    images = "SELECT array_agg(image ORDER BY id) FROM peersync.withheld"
    assert await conn.fetchval(images) == ["(1,0)", "(1,4)", "(2,0)"]
    replica = await read_replica(conn)
    assert replica is not None
    assert [m.direction for m in await read_members(conn)] == ["receive"]
    with pytest.raises(BadRequest, match="nobody can join"):
        await refuse_to_sponsor(conn)
    with pytest.raises(BadRequest, match="one-way"):
        await set_direction(conn, "give")


async def test_a_way_back_that_comes_to_nothing_leaves_it_one_way(conn: asyncpg.Connection) -> None:
    await set_direction(conn, "receive")
    async with conn.transaction():
        changed = await change_origin(conn, "node", "node")
        await conn.execute(queries("members")["set_direction"], "both")
    assert await back_to_earlier_origin(conn, "it was not taken anew")
    replica = await read_replica(conn)
    assert replica is not None
    assert replica.origin != changed.origin
    assert (replica.state, replica.direction) == ("held", "receive")


async def test_a_join_that_is_begun_again_does_what_is_typed_then(
    conn: asyncpg.Connection, database: Database
) -> None:
    """Not what an earlier attempt was told; one that comes to nothing leaves what there was."""
    shop = pool.Database("shop", resolve(database.conninfo()))
    config = Config(database={"shop": DatabaseConfig(conninfo="")})
    prepare = partial(prepare_join, shop, config, node_id=NODE, name="alpha")
    try:
        before = await set_direction(conn, "receive")
        # an origin of an earlier life, as every return leaves one: known later than the own one
        await add_member(conn, 77, NODE, "alpha", state="expired", applied=9)
        await prepare(anew=True, direction="both")
        await prepare(anew=True)
        replica = await read_replica(conn)
        assert replica is not None
        assert (replica.state, replica.direction) == ("joining", "receive")
        await abandon_join(shop)
        replica = await read_replica(conn)
        assert replica is not None
        assert (replica.state, replica.direction) == ("held", "receive")
        assert (replica.origin, replica.position) == (before.origin, before.position)

        await dissolve(conn)
        await prepare(anew=False, direction="receive")
        await prepare(anew=False)
        replica = await read_replica(conn)
        assert replica is not None
        assert (replica.state, replica.direction) == ("joining", "both")
        await abandon_join(shop)
        assert await read_replica(conn) is None
    finally:
        await shop.close()


async def test_rows_that_are_kept_back_are_found_by_keys_of_any_kind(
    conn: asyncpg.Connection,
) -> None:
    await conn.execute(
        """CREATE TYPE public.mood AS ENUM ('a, b', 'c"');
        CREATE TABLE public.odd ("Of ""it" varchar(9), n numeric(9, 3), m public.mood, v int,
                          PRIMARY KEY (m, n, "Of ""it"));
        INSERT INTO public.odd
        VALUES ('x', 1.5, 'c"', 1), ('(y,', 2, 'a, b', 1), ('z', 3, 'c"', 1)"""
    )
    await enrol(conn, Patterns(["public.*"]), lock_timeout_s=5)
    await publish(conn)
    await set_direction(conn, "receive")
    await conn.execute(
        "UPDATE public.odd SET v = 2 WHERE n < 2; DELETE FROM public.odd WHERE n = 2"
    )
    await publish(conn)
    for portable in (False, True):
        shape = Shape(
            table=TableName("public", "odd"),
            columns=('Of "it', "n", "m", "v"),
            types=("character varying(9)", "numeric(9,3)", "public.mood", "integer"),
            key=('Of "it', "n", "m"),
            portable=portable,
        )
        texts = (
            ("x", "1.5", 'c"'),
            ("(y,", "2", "a, b"),
            ("z", "3", 'c"'),
            ("x", "1.5", "no such mood here"),
        )
        keys = [tuple(_coded(part, n, portable) for n, part in enumerate(k)) for k in texts]
        assert await kept_back(conn, shape, keys) == set(keys[:2])


def _coded(part: str, place: int, portable: bool) -> str:
    return part.encode().hex() if portable and place != 1 else part
