"""Tables that both sides have and that do not fit: each ends with a result that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.plugins.compare import stored
from tests.plugins.nodes import Node, TwoNodes

SQL = Path(__file__).with_name("sql") / "awkward"
THERE = (SQL / "refused_there.sql").read_text()
HERE = (SQL / "refused_here.sql").read_text()

# What becomes of each table that is not simply done, and a word that its result must have.
REFUSED = {
    "label_missing": ("failed", 'invalid input value for enum public.label: "c"'),
    "domain_stricter": ("failed", "strict_check"),
    "check_here": ("failed", "check_here_v_check"),
    "not_null_here": ("failed", "null value in column"),
    "too_long": ("failed", "value too long"),
    "no_cast": ("failed", "invalid input syntax for type json"),
    "case_twice": ("partly", "2 rows of the source share their key"),
    "overlapping": ("partly", "overlapping_r_excl"),
    "published": ("failed", "REPLICA IDENTITY"),
    "ranged_2": ("failed", "partition constraint"),
    "ranged_rest": ("failed", "partition constraint"),
    "listed_a": ("failed", "partition constraint"),
    "hashed_0": ("failed", "partition constraint"),
}


def _tables(listed: Any) -> dict[str, Any]:
    return {t["name"]: t for t in listed}


def test_tables_that_do_not_fit_say_so_and_the_others_come(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    source.database.psql(THERE)
    target.database.psql(HERE)
    here = target.database.psql
    planned = _tables(target.run("pull", "server-a", "--dry-run", "--json").json["plan"]["tables"])
    for name, words in (
        ("case_twice", "column id is text there and public.citext here"),
        ("too_long", "column v is text there and character varying(3) here"),
        ("cast_loses", "column n is numeric there and numeric(5,2) here: values may be rounded"),
        (
            "cast_loses",
            "column t is timestamp with time zone there and date here: values may be rounded",
        ),
        ("cast_loses", "column f is double precision there and real here: values may be rounded"),
        ("cast_loses", "column i is interval there and interval year here: values may be rounded"),
    ):
        assert words in planned[name]["warnings"]

    done = target.pull("server-a", check=False)
    assert (done.code, done.json["result"]) == (3, "partly")
    _every_result_is_clear(done.json)
    _what_fits_is_here(target)
    kept, again = stored(target.database), target.pull("server-a", check=False).json
    assert (again["rows"]["inserted"], again["rows"]["updated"]) == (0, 0)
    assert stored(target.database) == kept
    assert here("SELECT count(*) FROM ranged") == "1"


def _every_result_is_clear(done: Any) -> None:
    found = _tables(done["tables"])
    assert {n: t["result"] for n, t in found.items() if t["result"] != "done"} == {
        name: result for name, (result, _) in REFUSED.items()
    }
    for name, (_, words) in REFUSED.items():
        table = found[name]
        assert words in f"{table['note']}\n{table['error']}", table
    for table in found.values():  # no row of the source is unaccounted for
        if table["result"] != "failed":
            counted = (table["inserted"], table["updated"], table["unchanged"], table["skipped"])
            assert sum(counted) == table["source"], table


def _what_fits_is_here(target: Node) -> None:
    here = target.database.psql
    for query, rows in (
        ("SELECT id, v FROM fine ORDER BY 1", "1|there\n2|two\n9|own"),
        ("SELECT l FROM label_missing", "a"),
        ("SELECT d FROM domain_stricter", "1"),
        ("SELECT v FROM not_null_here", "1"),
        ("SELECT v FROM published", "here"),
        ("SELECT id, v FROM case_twice", "b|3"),
        ("SELECT id, r FROM overlapping ORDER BY 1", "2|[50,60)\n9|[3,4)"),
        ("SELECT id, v FROM ranged ORDER BY 1", "1|there"),
        ("SELECT id, k, v FROM listed", "1|a|here"),
        ("SELECT count(*) FROM hashed", "0"),
        ("SELECT (SELECT count(*) FROM loose), v FROM loose_1", "0|there"),
        ("SELECT * FROM cast_loses", "1|1.23|2024-01-01|0.12345679|1 year"),
        ("SELECT a, b FROM computed", "4|12"),
        (
            "SELECT tableoid::regclass, v FROM moved_up ORDER BY 2",
            "moved_up|here\nmoved_down|there",
        ),
    ):
        assert here(query) == rows, query
