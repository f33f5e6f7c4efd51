"""What scripts do: start a sync unless one runs, repeat a request, read and clear the history."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.shared_pair import held, running_pair, sessions, wait_until
from tests.plugins.clusters import GetCluster, MakeDatabase
from tests.plugins.nodes import MakeNode, Node, TwoNodes

BODY = {"peer": "server-a", "database": "shop"}


@pytest.fixture(scope="module")
def pair(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    with running_pair(clusters, tmp_path_factory.mktemp("script"), suffix="script") as both:
        yield both


@pytest.fixture
def target(pair: TwoNodes) -> Node:
    reset = "DROP TABLE IF EXISTS items; CREATE TABLE items (id int PRIMARY KEY, v text);"
    pair.source.database.psql(f"{reset} INSERT INTO items VALUES (1, 'theirs'), (2, 'b')")
    pair.target.database.psql(f"{reset} INSERT INTO items VALUES (1, 'ours')")
    return pair.target


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    json: Any


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("peersync", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


def call(node: Node, method: str, path: str, body: object = None, **headers: str) -> Answer:
    connection = _Unix(str(node.home / "s"))
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, named)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), json.loads(response.read()))
    finally:
        connection.close()


def ended(node: Node, job: str) -> str:
    """Waits for the end of a job; gives its state."""

    def state() -> str:
        return str(call(node, "GET", f"/api/admin/jobs/{job}").json["state"])

    wait_until(lambda: state() in ("done", "partly", "failed", "cancelled"))
    return state()


# --- a safe sync ------------------------------------------------------------------------------
def test_a_safe_sync_is_started_and_found_under_its_location(target: Node) -> None:
    started = call(target, "POST", "/api/sync/safe", BODY)
    assert started.status == 202
    assert started.json["status"] == "started"
    assert started.headers["Location"] == f"/api/admin/jobs/{started.json['job']}"
    assert ended(target, started.json["job"]) == "done"
    assert target.database.psql("SELECT v FROM items WHERE id = 1") == "theirs"
    assert "api" in target.database.psql(
        f"SELECT sync_type FROM peersync.full_sync_sessions "
        f"WHERE session_id = '{started.json['job']}'"
    )


def test_while_a_sync_runs_another_is_skipped_and_told_who_runs(target: Node) -> None:
    assert target.process is not None
    with held(target) as release:
        first = call(target, "POST", "/api/sync/safe", BODY).json["job"]
        second = call(target, "POST", "/api/sync/safe", BODY)
        assert (second.status, second.json["status"], second.json["job"]) == (409, "skipped", None)
        holder = second.json["holder"]
        assert (holder["node"], holder["job"]) == ("server-b", first)
        assert holder["pid"] == target.process.pid
        assert holder["since"].startswith("20")
        assert first in second.json["reason"]
        release()
    assert ended(target, first) == "done"


def test_a_sync_that_another_agent_runs_is_skipped_too(
    target: Node, make_node: MakeNode, pair: TwoNodes
) -> None:
    other = make_node("server-c", target.database)
    other.pair_with(pair.source)
    with held(target) as release:
        first = call(target, "POST", "/api/sync/safe", BODY).json["job"]
        wait_until(lambda: "server-b" in target.database.psql("SELECT holder FROM peersync.leases"))
        second = call(other, "POST", "/api/sync/safe", BODY)
        assert second.status == 409
        assert target.process is not None
        told = second.json["holder"]
        assert (told["node"], told["job"]) == ("server-b", first)
        assert told["pid"] == target.process.pid
        release()
    assert ended(target, first) == "done"
    other.stop()


def test_the_same_key_gives_the_same_answer_and_starts_nothing(target: Node) -> None:
    first = call(target, "POST", "/api/sync/safe", BODY, Idempotency_Key="nightly-1")
    assert ended(target, first.json["job"]) == "done"
    before = len(sessions(target))
    reordered = {"database": "shop", "action": "pull", "peer": "server-a"}
    again = call(target, "POST", "/api/sync/safe", reordered, Idempotency_Key="nightly-1")
    assert (again.status, again.json) == (first.status, first.json)
    assert again.headers["Location"] == first.headers["Location"]
    assert len(sessions(target)) == before

    other = call(target, "POST", "/api/sync/safe", BODY | {"verify": False},
                 Idempotency_Key="nightly-1")  # fmt: skip
    assert (other.status, other.json["code"]) == (422, "key-reused")
    assert len(sessions(target)) == before


def test_a_key_is_remembered_by_an_agent_that_was_restarted(
    clusters: GetCluster, tmp_path: Path
) -> None:
    with running_pair(clusters, tmp_path, suffix="keys") as (_source, target):
        first = call(target, "POST", "/api/sync/safe", BODY, Idempotency_Key="restart")
        assert first.status == 202, first.json
        assert ended(target, first.json["job"]) == "done"
        target.stop()
        target.start()
        again = call(target, "POST", "/api/sync/safe", BODY, Idempotency_Key="restart")
        assert (again.status, again.json) == (first.status, first.json)
        changed = BODY | {"compress": False}
        refused = call(target, "POST", "/api/sync/safe", changed, Idempotency_Key="restart")
        assert refused.status == 422


def test_requests_with_one_key_at_the_same_time_start_one_sync(target: Node) -> None:
    def ask(_number: int) -> Answer:
        return call(target, "POST", "/api/sync/safe", BODY, Idempotency_Key="at-once")

    with ThreadPoolExecutor(5) as threads:
        answers = list(threads.map(ask, range(5)))
    assert {a.status for a in answers} == {202}
    assert len({a.json["job"] for a in answers}) == 1
    assert ended(target, answers[0].json["job"]) == "done"


def test_a_skipped_request_may_be_repeated_with_its_key(target: Node) -> None:
    with held(target) as release:
        first = call(target, "POST", "/api/sync/safe", BODY).json["job"]
        skipped = call(target, "POST", "/api/sync/safe", BODY, Idempotency_Key="later")
        assert skipped.status == 409
        release()
    assert ended(target, first) == "done"
    started = call(target, "POST", "/api/sync/safe", BODY, Idempotency_Key="later")
    assert started.status == 202
    assert ended(target, started.json["job"]) == "done"


@pytest.mark.parametrize(
    ("body", "key", "status"),
    [
        (BODY | {"action": "merge"}, None, 400),
        (BODY | {"dryRun": True}, None, 400),
        (BODY | {"database": "nosuch"}, None, 404),
        (BODY | {"peer": "nosuch"}, None, 404),
        ({"peer": "server-a"}, None, 400),
        (BODY, "x" * 201, 400),
    ],
)
def test_a_wrong_request_starts_nothing(
    target: Node, body: object, key: str | None, status: int
) -> None:
    before = len(sessions(target))
    headers = {"Idempotency_Key": key} if key else {}
    refused = call(target, "POST", "/api/sync/safe", body, **headers)
    assert refused.status == status, refused.json
    assert refused.json["status"] == status
    assert len(sessions(target)) == before


def test_a_push_is_started_once_and_skipped_while_the_peer_is_busy(
    pair: TwoNodes, target: Node
) -> None:
    source = pair.source
    body = {"peer": "server-b", "database": "shop", "action": "push"}
    with held(target) as release:
        first = call(source, "POST", "/api/sync/safe", body, Idempotency_Key="push")
        assert first.status == 202, first.json
        again = call(source, "POST", "/api/sync/safe", body, Idempotency_Key="push")
        assert (again.status, again.json) == (202, first.json)
        skipped = call(source, "POST", "/api/sync/safe", body)
        assert (skipped.status, skipped.json["status"]) == (409, "skipped")
        holder = skipped.json["holder"]
        assert (holder["node"], holder["job"]) == ("server-b", first.json["job"])
        release()
    assert ended(target, first.json["job"]) == "done"
    assert target.database.psql("SELECT v FROM items WHERE id = 1") == "theirs"


def test_the_command_waits_for_the_end_and_exits_with_6_when_it_is_skipped(target: Node) -> None:
    done = target.run("sync", "safe", "server-a", "--json")
    assert done.json["result"] == "done"
    with held(target) as release:
        first = target.run("sync", "safe", "server-a", "--no-wait", "-q").out.strip()
        skipped = target.run("sync", "safe", "server-a", check=False)
        assert skipped.code == 6
        assert first in skipped.err
        told = target.run("sync", "safe", "server-a", "--json", check=False)
        assert (told.code, told.json["status"], told.json["holder"]["job"]) == (6, "skipped", first)
        release()
    assert ended(target, first) == "done"
    keyed = [target.run("sync", "safe", "server-a", "--key", "k", "--json").json for _ in range(2)]
    assert keyed[0]["session"] == keyed[1]["session"]


# --- history ----------------------------------------------------------------------------------
def test_the_history_is_filtered_newest_first_and_bounded(target: Node) -> None:
    target.pull("server-a")
    with held(target):
        job = target.run("pull", "server-a", "--yes", "--no-wait", "-q").out.strip()
        wait_until(lambda: call(target, "GET", "/api/sync/history?state=running").json != [])
        running = call(target, "GET", "/api/sync/history?state=running&limit=5").json
        assert [view["id"] for view in running] == [job]
        target.run("jobs", "cancel", job)
        assert ended(target, job) == "cancelled"
    every = call(target, "GET", "/api/sync/history?database=shop").json
    assert every[0]["id"] == job
    assert [v["started_at"] for v in every] == sorted(
        (v["started_at"] for v in every), reverse=True
    )
    done = target.run("history", "--state", "done", "--limit", "1", "--json").json["sessions"]
    assert [view["state"] for view in done] == ["done"]
    assert "There is no such sync." in target.run("history", "--state", "partly").out
    for query in ("limit=0", "limit=1001", "limit=x", "state=fine"):
        assert call(target, "GET", f"/api/sync/history?{query}").status == 400
    assert call(target, "GET", "/api/sync/history?database=nosuch").status == 404


def test_a_cleared_history_keeps_what_runs_and_the_newest_baseline(
    pair: TwoNodes, target: Node
) -> None:
    pulled = []
    for number in range(3):
        pair.source.database.psql(f"UPDATE items SET v = 'new {number}'")
        pulled.append(target.pull("server-a").json["session"])
    newest = pulled[-1]
    for session in pulled[1:]:  # as a sync leaves them that can be undone
        target.database.psql(
            f"CREATE TABLE IF NOT EXISTS peersync.undo_{session} (t int);"
            'UPDATE peersync.full_sync_sessions SET undo = coalesce(undo, \'{"state": "kept"}\') '
            f"WHERE session_id = '{session}'"
        )
    with held(target) as release:
        running = target.run("pull", "server-a", "--yes", "--no-wait", "-q").out.strip()
        cleared = call(target, "DELETE", "/api/sync/history")
        assert cleared.status == 200
        assert cleared.json["deleted"] >= 2
        assert cleared.json["kept"] == 1
        assert {view["id"] for view in sessions(target)} == {running, newest}
        again = call(target, "DELETE", "/api/sync/history").json
        assert (again["deleted"], again["kept"]) == (0, 1)
        baselines = target.database.psql("SELECT string_agg(session_id::text, ',') FROM "
                                         "peersync.baselines").replace("-", "")  # fmt: skip
        assert baselines == newest
        kept = "SELECT to_regclass('peersync.undo_{}') IS NOT NULL"
        assert [target.database.psql(kept.format(job)) for job in pulled] == ["f", "f", "t"]
        release()
    assert ended(target, running) == "done"
    assert call(target, "GET", "/api/admin/status").json["links"][0]["state"] == "synced"


def test_keep_latest_keeps_the_newest_of_each_peer(pair: TwoNodes, target: Node) -> None:
    done = target.pull("server-a").json["session"]
    target.database.psql("DROP TABLE items; CREATE VIEW items AS SELECT 1 AS id")
    refused = target.pull("server-a", check=False)
    target.database.psql("DROP VIEW items; CREATE TABLE items (id int PRIMARY KEY, v text)")
    with held(target):
        job = target.run("pull", "server-a", "--yes", "--no-wait", "-q").out.strip()
        wait_until(lambda: job in {view["id"] for view in sessions(pair.source)})
        target.run("jobs", "cancel", job)
        assert ended(target, job) == "cancelled"
    assert refused.code != 0
    told = target.run("history", "clear", "--keep-latest", "--yes", "--json").json
    assert told["kept"] == 2
    assert {view["id"] for view in sessions(target)} == {done, job}
    given = call(pair.source, "DELETE", "/api/sync/history?keep_latest=true").json
    assert given["kept"] == 1
    assert [view["id"] for view in sessions(pair.source)] == [job]
    assert call(target, "DELETE", "/api/sync/history?keep_latest=yes").status == 400


def test_clearing_asks_and_a_script_must_say_yes(target: Node) -> None:
    target.pull("server-a")
    before = [view["id"] for view in sessions(target)]
    refused = target.run("history", "clear", check=False)
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert [view["id"] for view in sessions(target)] == before


# --- statistics -------------------------------------------------------------------------------
def test_statistics_count_what_the_records_say(pair: TwoNodes, target: Node) -> None:
    call(target, "DELETE", "/api/sync/history")
    target.database.psql("ANALYZE items")
    done = target.pull("server-a").json
    told = call(target, "GET", "/api/sync/statistics?database=shop").json
    (shop,) = told["databases"]
    assert (told["node"], shop["database"], shop["state"]) == ("server-b", "shop", "idle")
    assert (shop["tables"], shop["rows_estimated"], shop["tables_not_analyzed"]) == (1, 1, 0)
    assert shop["size_bytes"] > 1 << 20
    last = shop["last_sync"]
    assert (last["session"], last["peer"], last["result"]) == (done["session"], "server-a", "done")
    assert 0 < last["seconds"] < 60
    (peer,) = shop["peers"]
    assert (peer["peer"], peer["role"], peer["last_sync"]) == ("server-a", "target", last)
    recorded = target.database.psql(
        "SELECT count(*), sum(rows_total), sum(raw_bytes), sum(wire_bytes) "
        "FROM peersync.full_sync_sessions"
    ).split("|")
    assert [sum(shop["results"].values()), shop["totals"]["rows"], shop["totals"]["raw_bytes"],
            shop["totals"]["wire_bytes"]] == [int(number) for number in recorded]  # fmt: skip
    assert shop["totals"]["raw_bytes"] > 0

    giver = call(pair.source, "GET", "/api/sync/statistics").json["databases"][0]
    assert (giver["state"], giver["last_sync"]) == ("never_synced", None)
    assert [(p["peer"], p["role"]) for p in giver["peers"]] == [("server-b", "source")]


def test_statistics_say_that_a_sync_runs_or_has_failed(target: Node) -> None:
    def state() -> str:
        return str(call(target, "GET", "/api/sync/statistics").json["databases"][0]["state"])

    target.pull("server-a")
    assert state() == "idle"
    with held(target) as release:
        job = target.run("pull", "server-a", "--yes", "--no-wait", "-q").out.strip()
        assert state() == "syncing"
        release()
    assert ended(target, job) == "done"
    target.database.psql(
        f"UPDATE peersync.full_sync_sessions SET state = 'failed' WHERE session_id = '{job}'"
    )
    assert state() == "error"
    assert call(target, "GET", "/api/sync/statistics?database=nosuch").status == 404


def test_a_database_that_is_down_does_not_hide_the_others(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    gone = make_database()
    node = make_node("alone", make_database(), start=False)
    node.config.write_text(
        node.config.read_text() + f'\n[database.gone]\nconninfo = "{gone.conninfo()}"\n'
    )
    gone.cluster.psql(f"ALTER DATABASE {gone.name} ALLOW_CONNECTIONS false")
    try:
        node.start()
        shown = node.run("statistics", "--json", check=False)
        assert shown.code == 5
        by_name = {d["database"]: d for d in shown.json["databases"]}
        assert by_name["shop"]["state"] == "never_synced"
        assert by_name["gone"]["state"] == "error"
        assert by_name["gone"]["problem"]
        table = node.run("statistics", check=False)
        assert "never synced" in table.out
        assert "database gone:" in table.err
        cleared = call(node, "DELETE", "/api/sync/history").json
        assert (cleared["deleted"], list(cleared["problems"])) == (0, ["gone"])
    finally:
        gone.cluster.psql(f"ALTER DATABASE {gone.name} ALLOW_CONNECTIONS true")


def test_the_table_of_statistics_is_for_people(target: Node) -> None:
    target.pull("server-a")
    shown = target.run("statistics")
    assert "DATABASE" in shown.out
    assert "shop ◀── server-a" in shown.out
    assert "idle" in shown.out
