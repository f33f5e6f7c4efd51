"""Verifying partitioned tables: no hidden row is told, no row that differs is missed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from peersync.core.errors import PeersyncError
from peersync.transport.client import PeerClient
from peersync.transport.identity import load_identity
from peersync.transport.peers import PeerBook
from peersync.wire.digests import PATH, DigestRequest
from peersync.wire.messages import TableRef
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode, Node, TwoNodes, introduce

BY_REGION = """
CREATE TABLE p (id int, region text, v text) PARTITION BY LIST (region);
CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu'{more});
CREATE TABLE p_us PARTITION OF p FOR VALUES IN ('us');
ALTER TABLE p_eu ADD PRIMARY KEY (id); ALTER TABLE p_us ADD PRIMARY KEY (id);
INSERT INTO p SELECT g, 'eu', 'a' || g FROM generate_series(1, 200) g;
INSERT INTO p SELECT g, 'us', 'b' || g FROM generate_series(1, 200) g;
"""


@dataclass
class Asker:
    """Asks one node for digests as another one, with whatever a hostile peer might write."""

    node: Node
    peer: str

    def ask(self, **given: Any) -> str:
        """The answer, or the message of the refusal."""
        identity = load_identity(self.node.state_dir)
        peer = PeerBook(self.node.state_dir / "peers.json", identity.node_id).get(self.peer)
        client = PeerClient(peer, identity, connect_timeout_s=5, read_timeout_s=20)
        return asyncio.run(self._ask(client, DigestRequest(database="shop", **given)))

    async def _ask(self, client: PeerClient, question: DigestRequest) -> str:
        try:
            async with client.open_stream(PATH, method="POST", body=question) as stream:
                return b"".join([piece async for piece in stream]).decode()
        except PeersyncError as error:
            return f"{error.code}: {error.message}"
        finally:
            await client.close()


def test_the_root_of_partitions_tells_nothing_that_a_filter_hides(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    hidden = '[[database.shop.filter]]\ntable = "public.s1"\nwhere = "false"\n'
    source = make_node("server-a", make_database(18), settings=hidden, start=False)
    target = make_node("server-b", make_database(18, nth=1), start=False)
    introduce(target, source)
    source.database.psql(
        "CREATE TABLE r (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE a1 PARTITION OF r FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE s PARTITION OF r FOR VALUES FROM (100) TO (300) PARTITION BY RANGE (id);"
        "CREATE TABLE s1 PARTITION OF s FOR VALUES FROM (100) TO (300);"
        "INSERT INTO r VALUES (1, 'open'), (150, 'SECRET');"
        "CREATE TABLE open (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE below PARTITION OF open DEFAULT PARTITION BY RANGE (id);"
        "CREATE TABLE leaf PARTITION OF below DEFAULT; INSERT INTO open VALUES (1, 'seen');"
        "CREATE TABLE plain (id int PRIMARY KEY, v text);"
        "CREATE TABLE child () INHERITS (plain); INSERT INTO child VALUES (1, 'CHILD');"
    )
    source.start()
    target.start()
    asker = Asker(target, "server-a")

    def values(name: str, *, only: bool = False) -> str:
        return asker.ask(
            what="values", table=TableRef(schema="public", name=name), columns=("id", "v"),
            types=("integer", "text"), key=("id",), only=only, keys=(("1",), ("150",)),
        )  # fmt: skip

    assert "seen" in values("open")
    assert "open" in values("a1", only=True)
    for name in ("r", "s"):
        assert "SECRET" not in values(name)
    assert "filters" in values("r")
    assert "SECRET" not in values("s1", only=True)
    for name in ("plain", "a1"):  # they are no root
        assert "no table" in values(name)


def test_a_question_that_fits_no_key_is_refused_in_words(pair_18: TwoNodes) -> None:
    pair_18.source.database.psql(
        "CREATE TABLE i (id int PRIMARY KEY); CREATE TABLE k (id int); INSERT INTO k VALUES (1)"
    )
    asker = Asker(pair_18.target, "server-a")
    shape = {"columns": ("id",), "types": ("integer",)}
    keyed = {**shape, "table": TableRef(schema="public", name="i"), "key": ("id",)}
    bag = {**shape, "table": TableRef(schema="public", name="k")}
    low, high = ("1",), ("300",)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"what": "blocks", "lower": ("1", "2"), **keyed}, "as many parts"),
        ({"what": "rows", "ranges": ((("1", "2"), None),), **keyed}, "as many parts"),
        ({"what": "keys", "keys": (("1", "2"),), **keyed}, "as many parts"),
        ({"what": "rows", "ranges": ((low, high), (low, high)), **keyed}, "overlap"),
        ({"what": "rows", "ranges": ((high, low),), **keyed}, "overlap"),
        ({"what": "totals", "ranges": ((None, high), (low, None)), **keyed}, "overlap"),
        ({"what": "rows", "ranges": ((None, None), (None, None)), **keyed}, "overlap"),
        ({"what": "values", "keys": (("1",),), **bag}, "no key"),
    ]
    for question, words in refused:
        assert words in asker.ask(**question), question
    good = asker.ask(what="rows", ranges=((None, low), (low, high), (high, None)), **keyed)
    assert '"is":"end"' in good
    assert "Traceback" not in pair_18.source.log


@pytest.mark.parametrize("plain", [False, True])
def test_a_key_of_each_partition_is_not_taken_for_one_of_them_all(
    pair_18: TwoNodes, plain: bool
) -> None:
    source, target = pair_18
    source.database.psql(BY_REGION.format(more=""))
    if plain:
        target.database.psql(
            "CREATE TABLE p (id int PRIMARY KEY, region text, v text);"
            "INSERT INTO p SELECT g, 'us', 'b' || g FROM generate_series(1, 200) g"
        )
        found = target.run("verify", "server-a", "--json", check=False)
        assert (found.json["result"], found.json["missing"]) == ("differs", 200)
        return
    target.database.psql(BY_REGION.format(more=", 'asia'"))
    assert target.run("verify", "server-a", "--json").json["result"] == "identical"
    target.database.psql("UPDATE p SET v = 'DRIFT' WHERE id < 11 AND region = 'eu'")
    target.database.psql("DELETE FROM p WHERE id = 20 AND region = 'eu'")
    found = target.run("verify", "server-a", "--json", check=False)
    assert (found.json["missing"], found.json["extra"], found.json["in_flight"]) == (11, 10, 0)


DEEP = """
CREATE TABLE {root} (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY RANGE (id);
CREATE TABLE {root}_low PARTITION OF {root} FOR VALUES FROM (0) TO (100);
CREATE TABLE {root}_high PARTITION OF {root} FOR VALUES FROM (100) TO (300) PARTITION BY {how};
{leaves}
INSERT INTO {root} SELECT g, (ARRAY['eu', 'us'])[1 + g % 2], 'v' || g
FROM generate_series(1, 299) g;
"""
LEAF = "CREATE TABLE {root}_{name} PARTITION OF {root}_high FOR VALUES {bound};"


def _deep(root: str, how: str, **leaves: str) -> str:
    made = [LEAF.format(root=root, name=name, bound=bound) for name, bound in leaves.items()]
    return DEEP.format(root=root, how=how, leaves="\n".join(made))


def test_partitions_below_partitions_are_compared_where_both_sides_have_the_same_rows(
    pair_18: TwoNodes,
) -> None:
    source, target = pair_18
    by_region, hashed = "LIST (region)", "WITH (MODULUS 2, REMAINDER {})"
    source.database.psql(
        _deep("one", by_region, eu="IN ('eu')", us="IN ('us')")
        + _deep("two", by_region, eu="IN ('eu')", us="IN ('us')")
    )
    target.database.psql(
        _deep("one", "HASH (id)", even=hashed.format(0), odd=hashed.format(1))
        + _deep("two", by_region, all="IN ('eu', 'us')")
    )
    equal = target.run("verify", "server-a", "--json").json
    assert [t["name"] for t in equal["tables"]] == ["one", "two_high", "two_low"]
    assert equal["result"] == "identical"
    target.database.psql("UPDATE one SET v = 'DRIFT' WHERE id IN (5, 200)")
    source.database.psql("DELETE FROM two WHERE id IN (5, 200, 201)")
    found = target.run("verify", "server-a", "--json", check=False).json
    assert [t["different"] + t["extra"] for t in found["tables"]] == [2, 2, 1]
