"""What the configuration of a node keeps to itself is never given away, and that is said."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from peersync.config.filters import Filter
from peersync.core.errors import ConfigError
from peersync.postgres.catalog import read_catalog
from peersync.postgres.conninfo import resolve
from peersync.postgres.filters import read_shapes
from peersync.postgres.pool import Database as Pool
from peersync.postgres.sqlfiles import queries
from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.nodes import Failed, MakeNode, Node

for module in ("catalog", "filters"):
    queries(module)  # read now: later, the loop would wait for a file

SHAPE = """
CREATE TABLE customers (id int PRIMARY KEY, name text);
CREATE TABLE orders (id int PRIMARY KEY, note text, is_demo bool NOT NULL, secret text);
CREATE TABLE log (day date NOT NULL, word text) PARTITION BY RANGE (day);
CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE log_2 PARTITION OF log FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
"""
ROWS = """
INSERT INTO customers SELECT n, 'customer' || n FROM generate_series(1, 50) n;
INSERT INTO orders SELECT n, CASE WHEN n % 3 = 0 THEN 'canary-row-' ELSE 'real-row-' END || n,
  n % 3 = 0, 'canary-secret-' || n FROM generate_series(1, 300) n;
INSERT INTO log SELECT '2026-01-01'::date + n, CASE WHEN n % 2 = 0 THEN 'canary-log' ELSE 'kept' END
  FROM generate_series(0, 50) n;
ANALYZE;
"""
FILTERS = """
[[database.shop.filter]]
table = "public.orders"
where = "NOT is_demo"
exclude_columns = ["secret"]

[[database.shop.filter]]
table = "public.log"
where = "word <> 'canary-log'"
"""
IMPATIENT = {"PEERSYNC_FULL_SYNC_LOCK_TIMEOUT_S": "1"}
KEPT = "SELECT count(*), count(secret), bool_or(is_demo) FROM orders"


@pytest.fixture
def source_db(make_database: MakeDatabase) -> Database:
    database = make_database(15)
    database.psql(SHAPE + ROWS)
    return database


def paired(make_node: MakeNode, source: Database, target: Database, settings: str) -> Node:
    """The node that pulls; the other one is server-a, with these settings."""
    giver = make_node("server-a", source, settings=settings)
    taker = make_node("server-b", target, env=IMPATIENT)
    taker.pair_with(giver)
    return taker


@pytest.mark.parametrize("method", ["backup", "http"])
def test_no_byte_of_what_is_filtered_arrives(
    method: str, source_db: Database, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    target_db = make_database(18)
    target_db.psql(SHAPE)
    target = paired(make_node, source_db, target_db, FILTERS)
    with psycopg.connect(target_db.conninfo()) as writer:  # so that the chunks stay to be read
        writer.execute("INSERT INTO customers VALUES (9999, 'own')")
        failed = target.pull("server-a", "--no-compress", "--method", method, check=False)
        assert failed.code != 0
    chunks = [p.read_bytes() for p in (target.spool / "taken").rglob("*") if p.is_file()]
    arrived = b"".join(chunks)
    assert arrived.count(b"real-row-") == 200
    assert arrived.count(b"\tkept\n") == 25
    assert b"customer50" in arrived
    assert b"canary" not in arrived
    target.run("jobs", "resume", failed.json["session"])
    assert target_db.psql(KEPT) == "200|0|f"
    assert target_db.psql("SELECT count(*) FROM log") == "25"
    assert target_db.psql("SELECT count(*) FROM customers") == "51"


def test_big_filtered_tables_are_not_left_to_pg_dump(
    source_db: Database, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source_db.psql(
        "INSERT INTO orders SELECT n, repeat('long', 500), n % 2 = 0, repeat('canary-secret', 30)"
        " FROM generate_series(1001, 21000) n"
    )
    target_db = make_database(15, nth=1)
    target = paired(make_node, source_db, target_db, FILTERS)
    done = target.pull("server-a").json
    assert done["result"] == "done"
    assert target_db.psql(KEPT) == "10200|0|f"
    assert target_db.psql("SELECT indexrelid::regclass FROM pg_index"
                          " WHERE indrelid = 'orders'::regclass") == "orders_pkey"  # fmt: skip


def test_the_plan_says_that_the_source_filters_and_not_how(
    source_db: Database, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    target_db = make_database(18)
    target_db.psql(SHAPE)
    target = paired(make_node, source_db, target_db, FILTERS)
    shown = target.run("pull", "server-a", "--dry-run", "--json")
    tables = {t["name"]: t for t in shown.json["plan"]["tables"]}
    assert tables["orders"]["filtered"]
    assert len([w for w in tables["orders"]["warnings"] if "filtered by the source" in w]) == 2
    assert tables["orders"]["rows"] < 300
    assert tables["log_2"]["filtered"]
    assert not tables["customers"]["filtered"]
    assert "is_demo" not in shown.out
    assert "secret" not in shown.out


def test_rows_and_columns_here_that_the_filter_hides_stay(
    source_db: Database, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    target_db = make_database(15, nth=1)
    target_db.psql(
        SHAPE + "INSERT INTO orders VALUES (1, 'old', false, 'own'), (3, 'mine', true, NULL)"
    )
    target = paired(make_node, source_db, target_db, FILTERS)
    assert target.pull("server-a").json["result"] == "done"
    here = "SELECT note, secret FROM orders WHERE id IN (1, 3) ORDER BY id"
    assert target_db.psql(here) == "real-row-1|own\nmine|"
    again = target.pull("server-a").json["rows"]
    assert (again["inserted"], again["updated"]) == (0, 0)


def test_a_filter_is_obeyed_after_a_restart_by_backups_that_were_made_before_it(
    source_db: Database, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    target_db = make_database(18)
    target_db.psql(SHAPE)
    source = make_node("server-a", source_db)
    target = make_node("server-b", target_db, env=IMPATIENT)
    target.pair_with(source)
    with psycopg.connect(target_db.conninfo()) as writer:
        writer.execute("INSERT INTO customers VALUES (9999, 'own')")
        failed = target.pull("server-a", check=False)
    source.stop()
    source.config.write_text(source.config.read_text() + FILTERS)
    for chunk in (target.spool / "taken").rglob("*"):
        if chunk.is_file():
            chunk.unlink()
    source.start()
    target.run("jobs", "resume", failed.json["session"])
    assert target_db.psql(KEPT) == "200|0|f"


# --- what is refused --------------------------------------------------------------------------
async def refusal(database: Database, *filters: Filter) -> ConfigError:
    async with Pool("shop", resolve(database.conninfo())).connect("test") as connection:
        catalog = await read_catalog(connection)
        with pytest.raises(ConfigError) as caught:
            await read_shapes(connection, filters, catalog)
    return caught.value


@pytest.mark.parametrize(
    ("table", "given", "words"),
    [
        ("public.gone", {"where": "true"}, "there is no such table"),
        ("public.orders", {"where": "NOT demo"}, 'column "demo" does not exist'),
        ("public.orders", {"where": "id +"}, "syntax error"),
        ("public.orders", {"where": "note"}, "must be type boolean"),
        ("public.orders", {"where": "count(*) > 1"}, "aggregate functions are not allowed"),
        ("public.orders", {"columns": ("id", "price")}, "it has no column 'price'"),
        ("public.orders", {"exclude_columns": ("price",)}, "it has no column 'price'"),
        ("public.orders", {"exclude_columns": ("id",)}, "part of its key"),
        ("public.orders", {"columns": ("note",)}, "part of its key"),
        ("public.unique_only", {"columns": ("v",)}, "part of its key"),
        ("public.keyless", {"exclude_columns": ("v",)}, "no column would be left"),
    ],
)
async def test_a_filter_that_does_not_fit_is_refused_with_the_reason(
    table: str, given: dict[str, Any], words: str, source_db: Database
) -> None:
    source_db.psql(
        "CREATE TABLE unique_only (id int UNIQUE NOT NULL, v text); CREATE TABLE keyless (v text)"
    )
    error = await refusal(source_db, Filter(table=table, **given))
    assert f"the filter of {table} is not valid" in error.message
    assert words in error.message
    assert error.hint


async def test_a_partition_has_one_filter(source_db: Database) -> None:
    both = [Filter(table=f"public.{name}", where="true") for name in ("log_1", "log")]
    assert "another filter" in (await refusal(source_db, *both)).message


def test_a_filter_that_does_not_fit_stops_every_pull_and_check_says_why(
    source_db: Database, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    settings = '[[database.shop.filter]]\ntable = "public.orders"\nwhere = "NOT demo"\n'
    target = paired(make_node, source_db, make_database(18), settings)
    refused = target.pull("server-a", check=False)
    assert refused.code != 0
    assert "the source has a filter that is not valid" in refused.out
    words = 'column "demo" does not exist'
    assert words not in refused.out + refused.err
    source_home = target.home.parent / "server-a"
    assert words in (source_home / "agent.log").read_text()
    checked = Node("server-a", source_db, source_home).run("check", "--json", check=False)
    found = next(c for c in checked.json["checks"] if c["name"] == "filters of shop")
    assert found["state"] == "failed"
    assert words in found["text"]


def test_a_filter_that_fits_is_a_check_that_is_fine(
    source_db: Database, make_node: MakeNode
) -> None:
    node = make_node("server-a", source_db, settings=FILTERS)
    checked = node.run("check", "--json", check=False)
    found = next(c for c in checked.json["checks"] if c["name"] == "filters of shop")
    assert (found["state"], found["text"]) == ("ok", "3 filtered tables")


def test_an_agent_does_not_start_with_a_filter_that_is_no_single_expression(
    source_db: Database, make_node: MakeNode
) -> None:
    settings = '[[database.shop.filter]]\ntable = "public.orders"\nwhere = "true) OR (true"\n'
    node = make_node("server-a", source_db, settings=settings, start=False)
    with pytest.raises(Failed, match="no single expression"):
        node.start()


def test_what_goes_wrong_in_a_filter_tells_the_peer_no_value(
    source_db: Database, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    settings = '[[database.shop.filter]]\ntable = "public.orders"\nwhere = "note::int > 0"\n'
    target = paired(make_node, source_db, make_database(18), settings)
    refused = target.pull("server-a", check=False)
    assert refused.code != 0
    told = refused.out + refused.err + target.log
    assert "public.orders could not be read with what the source filters" in told
    for hidden in ("real-row", "canary", "note::int"):
        assert hidden not in told
    assert "invalid input syntax" in (target.home.parent / "server-a" / "agent.log").read_text()


def test_a_table_cannot_be_created_without_a_column_that_needs_a_value(
    source_db: Database, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    settings = '[[database.shop.filter]]\ntable = "public.orders"\nexclude_columns = ["is_demo"]\n'
    target_db = make_database(18)
    target = paired(make_node, source_db, target_db, settings)
    result = target.pull("server-a", check=False)
    assert result.code == 3
    blocked = next(t for t in result.json["tables"] if t["name"] == "orders")
    assert blocked["result"] == "blocked"
    assert "NOT NULL" in blocked["error"]
    assert target_db.psql("SELECT count(*) FROM customers") == "50"
