"""Table sets and whoever else is at work: each has its turn, once, and what fails is said."""

from __future__ import annotations

import json
import subprocess
import time

import psycopg
import pytest

from tests.integration.shared_pair import wait_until
from tests.integration.test_sets import ROWS, SHAPE, pair
from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.nodes import MakeNode, Node, free_port, introduce

NEVER = "0 0 1 1 *"
DECEMBER = 1_735_000_000  # of 2024: turns of NEVER were missed since


def a_set(name: str, table: str, schedule: str, **more: object) -> str:
    lines = [f'[[table_set]]\nname = "{name}"\ntables = ["{table}"]\nmethod = "full"']
    lines += [f'schedule = "{schedule}"', *(f"{key} = {value}" for key, value in more.items())]
    return "\n".join(lines) + "\n"


def runs(database: Database, status: str) -> int:
    return int(database.psql(f"SELECT count(*) FROM peersync.set_runs WHERE status = '{status}'"))


def test_sets_that_are_due_together_run_one_after_the_other_by_priority(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    settings = "".join(
        a_set(name, table, "every 15s", priority=priority)
        for name, table, priority in (
            ("last", "notes", 900), ("first", "customers", 1), ("middle", "orders", 500),
        )
    )  # fmt: skip
    _, taker, _, here = pair(make_node, make_database, settings)
    wait_until(lambda: runs(here, "success") + runs(here, "error") >= 3, 60)
    order = "SELECT set_name FROM peersync.set_runs WHERE status <> 'running' ORDER BY completed_at"
    assert here.psql(order).splitlines()[:3] == ["first", "middle", "last"]
    assert runs(here, "error") == 0
    assert "waits: shop is busy: table set first with server-a is running" in taker.log


def test_two_runs_at_the_same_time_do_everything_once(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    settings = a_set("one", "notes", NEVER, priority=1) + a_set("two", "customers", NEVER)
    _, taker, _, here = pair(make_node, make_database, settings)
    both = []
    with psycopg.connect(here.conninfo()) as other:
        other.execute("LOCK TABLE notes IN ACCESS SHARE MODE; INSERT INTO notes VALUES (99)")
        both.append(taker.popen("run", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_until(lambda: runs(here, "running") == 1)
        both.append(taker.popen("run", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_until(lambda: runs(here, "running") == 2)
        waits = "SELECT reason FROM peersync.set_runs WHERE set_name = 'two'"
        wait_until(lambda: "it waits: shop is busy: table set one" in here.psql(waits))
    assert [process.wait(40) for process in both] == [0, 0]
    done = "SELECT string_agg(set_name || status, ' ' ORDER BY set_name) FROM peersync.set_runs"
    assert here.psql(done) == "onesuccess twosuccess"


def test_a_busy_database_is_waited_for_and_is_not_its_peers_fault(
    make_node: MakeNode, make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = '[peer.server-a]\nsync = "full-pull"\n' + a_set("whole", "notes", NEVER)
    monkeypatch.setenv("PEERSYNC_COMPLETE_TIMEOUT_S", "3")
    monkeypatch.setenv("PEERSYNC_COMPLETE_SKIP_AFTER_ERRORS", "1")
    _, taker, _, here = pair(make_node, make_database, settings)
    with psycopg.connect(here.conninfo()) as other:
        other.execute("LOCK TABLE notes IN ACCESS SHARE MODE; INSERT INTO notes VALUES (99)")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        pull = taker.popen("pull", "server-a", "--yes", **quiet)
        wait_until(lambda: "running" in taker.run("jobs", "list").out)
        done = taker.run("complete-sync", "--sync-type", "scheduled", check=False)
        assert (done.code, "skipped: shop is busy: a full sync" in done.out) == (3, True), done.out
        one = taker.run("run", "--set", "whole", "--force", "--json", check=False)
        assert (one.code, one.json["runs"][0]["status"]) == (3, "skipped")
        assert "shop is busy: a full sync" in one.json["runs"][0]["reason"]
        due = taker.run("run", "--dry-run", "--json", check=False).json["sets"][0]
        assert due["reason"] is None, "what was skipped is still due"
    pull.wait(30)
    after = taker.run("bulk-sync", check=False)
    assert (after.code, "✓ shop" in after.out) == (0, True), after.out


def test_a_database_that_is_down_and_a_peer_that_nobody_knows_are_runs_that_failed(
    make_node: MakeNode, make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = f"host=127.0.0.1 port={free_port()} user=nobody dbname=gone"
    settings = a_set("typo", "notes", NEVER, database='"shop"', peers='["servr-a", "server-a"]')
    settings += a_set("down", "notes", NEVER, database='"crm"')
    settings += '[[schedule]]\nname = "crm"\nrun = "complete"\ndatabase = "crm"\nat = "0 0 1 1 *"\n'
    settings += "[peer.servr-b]\nauto_sync = false\n"
    monkeypatch.setenv("PEERSYNC_COMPLETE_RETRIES", "1")
    settings += f'[database.crm]\nconninfo = "{down}"\n'
    _, taker, _, here = pair(make_node, make_database, settings)
    gone = taker.run("run", "--set", "down", "--json", check=False)
    assert (gone.code, gone.json["runs"][0]["error"]["code"]) == (1, "database-unreachable")
    typo = taker.run("run", "--set", "typo", "--json", check=False)
    assert typo.code == 3
    assert [(run["peer"], run["status"]) for run in typo.json["runs"]] == [
        ("servr-a", "error"), ("server-a", "success"),
    ]  # fmt: skip
    assert runs(here, "error") == 1
    told = taker.run("config", "check").out
    assert "peer.servr-b" in told
    assert "this node is paired with no servr-a; with: server-a" in told
    taker.run("schedule", "run", "down")
    wait_until(lambda: "set.down: down with server-a" in taker.log, 30)
    assert "; again in" in taker.log


def test_with_nothing_to_do_a_schedule_is_skipped_and_is_no_failure(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    settings = "[peer.server-a]\nauto_sync = false\n" + "".join(
        f'[[schedule]]\nname = "{kind}"\nrun = "{kind}"\nat = "{NEVER}"\n'
        for kind in ("bulk", "complete")
    )
    _, taker, _, _ = pair(make_node, make_database, settings)
    for kind in ("bulk", "complete"):
        taker.run("schedule", "run", kind)
    wait_until(lambda: results(taker) == ["skipped", "skipped"])
    assert taker.run("schedule", "list").code == 0


def results(node: Node) -> list[str | None]:
    shown = node.run("schedule", "list", "--json", check=False).json["schedules"]
    return [one["result"] for one in shown]


def test_two_agents_of_one_database_do_each_turn_once(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    settings = f'[[schedule]]\nname = "all"\nrun = "complete"\nat = "{NEVER}"\n'
    settings += '[peer.server-a]\nsync = "full-pull"\n' + a_set("whole", "notes", NEVER)
    there, here = make_database(18), make_database(18, nth=1)
    there.psql(SHAPE + ROWS)
    here.psql(SHAPE)
    giver = make_node("server-a", there, start=False)
    both = [make_node(n, here, settings=settings, start=False) for n in ("server-b", "server-c")]
    for node in both:
        introduce(node, giver)
        missed = {name: {"since": DECEMBER} for name in ("all", "set.whole")}
        state = node.state_dir / "schedules.json"
        state.write_text(json.dumps({"schedules": missed, "version": 1}))
        state.chmod(0o600)
    giver.start()
    for node, result in zip(both, ("success", "skipped"), strict=True):
        node.start()
        wait_until(lambda node=node, result=result: results(node) == [result] * 2, 30)  # type: ignore[misc]
    counted = "SELECT (SELECT count(*) FROM peersync.complete_syncs) || ' ' || count(*)"
    assert here.psql(f"{counted} FROM peersync.set_runs") == "1 1"


def test_what_a_killed_agent_left_is_told_when_it_starts_again(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    channel = (
        f'[[channel]]\nname = "ops"\nkind = "webhook"\nurl = "http://127.0.0.1:{free_port()}"\n'
    )
    _, taker, _, here = pair(make_node, make_database, channel + a_set("whole", "notes", NEVER))
    with psycopg.connect(here.conninfo()) as other:
        other.execute("LOCK TABLE notes IN ACCESS SHARE MODE; INSERT INTO notes VALUES (99)")
        taker.run("schedule", "run", "whole")
        wait_until(lambda: runs(here, "running") == 1)
        time.sleep(0.5)
        taker.kill()
    taker.start()
    wait_until(lambda: runs(here, "interrupted") == 1, 30)

    def told() -> bool:
        incidents = taker.run("notify", "list", "--json", check=False).json["incidents"]
        return any("table set whole" in one["title"] for one in incidents)

    wait_until(told, 20)


def test_a_run_outlives_a_restart_of_its_own_database(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    settings = '[peer.server-a]\nsync = "full-pull"\n'
    _, taker, there, here = pair(make_node, make_database, settings)
    here.psql("INSERT INTO notes VALUES (1)")
    other = psycopg.connect(here.conninfo())
    try:
        other.execute("LOCK TABLE notes IN SHARE ROW EXCLUSIVE MODE")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = taker.popen("complete-sync", **quiet)
        wait_until(lambda: "running" in taker.run("jobs", "list").out)
        here.cluster.stop("immediate")
        time.sleep(1)
        here.cluster.start()
    finally:
        other.close()
    assert process.wait(60) == 0
    assert here.psql("SELECT count(*) FROM notes") == there.psql("SELECT count(*) FROM notes")
    assert "the connection of its lease was lost" in taker.log
