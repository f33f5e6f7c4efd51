"""What the page asks of two servers: tables of a sync, who cancelled, what waits, many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.operators_rig import connect, put_conflict
from tests.integration.people_rig import Page, add_user, log_in
from tests.integration.periodic_rig import make_group
from tests.integration.shared_pair import held, running_pair, wait_until
from tests.plugins.clusters import GetCluster
from tests.plugins.nodes import Node, TwoNodes

ROWS = 3000


@pytest.fixture(scope="module")
def pair(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    with running_pair(clusters, tmp_path_factory.mktemp("answers"), suffix="answers") as both:
        for node in both:
            node.database.psql(
                "CREATE TABLE items (id int PRIMARY KEY, v text); CREATE TABLE empty (id int)"
            )
            add_user(node)
        both.source.database.psql(
            f"INSERT INTO items SELECT i, 'row' FROM generate_series(1, {ROWS}) i; ANALYZE"
        )
        yield both


def progress(page: Page, job: str) -> dict[str, Any]:
    told: dict[str, Any] = page.get(f"/api/sync/backup-progress?session={job}").json
    return told


def test_each_table_is_told_on_both_servers_and_who_cancelled_is_kept(pair: TwoNodes) -> None:
    here, there = log_in(pair.target), log_in(pair.source)
    with held(pair.target):
        wanted = {"action": "pull", "peer": "server-a", "database": "shop"}
        job = here.post("/api/admin/sync/full-sync", wanted).json["job"]

        def copied(page: Page) -> bool:
            tables = progress(page, job).get("tables") or {}
            return bool(tables.get("done") == tables.get("total") == 2)

        wait_until(lambda: copied(here) and copied(there))
        for page in (here, there):
            tables = progress(page, job)["tables"]
            (items,) = [one for one in tables["shown"] if one["name"] == "items"]
            assert (items["state"], items["rows"], items["rows_total"]) == ("copied", ROWS, ROWS)
            assert items["bytes"] == items["bytes_total"] > ROWS
            assert (tables["waiting"], tables["active"], tables["failed"]) == (0, 0, 0)
        assert here.post(f"/api/admin/jobs/{job}/cancel").status == 202
    for page in (here, there):
        wait_until(lambda p=page: p.get(f"/api/admin/jobs/{job}").json["completed_at"])  # type: ignore[misc]
        view = page.get(f"/api/admin/jobs/{job}").json
        assert (view["state"], view["cancelled_by"]) == ("cancelled", "admin")
        assert view["progress"]["tables"] is None
        listed = page.get("/api/sync/history?state=cancelled").json
        assert [(one["id"], one["cancelled_by"]) for one in listed] == [(job, "admin")]
        assert page.get("/api/sync/history?state=failed").json == []


@pytest.fixture(scope="module")
def group(pair: TwoNodes) -> TwoNodes:
    make_group(*pair)
    return pair


def link(node: Node) -> dict[str, Any]:
    (one,) = node.run("lag", "--json", check=False).json["links"]
    found: dict[str, Any] = one
    return found


def test_what_waits_is_told_in_bytes_and_who_is_paused_beside_the_state(group: TwoNodes) -> None:
    here, there = log_in(group.target), log_in(group.source)
    wait_until(lambda: link(group.source)["state"] == "in sync")
    assert link(group.source)["bytes_to_give"] == 0
    pause = {"paused": True, "peer": "server-a", "database": "shop"}
    assert here.post("/api/admin/sync/pause", pause).json["links"] == [["shop", "server-a"]]
    group.source.database.psql(
        "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 50) i"
    )
    wait_until(lambda: link(group.source)["to_give"] == 50)
    waits = link(group.source)
    assert 50 * 100 < waits["bytes_to_give"] < 50 * 300
    assert not waits["paused"]

    def overview(page: Page) -> dict[str, Any]:
        (peer,) = page.get("/api/admin/overview").json["peers"]
        found: dict[str, Any] = peer
        return found

    wait_until(lambda: overview(here)["paused"])
    told = overview(here)
    assert (told["state"], told["paused_databases"]) == ("paused", 1)
    assert told["databases"][0]["periodic"]["paused_by"] == "admin"
    wait_until(lambda: overview(there)["bytes_waiting"] == waits["bytes_to_give"])
    assert not overview(there)["paused"]
    assert here.post("/api/admin/sync/pause", {**pause, "paused": False}).status == 200
    wait_until(lambda: link(group.source)["bytes_to_give"] == 0)
    assert not link(group.target)["paused"]


def test_a_row_is_traced_by_its_address(group: TwoNodes) -> None:
    group.source.database.psql("INSERT INTO t VALUES (1000, 'traced')")
    page = log_in(group.source)
    told = page.get("/api/admin/trace?database=shop&table=public.t&key=1000").json
    assert (told["row"], told["key"]) == ({"id": "1000", "v": "traced"}, {"id": "1000"})
    assert {node["node"] for node in told["nodes"]} == {"server-a", "server-b"}
    assert page.get("/api/admin/trace?database=shop&table=public.t").status == 400
    assert page.get("/api/admin/trace?database=shop&table=t&key=1&key=2").status == 400


async def put_some(node: Node, first: int, count: int, state: str) -> None:
    """Conflicts about rows that have what came in; `first` is the first row's key."""
    conn = await connect(node.database)
    try:
        for row in range(first, first + count):
            await conn.execute(
                "INSERT INTO public.t VALUES ($1, 'theirs')"
                " ON CONFLICT (id) DO UPDATE SET v = 'theirs'",
                row,
            )
            winner = "kept" if state == "open" else "incoming"
            kept, came = ("theirs", "mine") if state == "open" else ("mine", "theirs")
            await put_conflict(
                conn, 1_000, "t", f"({row})", f"({row},{kept})", f"({row},{came})",
                winner=winner, state=state,
            )  # fmt: skip
        await conn.execute("UPDATE peersync.conflict SET in_origin = 1001")
    finally:
        await conn.close()


def test_many_conflicts_are_counted_and_then_settled_in_pieces(group: TwoNodes) -> None:
    node = group.source
    page = log_in(node)
    asyncio.run(put_some(node, 2000, 7, "open"))
    node.database.psql("UPDATE t SET v = 'since' WHERE id = 2003")
    wanted = {"database": "shop", "choice": "take", "table": "public.t", "peer": "server-b"}
    path = "/api/admin/conflicts/settle"
    counted = page.post(path, {**wanted, "dryRun": True}).json
    assert (counted["matched"], counted["tried"], counted["outcomes"]) == (7, 0, [])
    assert counted["tables"] == [{"schema": "public", "table": "t", "count": 7}]

    first = page.post(path, {**wanted, "limit": 3}).json
    assert (first["tried"], first["left"], first["settled"]) == (3, 4, 3)
    rest = page.post(path, {**wanted, "before": first["next"]}).json
    assert (rest["tried"], rest["left"], rest["next"], rest["refused"]) == (4, 0, None, 1)
    results = {one["key"]: one["result"] for one in [*first["outcomes"], *rest["outcomes"]]}
    assert results == {f"({r})": "moved" if r == 2003 else "settled" for r in range(2000, 2007)}
    values = node.database.psql("SELECT string_agg(v, ',' ORDER BY id) FROM t WHERE id >= 2000")
    assert values == "mine,mine,mine,since,mine,mine,mine"
    (left,) = page.get("/api/admin/conflicts?database=shop&state=open&peer=server-b").json
    assert left["key"] == "(2003)"
    assert page.post(path, {**wanted, "peer": "nobody"}).status == 404
    assert page.post(path, {**wanted, "since": "yesterday"}).status == 400
    none = page.post(path, {**wanted, "until": "2020-01-01", "dryRun": True}).json
    assert none["matched"] == 0


def test_losers_come_back_in_bulk_from_the_command_line(group: TwoNodes) -> None:
    node = group.source
    node.database.psql("UPDATE peersync.conflict SET state = 'restored'")
    asyncio.run(put_some(node, 3000, 3, "resolved"))
    counted = node.run("conflicts", "restore", "--all", "--table", "t", "--dry-run", "--json")
    assert (counted.json["matched"], counted.json["dry_run"]) == (3, True)
    assert node.run("conflicts", "restore", "--all", check=False).code == 2  # nobody says yes
    assert node.run("conflicts", "restore", "1", "--all", check=False).code == 2
    assert node.run("conflicts", "resolve", "1", "--keep", "--table", "t", check=False).code == 2
    done = node.run("conflicts", "restore", "--all", "--yes", "--json").json
    assert (done["settled"], done["refused"], len(done["outcomes"])) == (3, 0, 3)
    values = node.database.psql("SELECT string_agg(v, ',') FROM t WHERE id >= 3000")
    assert values == "mine,mine,mine"
