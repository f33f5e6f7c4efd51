"""What links did is counted, shown to Prometheus, written down, rolled up, and forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from peersync.agent.orchestration.samples import quantile, spans
from peersync.postgres.migrate import migrate
from peersync.postgres.samples import (
    DAY_S,
    HOUR_S,
    MINUTE_S,
    Sample,
    add_samples,
    forget,
    roll_up,
)
from tests.integration.log_rig import open_connection
from tests.integration.periodic_rig import make_group, wait_equal, wait_until
from tests.integration.test_node_listeners import ask
from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.nodes import MakeNode, Node, TwoNodes, introduce

NOW = datetime(2026, 5, 16, 12, 34, 56, tzinfo=UTC)
SUMS = "sum(changes), sum(transactions), sum(wire_bytes), sum(errors), sum(behind_s)"


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[asyncpg.Connection]:
    conn = await open_connection(database.url())
    await migrate(conn)
    yield conn
    await conn.close()


def minutes(count: int, *, every: timedelta = timedelta(minutes=97)) -> list[Sample]:
    """Back from NOW, of two peers; each stands for one transaction of lag 1 s or nine of 3 s."""
    return [
        Sample(
            peer_id=f"peer-{i % 2}",
            peer_name=f"server-{i % 2}",
            at=(NOW - every * i).replace(second=0),
            transactions=9 if i % 4 < 2 else 1,
            changes=i,
            wire_bytes=10 * i,
            errors=i % 3,
            lag_p50_s=3.0 if i % 4 < 2 else 1.0,
            lag_p95_s=5.0,
            behind_s=0.5,
        )
        for i in range(count)
    ]


async def test_minutes_become_hours_and_hours_days_and_nothing_is_lost(
    conn: asyncpg.Connection,
) -> None:
    await add_samples(conn, minutes(1200))  # 80 days
    sums = await conn.fetchrow(f"SELECT {SUMS} FROM peersync.link_samples")
    await roll_up(conn, spans(NOW))
    assert await conn.fetchrow(f"SELECT {SUMS} FROM peersync.link_samples") == sums
    oldest = dict(await conn.fetch("SELECT span_s, min(at) FROM peersync.link_samples GROUP BY 1"))
    assert sorted(oldest) == [MINUTE_S, HOUR_S, DAY_S]
    assert oldest[MINUTE_S] >= (NOW - timedelta(days=2)).replace(minute=0, second=0)
    assert oldest[HOUR_S] >= (NOW - timedelta(days=60)).replace(hour=0, minute=0, second=0)
    days = await conn.fetch(f"SELECT * FROM peersync.link_samples WHERE span_s = {DAY_S}")
    assert all(day["at"].hour == day["at"].minute == 0 for day in days)
    # weighted by transactions, not by rows
    middle = {round(day["lag_p50_s"], 3) for day in days if day["transactions"] == 10 * 7}
    assert middle <= {2.8}
    count = len(await conn.fetch("SELECT FROM peersync.link_samples"))
    await roll_up(conn, spans(NOW))
    assert len(await conn.fetch("SELECT FROM peersync.link_samples")) == count


async def test_two_agents_that_roll_up_at_once_count_nothing_twice(
    conn: asyncpg.Connection, database: Database
) -> None:
    await add_samples(conn, minutes(600))
    sums = await conn.fetchrow(f"SELECT {SUMS} FROM peersync.link_samples")
    other = await open_connection(database.url())
    try:
        async with asyncio.TaskGroup() as group:
            for one in (conn, other):
                group.create_task(roll_up(one, spans(NOW)))
    finally:
        await other.close()
    assert await conn.fetchrow(f"SELECT {SUMS} FROM peersync.link_samples") == sums


async def test_a_minute_that_is_written_twice_is_added_up(conn: asyncpg.Connection) -> None:
    [sample] = minutes(1)
    await add_samples(conn, [sample])
    later = Sample(
        peer_id=sample.peer_id,
        peer_name=sample.peer_name,
        at=sample.at,
        transactions=1,
        changes=2,
        lag_p50_s=13.0,
        lag_p95_s=15.0,
    )
    await add_samples(conn, [later])
    row = await conn.fetchrow("SELECT * FROM peersync.link_samples")
    assert row is not None
    assert (row["transactions"], row["changes"]) == (10, 2)
    assert (row["lag_p50_s"], row["lag_p95_s"]) == (4.0, 6.0)


async def test_old_records_go_and_the_newest_of_each_kind_stay(conn: asyncpg.Connection) -> None:
    await add_samples(conn, minutes(20, every=timedelta(days=1)))
    await conn.execute(
        "INSERT INTO peersync.complete_syncs (complete_id, database_name, node_name, sync_type,"
        " status, requested_by, started_at, completed_at)"
        " SELECT gen_random_uuid(), 'shop', 'a', 'manual', 'success', 'me', t, t"
        "   FROM generate_series($1::timestamptz - interval '9 days', $1, '1 day') AS t;",
        NOW - timedelta(days=10),
    )
    await conn.execute(
        "INSERT INTO peersync.set_runs (set_name, method, sync_type, peer_id, peer_name, direction,"
        " requested_by, status, started_at, completed_at)"
        " SELECT s, 'full', 'manual', 'p', 'p', 'pull', 'me', 'success', t, t"
        "   FROM generate_series($1::timestamptz - interval '4 days', $1, '1 day') AS t,"
        "        unnest('{x,y}'::text[]) AS s",
        NOW - timedelta(days=10),
    )
    await conn.execute(
        "INSERT INTO peersync.complete_syncs (complete_id, database_name, node_name, sync_type,"
        " requested_by, started_at) VALUES (gen_random_uuid(), 'shop', 'a', 'manual', 'me', $1)",
        NOW - timedelta(days=99),
    )
    gone = await forget(conn, NOW - timedelta(days=15))
    assert (gone.samples, gone.complete_syncs, gone.set_runs) == (5, 4, 0)
    gone = await forget(conn, None)
    assert (gone.samples, gone.complete_syncs, gone.set_runs) == (15, 5, 8)
    states = await conn.fetch("SELECT status FROM peersync.complete_syncs ORDER BY 1")
    assert [row["status"] for row in states] == ["running", "success"]


def test_percentiles_count_transactions_and_not_frames() -> None:
    assert quantile([], 0.5) is None
    assert quantile([(1.0, 1)], 0.95) == 1.0
    assert quantile([(9.0, 1), (1.0, 98), (5.0, 1)], 0.5) == 1.0
    assert quantile([(9.0, 2), (1.0, 94), (5.0, 4)], 0.95) == 5.0
    assert quantile([(9.0, 10), (1.0, 90)], 0.95) == 9.0


def scraped(node: Node) -> dict[str, float]:
    """What has a peer, by name and the labels beside the database."""
    found = {}
    for family in text_string_to_metric_families(ask(node, "/metrics")[1]):
        for sample in family.samples:
            if "peer" in sample.labels:
                more = [
                    sample.labels[k] for k in ("peer", "state", "quantile") if k in sample.labels
                ]
                found[" ".join([sample.name, *more])] = sample.value
    return found


def test_what_a_link_brings_is_counted_shown_and_kept(pair_18: TwoNodes) -> None:
    a, b = pair_18
    make_group(a, b)
    wait_until("in step", lambda: ask(b, "/readyz?max_lag=1s")[0] == 200)
    for first in (1, 501):
        a.database.psql(
            "INSERT INTO t SELECT i, repeat('x', 100)"
            f" FROM generate_series({first}, {first + 499}) AS i"
        )
    wait_equal(a, b)
    wait_until("applied", lambda: scraped(b)["peersync_link_changes_total server-a"] == 1000)
    seen = scraped(b)
    assert seen["peersync_link_state server-a in sync"] == 1
    assert sum(v for k, v in seen.items() if k.startswith("peersync_link_state ")) == 1
    assert seen["peersync_link_behind_seconds server-a"] == 0
    assert seen["peersync_link_raw_bytes_total server-a"] > 100_000
    assert 500 < seen["peersync_link_wire_bytes_total server-a"] < 100_000  # zstd
    now = datetime.now(UTC).timestamp()
    assert now - seen["peersync_link_last_contact_timestamp_seconds server-a"] < 60
    a.stop()
    wait_until("not in step", lambda: ask(b, "/readyz?max_lag=10ms&peer=server-a")[0] == 503)
    assert ask(b, "/readyz")[0] == ask(b, "/readyz?max_lag=1h&peer=server-a")[0] == 200
    assert ask(b, "/readyz?max_lag=1h&peer=server-x")[0] == 503
    assert scraped(b)["peersync_link_state server-a unreachable"] == 1
    b.stop()
    query = "SELECT sum(changes), sum(raw_bytes), sum(errors) > 0, max(lag_p95_s) BETWEEN 0 AND 20"
    raw = int(seen["peersync_link_raw_bytes_total server-a"])
    assert b.database.psql(f"{query} FROM peersync.link_samples") == f"1000|{raw}|t|t"
    b.start()  # what is written is not written again
    wait_until("a look", lambda: scraped(b).get("peersync_link_behind_seconds server-a", 0) > 1)
    kept = scraped(b)
    assert kept["peersync_link_conflicts_open server-a"] == 0
    assert kept["peersync_link_quarantine_rows server-a"] == 0
    assert 'peersync_log_bytes{database="shop"}' in ask(b, "/metrics")[1]
    b.stop()
    assert b.database.psql("SELECT sum(changes) FROM peersync.link_samples") == "1000"
    assert a.database.psql("SELECT coalesce(sum(changes), 0) FROM peersync.link_samples") == "0"


def test_a_loop_of_its_own_writes_what_it_counted(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    off = {"PEERSYNC_PERIODIC_ENABLED": "false"}
    a = make_node("server-a", make_database(18), env=off, start=False)
    b = make_node("server-b", make_database(18, nth=1), start=False)
    introduce(a, b)
    for node in (a, b):
        node.start()
    with a.popen("periodic") as process:
        try:
            make_group(a, b)
            b.database.psql("INSERT INTO t VALUES (1, 'one'), (2, 'two')")
            wait_equal(a, b)
        finally:
            process.terminate()
    query = "SELECT sum(changes), min(peer_name), max(span_s) FROM peersync.link_samples"
    assert a.database.psql(query) == "2|server-b|60"
    assert 'peersync_link_changes_total{database="shop"' not in ask(a, "/metrics")[1]
