"""What ninety days of records add up to: sums, cost, trends, unusual days, export, retention."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from peersync.agent.analytics_view import LagTrends
from peersync.core.trend import next_month
from peersync.transport.local import AgentClient
from tests.integration.periodic_rig import wait_until
from tests.plugins.clusters import Database as Server
from tests.plugins.clusters import GetCluster, MakeDatabase
from tests.plugins.nodes import MakeNode, Node

SETTINGS = """
[peer.server-a]
price_per_gb = 0.09
"""
KEPT = {"PEERSYNC_STATISTICS_CURRENCY": "EUR", "PEERSYNC_STATISTICS_KEEP_D": "200"}
# Each day 400 MB of full sync and 100 MB of changes from server-a; server-b costs nothing.
# Today is not over. Five days ago there were thirty times the changes; nine days ago the full
# sync failed. One complete sync refers to a full sync, which must not count twice.
RECORDS = """
INSERT INTO peersync.full_sync_sessions (session_id, role, action, database_name, peer_id,
       peer_name, requested_by, state, phase, raw_bytes, wire_bytes, rows_total, started_at,
       completed_at)
SELECT gen_random_uuid(), 'target', 'pull', 'shop', 'id-a', 'server-a', 'me',
       CASE i WHEN 9 THEN 'failed' ELSE 'done' END, 'verify', 1000000000, 400000000, 5000,
       t - interval '40 seconds', t + interval '60 seconds'
  FROM generate_series(0, 90) AS i,
       LATERAL (SELECT date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
                       - i * interval '1 day' AS t) AS day;
INSERT INTO peersync.full_sync_sessions (session_id, role, action, database_name, peer_id,
       peer_name, requested_by, state, phase, started_at, completed_at)
SELECT gen_random_uuid(), 'target', 'pull', 'shop', 'id-a', 'server-a', 'me', 'done', 'verify',
       now() - interval '300 days', now() - interval '300 days';
INSERT INTO peersync.link_samples (peer_id, span_s, at, peer_name, transactions, changes, raw_bytes,
       wire_bytes, lag_p50_s, lag_p95_s)
SELECT 'id-' || p, 86400, date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
       - i * interval '1 day', 'server-' || p, 100,
       CASE WHEN i = 5 AND p = 'a' THEN 30000 ELSE 1000 END,
       200000000, 100000000, 0.5, 2
  FROM generate_series(1, 90) AS i, unnest('{a,b}'::text[]) AS p;
INSERT INTO peersync.complete_syncs (complete_id, database_name, node_name, sync_type, status,
       requested_by, completed_at)
VALUES ('00000000-0000-4000-8000-000000000001', 'shop', 'alone', 'manual', 'success', 'me', now());
INSERT INTO peersync.peer_sync_references (complete_id, place, peer_id, peer_name, way, status,
       completed_at, duration_s, rows_total, raw_bytes, wire_bytes, session_id)
SELECT '00000000-0000-4000-8000-000000000001'::uuid, n, 'id-a', 'server-a', 'full-pull', 'success',
       now() - interval '1 day', 100, 5000, 1000000000, 400000000,
       (SELECT session_id FROM peersync.full_sync_sessions LIMIT 1)
  FROM generate_series(1, 1) AS n
UNION ALL
SELECT '00000000-0000-4000-8000-000000000001', 2, 'id-b', 'server-b', 'periodic', 'success',
       now() - interval '1 day', 3, 1000, 200000000, 100000000, NULL;
"""
GB = Decimal(10**9)


@pytest.fixture(scope="module")
def node(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    cluster = clusters(18, 0)
    cluster.createdb("statistics_days")
    server = Server(cluster, "statistics_days", "postgres")
    home: Path = tmp_path_factory.mktemp("days")
    node = Node("alone", server, home, settings=SETTINGS, env=KEPT)
    node.init()
    server.psql(RECORDS)
    node.start()
    yield node
    node.close()
    cluster.dropdb("statistics_days")


def today() -> date:
    return datetime.now(UTC).date()


def test_sums_of_days_say_what_the_records_say(node: Node) -> None:
    told = node.run("statistics", "--days", "30", "--json").json
    assert told["databases"][0]["database"] == "shop"  # as it was before
    [found] = told["analytics"]["databases"]
    assert found["problem"] is None
    # 30 days and today of full syncs, 30 days of two links, one proof of a complete sync
    totals = found["totals"]
    assert (totals["ok"], totals["partly"], totals["failed"]) == (30 + 1, 0, 1)
    assert totals["wire_bytes"] == 31 * 400_000_000 + 60 * 100_000_000
    assert totals["changes"] == 59 * 1000 + 30_000
    assert totals["rows"] == 31 * 5000
    assert totals["speed_bytes_s"] == 1e7
    assert (totals["lag_p50_s"], totals["lag_p95_s"]) == (0.5, 2)
    assert found["success_rate"] == round(31 / 32, 4)
    assert Decimal(totals["cost"]) == (31 * 4 + 30) * Decimal("0.1") * Decimal("0.09")
    assert [peer["peer"] for peer in found["peers"]] == ["server-a", "server-b"]
    assert found["peers"][1]["totals"]["cost"] in ("0", "0.000000")
    assert len(found["days"]) == 31
    assert found["days"][0]["day"] == (today() - timedelta(days=30)).isoformat()
    assert found["last_run"]["kind"] == "complete sync"
    assert found["velocity"]["per_hour"] > 100


def test_two_periods_are_compared_over_whole_days(node: Node) -> None:
    told = node.run("statistics", "--days", "10", "--compare", "--json").json
    [found] = told["analytics"]["databases"]
    compared = {one["measure"]: one for one in found["compared"]}
    assert compared["changes"]["now"] == 19_000 + 30_000
    assert compared["changes"]["before"] == 20_000
    assert compared["changes"]["percent"] == 145.0
    assert (compared["failed"]["now"], compared["failed"]["percent"]) == (1, None)
    assert compared["wire_bytes"]["percent"] == 0
    shown = node.run("statistics", "--compare", "--days", "10").out
    assert "+145.0 %" in shown


def test_the_unusual_day_is_named_and_no_other(node: Node) -> None:
    found = node.run("statistics", "anomalies", "--days", "60", "--json").json["anomalies"]
    day = (today() - timedelta(days=5)).isoformat()
    assert {(one["day"], one["measure"], one["peer"]) for one in found} == {
        (day, "changes", None),
        (day, "changes", "server-a"),
    }
    assert "30.0 times the usual 1,000" in next(o["reason"] for o in found if o["peer"])
    assert day in node.run("statistics", "anomalies").out
    assert node.run("statistics", "anomalies", "--days", "3").out == "No day was unusual.\n"


def test_cost_is_exact_and_the_months_are_foretold(node: Node) -> None:
    [report] = node.run("statistics", "cost", "--json").json["costs"]
    assert report["currency"] == "EUR"
    total = (91 * 4 + 90) * Decimal("0.1") * Decimal("0.09")
    assert Decimal(report["total"]["cost"]) == total
    assert sum(Decimal(month["cost"]) for month in report["months"]) == total
    assert sum(month["wire_bytes"] for month in report["months"]) == report["total"]["wire_bytes"]
    assert {p["name"]: Decimal(p["cost"]) for p in report["peers"]} == {
        "server-a": total,
        "server-b": 0,
    }
    assert {Decimal(run["cost"]) for run in report["runs"]} == {Decimal("0.036")}
    after = report["forecasts"][1]
    month = next_month(today())
    days = (next_month(month) - month).days
    assert after["month"] == f"{month:%Y-%m}"
    assert abs(Decimal(after["expected"]) - days * Decimal("0.045")) < Decimal("0.001")
    out = node.run("statistics", "cost").out
    assert out.startswith(f"shop: {total.normalize():.3f} EUR for ")


def test_lag_over_time_has_every_link_and_the_spans_in_which_something_came(node: Node) -> None:
    async def ask() -> LagTrends:
        async with AgentClient(node.home / "s") as agent:
            params = {"hours": "240", "database": "shop"}
            return await agent.get("/api/admin/statistics/lag", LagTrends, params=params)

    found = asyncio.run(ask())
    assert (found.step_s, found.problems) == (3600, {})
    assert [(one.database, one.peer) for one in found.links] == [
        ("shop", "server-a"),
        ("shop", "server-b"),
    ]
    points = found.links[0].points
    assert len(points) in (9, 10)
    assert {(p.lag_p50_s, p.lag_p95_s) for p in points} == {(0.5, 2.0)}
    assert sum(p.changes for p in points) == (len(points) - 1) * 1000 + 30_000
    assert [p.at for p in points] == sorted(p.at for p in points)


def test_an_export_has_every_day_of_every_peer(node: Node) -> None:
    text = node.run("statistics", "export", "--days", "20").out
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 20 + 1 + 20
    assert {row["database"] for row in rows} == {"shop"}
    as_json = node.run("statistics", "export", "--days", "20", "--format", "json").json["days"]
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in as_json] == rows
    cost = sum(Decimal(row["cost"]) for row in rows)
    assert cost == (21 * 4 + 20) * Decimal("0.1") * Decimal("0.09")


def test_what_is_older_than_keep_d_has_gone_when_the_agent_had_started(node: Node) -> None:
    count = "SELECT count(*) FROM peersync.full_sync_sessions"
    wait_until("swept", lambda: node.database.psql(count) == "91")


def test_zz_a_cleared_history_has_no_days(node: Node) -> None:
    told = node.run("history", "clear", "--yes", "--json").json
    assert (told["deleted"], told["complete_syncs"], told["link_samples"]) == (91, 0, 180)
    assert node.run("statistics", "anomalies").out == "No day was unusual.\n"
    [found] = node.run("statistics", "--days", "9", "--json").json["analytics"]["databases"]
    assert found["totals"]["wire_bytes"] == 0


def test_a_database_that_is_down_is_named_and_hides_no_other(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    gone = '[database.gone]\nconninfo = "host=127.0.0.1 port=1 dbname=gone user=nobody"\n'
    node = make_node("half", make_database(18), settings=gone)
    found = node.run("statistics", "--days", "2", "--json", check=False)
    assert found.code == 5
    problems = {d["database"]: d["problem"] for d in found.json["analytics"]["databases"]}
    assert problems["shop"] is None
    assert problems["gone"]
    for verb in ("anomalies", "cost", "export"):
        told = node.run("statistics", verb, check=False)
        assert told.code == 5
        assert "database gone: " in told.err
        assert "database shop: " not in told.err
