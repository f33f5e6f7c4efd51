"""Table sets: what is asked for travels and nothing else, and nothing is ever deleted by it."""

from __future__ import annotations

import subprocess
import time

import psycopg
import pytest

from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.nodes import MakeNode, Node, introduce

SHAPE = """
CREATE TABLE customers (id int PRIMARY KEY, name text, region text, changed_at timestamptz);
CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES customers, note text,
  region text, changed_at timestamptz NOT NULL);
CREATE TABLE notes (id int PRIMARY KEY, day date, changed_at timestamp);
"""
ROWS = """
INSERT INTO customers SELECT n, 'customer' || n, CASE WHEN n % 2 = 0 THEN 'eu' ELSE 'us' END,
  now() - n * interval '1 day' FROM generate_series(1, 20) n;
INSERT INTO orders SELECT n, n, 'new', CASE WHEN n % 2 = 0 THEN 'eu' ELSE 'us' END,
  now() - n * interval '1 day' FROM generate_series(1, 20) n;
INSERT INTO notes SELECT n, current_date - n, now() AT TIME ZONE 'UTC' - n * interval '1 day'
  FROM generate_series(1, 20) n;
ANALYZE;
"""
WINDOW = """
[[table_set]]
name = "lately"
tables = ["orders", "customers"]
method = "window"
column = "changed_at"
span = "7d"
schedule = "every 6h"
priority = 20

[[table_set]]
name = "europe"
tables = ["customers"]
method = "full"
priority = 10
filter = [{column = "region", value = "eu"}, {column = "id", op = "in", value = [2, 4, 6, 7]}]
"""
FILTER = """
[[database.shop.filter]]
table = "public.orders"
where = "note <> 'secret'"
exclude_columns = ["region"]
"""
ORDERS = "SELECT string_agg(id::text || note, ' ' ORDER BY id) FROM orders"


def pair(
    make_node: MakeNode, make_database: MakeDatabase, settings: str, giver_settings: str = ""
) -> tuple[Node, Node, Database, Database]:
    """server-a has the rows; server-b has the sets, and the same tables."""
    there, here = make_database(18), make_database(18, nth=1)
    there.psql(SHAPE + ROWS)
    here.psql(SHAPE)
    giver = make_node("server-a", there, settings=giver_settings, start=False)
    taker = make_node("server-b", here, settings=settings, start=False)
    introduce(taker, giver)
    for node in (giver, taker):
        node.launch()
    for node in (giver, taker):
        node.wait_until_ready()
    taker.grant()
    return giver, taker, there, here


def test_a_window_updates_what_changed_lately_and_leaves_all_else_alone(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    _, taker, there, here = pair(make_node, make_database, WINDOW)
    here.psql(
        "INSERT INTO customers SELECT n, 'old' || n, 'eu', now() - interval '1 year'"
        " FROM generate_series(3, 30) n;"
        "INSERT INTO orders VALUES (3, 3, 'stale', 'eu', '2020-01-01'),"
        " (10, 10, 'stale', 'eu', '2020-01-01'), (99, 30, 'mine', 'eu', '2020-01-01')"
    )
    there.psql("UPDATE orders SET customer = 15 WHERE id = 5")  # outside of the window, here
    planned = taker.run("run", "--dry-run", "--json").json
    assert [(p["set"], p["reason"] is None) for p in planned["sets"]] == [
        ("europe", False), ("lately", True),
    ]  # fmt: skip
    done = taker.run("run", "--json").json
    (run,) = done["runs"]
    assert (done["result"], run["status"], run["error"]) == ("done", "success", None)
    assert run["session"]
    assert here.psql(ORDERS) == "1new 2new 3new 4new 5new 6new 10stale 99mine"
    assert here.psql("SELECT count(*) FROM customers WHERE name LIKE 'customer%'") == "6"
    assert here.psql("SELECT count(*) FROM customers") == "30"
    again = taker.run("run", "--json").json
    assert (again["result"], again["runs"]) == ("nothing", [])
    assert "it is due" in again["not_run"][1]["reason"]
    forced = taker.run("run", "--set", "lately", "--force")
    assert "lately from server-a: success, 12 rows" in forced.out
    shown = taker.run("run", "--dry-run", "--force").out
    assert "orders, customers" in shown
    assert "pull server-a" in shown
    assert "success" in taker.run("run", "--history").out
    nameless = taker.run("run", "--set", "", check=False)
    assert (nameless.code, "--set needs the name" in nameless.err) == (2, True)
    idle = taker.run("run")
    assert "○ lately: it is due" in idle.err
    told = taker.run("run", "--history", "--set", "lately", "--json").json
    assert len(told["runs"]) == 2


def test_a_row_whose_parent_is_outside_of_the_window_is_left_out_and_said(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    _, taker, there, here = pair(make_node, make_database, WINDOW)
    there.psql("UPDATE orders SET customer = 15 WHERE id = 5")
    result = taker.run("run", "--json", check=False)
    assert result.code == 3
    (run,) = result.json["runs"]
    assert (run["status"], "1 table not wholly done" in run["reason"]) == ("partial", True)
    assert here.psql(ORDERS) == "1new 2new 3new 4new 6new"


def test_conditions_never_widen_what_the_owner_lets_go(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    sets = """
[[table_set]]
name = "all"
tables = ["orders"]
method = "full"
filter = [
  {column = "id", op = ">=", value = 1},
  {column = "note", op = "!=", value = "x' OR 'a'='a"},
]

[[table_set]]
name = "hidden"
tables = ["orders"]
method = "full"
filter = [{column = "region", value = "eu"}]

[[table_set]]
name = "wrong"
tables = ["orders", "notes"]
method = "window"
column = "day"
span = "7d"

[[table_set]]
name = "value"
tables = ["notes"]
method = "full"
filter = [{column = "day", value = "no'\\\\day"}]
"""
    _, taker, there, here = pair(make_node, make_database, sets, FILTER)
    there.psql("UPDATE orders SET note = 'secret' WHERE id > 3")
    here.psql("INSERT INTO customers SELECT n FROM generate_series(1, 20) n")
    assert taker.run("run", "--set", "all", "--json").json["result"] == "done"
    assert here.psql(ORDERS) == "1new 2new 3new"
    for name, words in (
        ("hidden", "public.orders has no column region"),
        ("wrong", "public.orders has no column day"),
        ("value", "invalid input syntax for type date"),
    ):
        planned = taker.run("run", "--set", name, "--dry-run", "--json", check=False)
        assert planned.code == 1
        assert words in planned.json["sets"][0]["problems"]["server-a"]
        failed = taker.run("run", "--set", name, "--json", check=False)
        assert failed.code == 1
        assert words in failed.json["runs"][0]["error"]["message"]
    assert here.psql("SELECT count(*) FROM notes") == "0"


def test_days_and_times_without_a_zone_make_a_window_too(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    sets = "".join(
        f"""
[[table_set]]
name = "{column.replace("_", "-")}"
tables = ["notes"]
method = "window"
column = "{column}"
span = "{span}"
direction = "pull"
"""
        for column, span in (("day", "3d"), ("changed_at", "156h"))
    )
    _, taker, _, here = pair(make_node, make_database, sets)
    taker.run("run", "--set", "day")
    assert here.psql("SELECT max(id) FROM notes") == "3"
    taker.run("run", "--set", "changed-at")
    assert here.psql("SELECT max(id) FROM notes") == "6"


def test_a_set_is_pushed_as_it_is_pulled(make_node: MakeNode, make_database: MakeDatabase) -> None:
    there, here = make_database(18), make_database(18, nth=1)
    there.psql(SHAPE + ROWS)
    here.psql(SHAPE)
    sets = WINDOW.replace('method = "window"', 'method = "window"\ndirection = "push"')
    giver = make_node("server-a", there, settings=sets, start=False)
    taker = make_node("server-b", here, start=False)
    introduce(taker, giver)
    for node in (giver, taker):
        node.launch()
    for node in (giver, taker):
        node.wait_until_ready()
    taker.grant("pull", "push")
    done = giver.run("run", "--json").json
    assert [(r["direction"], r["status"]) for r in done["runs"]] == [("push", "success")]
    assert here.psql(ORDERS) == "1new 2new 3new 4new 5new 6new"


BOTH = """
[[table_set]]
name = "changes"
tables = ["orders"]
schedule = "every 1h"

[[table_set]]
name = "whole"
tables = ["notes"]
method = "full"
schedule = "0 0 1 1 *"
"""


def test_members_are_proved_to_have_everything_and_others_are_told_what_to_do(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    _, taker, there, here = pair(make_node, make_database, BOTH)
    first = taker.run("run", "--set", "changes", "--json", check=False)
    assert (first.code, first.json["runs"][0]["status"]) == (1, "error")
    assert "peersync join server-a" in first.json["runs"][0]["error"]["hint"]
    taker.run("join", "server-a", "--yes")
    there.psql("UPDATE orders SET note = 'changed' WHERE id = 7")
    done = taker.run("run", "--set", "changes", "--force", "--json").json
    assert done["runs"][0]["status"] == "success"
    assert here.psql("SELECT note FROM orders WHERE id = 7") == "changed"
    here.psql("UPDATE notes SET day = '2020-01-01' WHERE id = 3")  # a full sync of some tables
    there.psql("UPDATE notes SET day = '2021-01-01' WHERE id = 4")
    whole = taker.run("run", "--set", "whole", "--json", check=False)
    assert whole.json["runs"][0]["status"] in ("success", "partial"), whole.out
    again = taker.run("run", "--set", "changes", "--force", "--json").json
    assert again["runs"][0]["status"] == "success"
    query = "SELECT string_agg(day::text, ' ' ORDER BY id) FROM notes WHERE id IN (3, 4)"
    assert here.psql(query) == there.psql(query) == "2020-01-01 2021-01-01"


def test_a_set_that_is_running_is_not_begun_twice_and_a_dead_one_is_interrupted(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    _, taker, _, here = pair(make_node, make_database, BOTH)
    with psycopg.connect(here.conninfo()) as other:
        other.execute("LOCK TABLE notes IN ACCESS SHARE MODE; INSERT INTO notes VALUES (99)")
        waiting = taker.popen("run", "--set", "whole", stdout=subprocess.DEVNULL)
        wait_for_status(taker, "running")
        second = taker.run("run", "--set", "whole", "--force", "--json").json
        assert (second["result"], second["runs"]) == ("nothing", [])
        assert (
            "table set whole, server-a is running already (node server-b"
            in (second["not_run"][0]["reason"])
        )
        taker.kill()
        waiting.wait(20)
    taker.start()
    wait_for_status(taker, "interrupted")


def wait_for_status(node: Node, status: str) -> None:
    deadline = time.monotonic() + 20
    seen = None
    while seen != status:
        assert time.monotonic() < deadline, (seen, node.log)
        runs = node.run("run", "--history", "--set", "whole", "--json").json["runs"]
        seen = runs[0]["status"] if runs else None
        time.sleep(0.1)


def test_a_peer_that_was_away_for_a_moment_is_asked_again(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    giver, taker, _, here = pair(make_node, make_database, BOTH)
    giver.kill()
    waiting = taker.popen("run", "--set", "whole", stdout=subprocess.DEVNULL)
    wait_for_status(taker, "running")
    giver.start()
    assert waiting.wait(30) == 0
    (run,) = taker.run("run", "--history", "--set", "whole", "--json").json["runs"]
    assert (run["status"], run["tries"] >= 2) == ("success", True)
    assert "recovered after" in run["reason"]
    assert here.psql("SELECT count(*) FROM notes") == "20"


@pytest.mark.parametrize("deed", ["pause", "run"])
def test_schedules_are_shown_paused_and_run_by_hand(
    deed: str, make_node: MakeNode, make_database: MakeDatabase
) -> None:
    sets = """
[[table_set]]
name = "whole"
tables = ["notes"]
method = "full"
schedule = "0 0 1 1 *"

[[schedule]]
name = "nightly"
run = "sets"
at = "every 6h"
"""
    _, taker, _, here = pair(make_node, make_database, sets)
    if deed == "pause":
        assert taker.run("schedule", "pause", "nightly", "--json").json["paused_by"]
        shown = taker.run("schedule", "list").out
        assert "paused by" in shown
        taker.run("schedule", "resume", "nightly")
        assert "paused by" not in taker.run("schedule", "list").out
        unknown = taker.run("schedule", "run", "weekly", check=False)
        assert unknown.code == 2
        assert "nightly, set.whole" in unknown.err
        return
    taker.run("schedule", "run", "whole")
    deadline = time.monotonic() + 20
    while here.psql("SELECT count(*) FROM notes") != "20":
        assert time.monotonic() < deadline, taker.log
        time.sleep(0.1)
    while (shown := taker.run("schedule", "list", "--json").json["schedules"][1])["result"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (shown["name"], shown["result"]) == ("set.whole", "success")
