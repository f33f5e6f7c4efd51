"""Push: the same sync, asked for on the server that has the rows."""

from __future__ import annotations

import psycopg

from peersync.cli.names import user_name
from tests.plugins.clusters import MakeDatabase
from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import MakeNode, TwoNodes
from tests.plugins.waiting import eventually

ROWS = "CREATE TABLE t (id int PRIMARY KEY, v text);" + (
    "INSERT INTO t SELECT g, 'value ' || g FROM generate_series(1, {}) AS g;"
)


def test_a_push_makes_the_peer_equal_and_both_sides_tell_the_same(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    source.database.psql(ROWS.format(1000))
    done = source.run("push", "server-b", "--yes", "--json").json
    assert (done["result"], done["action"], done["peer"]) == ("done", "push", "server-b")
    assert done["rows"]["inserted"] == 1000
    assert_same_rows(source.database, target.database)

    there = target.run("jobs", "show", done["session"], "--json").json
    here = source.run("jobs", "show", done["session"], "--json").json
    assert (there["action"], there["role"]) == ("push", "target")
    assert (here["action"], here["role"]) == ("push", "source")
    assert here["tables"] == there["tables"]
    for field in ("raw_bytes", "wire_bytes", "rows"):
        assert here["progress"][field] == there["progress"][field]
    assert "on server-a" in there["requested_by"]

    source.database.psql("UPDATE t SET v = 'new' WHERE id <= 10")
    again = source.run("push", "server-b", "--yes", "--json").json
    assert again["rows"] == {"inserted": 0, "updated": 10, "unchanged": 990, "skipped": 0} | {
        k: v for k, v in again["rows"].items() if k in ("deleted", "kept_local")
    }


def test_a_dry_run_shows_the_plan_of_the_other_side_and_leaves_nothing(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ROWS.format(10))
    plan = source.run("push", "server-b", "--dry-run", "--json").json["plan"]
    assert (plan["action"], plan["source"], plan["target"]) == ("push", "server-a", "server-b")
    words = source.run("push", "server-b", "--dry-run").err
    assert "THIS SERVER server-a:shop" in words
    assert source.run("history", "--json").json["sessions"] == []
    assert target.run("history", "--json").json["sessions"] == []


def test_a_push_needs_the_right_to_push_there_and_no_right_to_pull_here(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ROWS.format(10))
    source.run("peer", "deny", "server-b", "--pull")
    target.run("peer", "deny", "server-a", "--push")
    refused = source.run("push", "server-b", "--yes", check=False)
    assert refused.code == 8
    assert "peersync peer allow server-a --push" in refused.err
    target.run("peer", "allow", "server-a", "--push")
    assert source.run("push", "server-b", "--yes", "--json").json["result"] == "done"
    assert target.pull("server-a", check=False).code == 8  # what was offered was one session


def test_a_session_that_was_pushed_cannot_be_used_to_pull_again(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ROWS.format(10))
    target.database.psql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    source.run("peer", "deny", "server-b", "--pull")
    job = source.run("push", "server-b", "--yes", "--json").json["session"]
    target.database.psql(
        "UPDATE peersync.full_sync_sessions SET state = 'failed', resumable = true,"
        f" committed_at = NULL WHERE session_id = '{job}'"
    )
    source.database.psql("INSERT INTO t VALUES (11, 'secret')")
    assert target.run("jobs", "resume", job, "--json", check=False).code != 0
    assert target.database.psql("SELECT count(*) FROM t") == "10"


def test_a_second_push_is_refused_and_names_the_holder(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ROWS.format(1000))
    target.database.psql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    with psycopg.connect(target.database.conninfo()) as other:
        other.execute("LOCK TABLE t IN SHARE MODE")
        job = source.run("push", "server-b", "--yes", "--no-wait", "--json").json["session"]
        second = source.run("push", "server-b", "--yes", check=False)
        assert second.code == 6
        assert job in second.err
        shown = source.run("jobs", "show", job, "--json").json
        assert shown["state"] in ("planned", "running")
        other.rollback()
    ended = source.run("jobs", "watch", job, "--json", "--progress", "none").json
    assert ended["result"] == "done"


def test_a_push_is_cancelled_from_where_it_was_started(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ROWS.format(1000))
    target.database.psql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    with psycopg.connect(target.database.conninfo()) as other:
        other.execute("LOCK TABLE t IN SHARE MODE")
        job = source.run("push", "server-b", "--yes", "--no-wait", "--json").json["session"]
        source.run("jobs", "cancel", job)
        ended = source.run("jobs", "watch", job, "--json", "--progress", "none", check=False)
        other.rollback()
    assert ended.code == 130
    assert ended.json["result"] == "cancelled"
    shown = target.run("jobs", "show", job, "--json").json
    assert (shown["state"], shown["cancelled_by"]) == ("cancelled", f"{user_name()} on server-a")
    assert target.database.psql("SELECT count(*) FROM t") == "0"


def test_a_push_goes_on_after_either_agent_was_killed(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ROWS.format(200_000))
    target.database.psql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    with psycopg.connect(target.database.conninfo()) as other:
        other.execute("LOCK TABLE t IN SHARE MODE")
        job = source.run("push", "server-b", "--yes", "--no-wait", "--json").json["session"]
        source.kill()
        source.start()
        target.kill()
        target.start()
        other.rollback()

    def state(node: str) -> str:
        run = (source if node == "a" else target).run
        return str(run("jobs", "show", job, "--json").json["state"])

    eventually("the target is done", lambda: state("b") == "done", 60)
    eventually("the source knows it", lambda: state("a") == "done")
    assert_same_rows(source.database, target.database)


def test_a_failed_push_is_taken_up_again_from_the_source(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source = make_node("server-a", make_database(18))
    target = make_node(
        "server-b", make_database(18, nth=1), env={"PEERSYNC_FULL_SYNC_LOCK_TIMEOUT_S": "1"}
    )
    target.pair_with(source)
    source.database.psql(ROWS.format(1000))
    target.database.psql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    with psycopg.connect(target.database.conninfo()) as other:
        other.execute("LOCK TABLE t IN SHARE MODE")
        failed = source.run("push", "server-b", "--yes", "--json", check=False)
        other.rollback()
    assert failed.json["result"] == "failed"
    assert failed.json["error"]["message"]
    resumed = source.run("jobs", "resume", failed.json["session"], "--json").json
    assert resumed["result"] == "done"
    assert_same_rows(source.database, target.database)


def test_only_chosen_tables_are_synced(pair_18: TwoNodes) -> None:
    source, target = pair_18
    for table in ("orders", "order_lines", "customers", "secrets"):
        source.database.psql(
            f"CREATE TABLE {table} (id int PRIMARY KEY); INSERT INTO {table} VALUES (1)"
        )
    done = target.pull("server-a", "-t", "order*", "-t", "cust*", "-T", "*_lines").json
    assert {t["name"] for t in done["tables"]} == {"orders", "customers"}
    there = target.database.psql(
        "SELECT string_agg(relname, ' ' ORDER BY 1) FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    assert there == "customers orders"
    nothing = target.run("pull", "server-a", "-t", "nope*", "--yes", check=False)
    assert nothing.code == 2
    assert "nope*" in nothing.err


def test_a_limited_bandwidth_is_kept(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(
        "CREATE TABLE t (id int PRIMARY KEY, v bytea); INSERT INTO t SELECT g, "
        "decode(md5(g::text) || md5((g + 7)::text), 'hex') FROM generate_series(1, 20000) AS g"
    )
    done = target.pull("server-a", "--bandwidth", "250kB", "--parallel", "1").json
    assert done["wire_bytes"] > 400_000
    assert done["seconds"]["transfer"] > 0.8 * done["wire_bytes"] / 250e3


def test_a_chosen_table_whose_schema_is_missing_is_said_beforehand(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(
        'CREATE SCHEMA "S x"; CREATE TABLE "S x".t (id int PRIMARY KEY);'
        "CREATE TABLE u (id int PRIMARY KEY)"
    )
    plan = target.run("pull", "server-a", "-t", '"S x".*', "-t", "u", "--dry-run", "--json").json
    tables = {t["name"]: t for t in plan["plan"]["tables"]}
    assert tables["t"]["action"] == "blocked"
    assert 'CREATE SCHEMA "S x";' in tables["t"]["reason"]
    target.database.psql('CREATE SCHEMA "S x"')
    done = target.pull("server-a", "-t", '"S x".*', "-t", "u").json
    assert done["result"] == "done"
