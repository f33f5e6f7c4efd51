"""What a plan says will happen to the rows is what then happens."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plugins.nodes import TwoNodes


def _counts(plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {t["name"]: t["counts"] for t in plan["tables"]}


def test_the_plan_counts_what_the_sync_then_does(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    tables = (
        'CREATE TABLE keyed (id int, "Part" text, v numeric, w jsonb, PRIMARY KEY (id, "Part"));'
        "CREATE TABLE keyless (a int, b text); CREATE TABLE empty (id int PRIMARY KEY);"
        "CREATE TABLE computed (id int PRIMARY KEY, d int GENERATED ALWAYS AS (id * 2) STORED);"
    )
    rows = (
        "INSERT INTO keyed SELECT g, 'p' || g % 3, g / 7.0, '[1]' FROM generate_series({}) g;"
        "INSERT INTO keyless SELECT g % 10, 'x' FROM generate_series({}) g;"
        "INSERT INTO computed SELECT g FROM generate_series({}) g;"
    )
    source.database.psql(tables + rows.format("1, 1000", "1, 100", "1, 50"))
    target.database.psql(tables + rows.format("11, 1020", "1, 60", "41, 60"))
    target.database.psql("UPDATE keyed SET v = 0 WHERE id <= 30; ANALYZE")
    source.database.psql("ANALYZE")

    plan = target.run("pull", "server-a", "--dry-run", "--json").json["plan"]
    counts = _counts(plan)
    assert counts["keyed"] == {
        "insert": 10, "update": 20, "unchanged": 970, "target_only": 20, "exact": True,
    }  # fmt: skip
    assert counts["keyless"] == {
        "insert": 40, "update": 0, "unchanged": 60, "target_only": 0, "exact": True,
    }  # fmt: skip
    assert counts["computed"]["insert"] == 40
    done = {t["name"]: t for t in target.pull("server-a").json["tables"]}
    for name in ("keyed", "keyless", "computed"):
        assert done[name]["inserted"] == counts[name]["insert"]
        assert done[name]["updated"] == counts[name]["update"]
        assert done[name]["target_only"] == counts[name]["target_only"]
    words = target.run("pull", "server-a", "--dry-run").err
    assert "only here" in words
    assert "~" not in words


def test_a_large_table_is_estimated_and_marked_so(pair_18: TwoNodes) -> None:
    source, target = pair_18
    table = "CREATE TABLE big (id int PRIMARY KEY); INSERT INTO big SELECT generate_series(1, {});"
    source.database.psql(table.format(250_000) + "ANALYZE")
    target.database.psql(table.format(210_000) + "ANALYZE")
    counts = _counts(target.run("pull", "server-a", "--dry-run", "--json").json["plan"])["big"]
    assert counts["exact"] is False
    assert counts["update"] is None
    assert counts["insert"] == pytest.approx(40_000, rel=0.1)
    assert "~" in target.run("pull", "server-a", "--dry-run").err
    mirror = target.run("pull", "server-a", "--dry-run", "--mirror", "--json").json["plan"]
    assert _counts(mirror)["big"]["exact"] is True  # what would be deleted is counted


def test_counting_changes_nothing_and_a_table_that_is_locked_is_estimated(
    pair_18: TwoNodes,
) -> None:
    source, target = pair_18
    table = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'x'); ANALYZE"
    source.database.psql(table)
    target.database.psql(table)
    plan = target.run("pull", "server-a", "--dry-run", "--json").json["plan"]
    assert _counts(plan)["t"]["unchanged"] == 1
    left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'peersync_there%'"
    assert target.database.psql(left) == "0"
