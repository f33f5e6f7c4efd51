"""`peersync pull`, `jobs`, `status`, `history` and `check` as a person or a script uses them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.shared_pair import held, running_pair, sessions, terminal, wait_until
from tests.integration.terminal import CTRL_C
from tests.plugins.clusters import GetCluster, MakeDatabase
from tests.plugins.nodes import MakeNode, Node, Result, TwoNodes

ROOT = Path(__file__).parents[2]
DOCUMENTED = {
    int(code)
    for code in re.findall(r"^\| (\d+) \|", (ROOT / "docs/exit-codes.md").read_text(), re.M)
}
OURS, THEIRS = "SELECT v FROM items WHERE id = 1", "theirs"
ASK = "c cancel the sync"


@pytest.fixture(scope="module")
def pair(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    with running_pair(clusters, tmp_path_factory.mktemp("cli"), suffix="cli") as both:
        yield both


@pytest.fixture
def target(pair: TwoNodes) -> Node:
    """A target whose row 1 is not the source's, and which has a row of its own."""
    reset = (
        "DROP TABLE IF EXISTS items, extra, keep; CREATE TABLE items (id int PRIMARY KEY, v text);"
    )
    pair.source.database.psql(f"{reset} INSERT INTO items VALUES (1, '{THEIRS}'), (2, 'b')")
    pair.target.database.psql(f"{reset} INSERT INTO items VALUES (1, 'ours'), (3, 'c')")
    return pair.target


def value(node: Node) -> str:
    return node.database.psql(OURS)


def documented(result: Result, code: int) -> None:
    assert result.code == code, result.err
    assert code in DOCUMENTED
    assert "Traceback" not in result.err


# --- before anything is started -----------------------------------------------------------------
def test_a_dry_run_shows_the_plan_and_changes_nothing(target: Node) -> None:
    before = [s["id"] for s in sessions(target)]
    shown = target.run("pull", "server-a", "--dry-run")
    assert "PLAN  pull  server-a:shop" in shown.err
    assert "rows here that differ are overwritten" in shown.err
    told = target.run("pull", "server-a", "--dry-run", "--json").json
    assert told["schema_version"] == 1
    assert told["job"] is None
    assert [t["action"] for t in told["plan"]["tables"]] == ["upsert"]
    assert value(target) == "ours"
    assert [s["id"] for s in sessions(target)] == before


def test_a_script_must_say_yes_when_rows_can_be_overwritten(target: Node) -> None:
    before = [s["id"] for s in sessions(target)]
    refused = target.run("pull", "server-a", check=False)
    documented(refused, 2)
    assert "--dry-run" in refused.err
    assert "--yes" in refused.err
    assert [s["id"] for s in sessions(target)] == before
    assert value(target) == "ours"


def test_a_script_need_not_say_yes_when_nothing_is_overwritten(target: Node) -> None:
    target.database.psql("DROP TABLE items")
    documented(target.run("pull", "server-a"), 0)
    assert value(target) == THEIRS


def test_at_a_terminal_the_name_of_the_database_is_asked_for(target: Node) -> None:
    with terminal(target, "pull", "server-a", "--progress", "none") as tty:
        tty.wait_for("Type the name of the database")
        tty.type("server-b:shop\n")
        assert tty.end() == 0
    assert value(target) == THEIRS


@pytest.mark.parametrize("answer", ["shpo\n", CTRL_C])
def test_another_name_or_ctrl_c_starts_nothing(target: Node, answer: str) -> None:
    before = [s["id"] for s in sessions(target)]
    with terminal(target, "pull", "server-a") as tty:
        tty.wait_for("Type the name of the database")
        tty.answer(answer)
        assert tty.end() == 130
    assert [s["id"] for s in sessions(target)] == before
    assert value(target) == "ours"


def test_at_a_terminal_nothing_is_asked_when_nothing_is_overwritten(target: Node) -> None:
    target.database.psql("DROP TABLE items")
    with terminal(target, "pull", "server-a", "--progress", "none") as tty:
        assert tty.end() == 0
    assert "Type the name" not in tty.raw


def test_a_wrong_interval_is_said_before_anything_is_started(target: Node) -> None:
    target.env["PEERSYNC_PROGRESS_INTERVAL"] = "often"
    try:
        refused = target.run("pull", "server-a", "--yes", check=False)
    finally:
        del target.env["PEERSYNC_PROGRESS_INTERVAL"]
    documented(refused, 2)
    assert "PEERSYNC_PROGRESS_INTERVAL" in refused.err
    assert value(target) == "ours"


def test_a_peer_that_is_not_known_is_named_with_the_nearest_one(target: Node) -> None:
    refused = target.run("pull", "server-x", "--yes", check=False)
    assert refused.code in DOCUMENTED - {0}
    assert "did you mean server-a?" in refused.err


def test_a_database_that_is_not_configured_is_named_with_those_that_are(target: Node) -> None:
    refused = target.run("pull", "server-a", "--yes", "--database", "shpo", check=False)
    assert refused.code in DOCUMENTED - {0}
    assert "configured: shop" in refused.err


def test_with_two_databases_the_one_must_be_named(target: Node, tmp_path: Path) -> None:
    two = tmp_path / "two.toml"
    two.write_text(target.config.read_text() + '\n[database.log]\nconninfo = "dbname=log"\n')
    refused = target.run("pull", "server-a", "--yes", "--config", str(two), check=False)
    documented(refused, 2)
    assert "which database? (shop, log)" in refused.err


# --- what it does ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("option", "skipped", "compressed"),
    [("--no-verify", True, True), ("--no-compress", False, False)],
)
def test_options_are_kept_and_do_what_they_say(
    pair: TwoNodes, target: Node, option: str, skipped: bool, compressed: bool
) -> None:
    pair.source.database.psql("INSERT INTO items SELECT i, 'same' FROM generate_series(10, 5000) i")
    done = target.pull("server-a", option).json
    shown = target.run("jobs", "show", done["session"][:8], "--json").json
    verify = next(s for s in shown["progress"]["steps"] if s["name"] == "verify")
    assert verify["state"] == ("skipped" if skipped else "done")
    assert (done["wire_bytes"] < done["raw_bytes"] / 2) is compressed
    assert done["rows"]["updated"] == 1
    assert value(target) == THEIRS


def test_a_blocked_table_makes_the_sync_partly_done(pair: TwoNodes, target: Node) -> None:
    for node in pair:
        node.database.psql("CREATE TABLE extra (id int PRIMARY KEY)")
    target.database.psql("ALTER TABLE extra ADD must int NOT NULL")
    done = target.pull("server-a", check=False)
    documented(done, 3)
    assert done.json["result"] == "partly"
    assert value(target) == THEIRS
    status = target.run("status", check=False)
    assert "The last sync of shop from server-a left tables or rows out." in status.out
    assert status.code == 1


def test_a_second_pull_is_refused_and_names_the_first(target: Node) -> None:
    with held(target) as release:
        first = target.run("pull", "server-a", "--yes", "--no-wait", "-q").out.strip()
        assert re.fullmatch("[0-9a-f]{32}", first)
        second = target.run("pull", "server-a", "--yes", "--json", check=False)
        documented(second, 6)
        assert second.json["error"]["code"] == "locked"
        assert first in second.err
        status = target.run("status", check=False)
        assert "1 full sync running." in status.out
        release()
        watched = target.run("jobs", "watch", first[:8], "--json")
    assert watched.json["session"] == first
    assert watched.json["result"] == "done"
    assert value(target) == THEIRS


def reconfigure(node: Node, settings: str) -> None:
    """The running agent takes new settings, and says so."""
    assert node.process is not None
    start = len(node.log)
    (node.home / "conf.d").mkdir(exist_ok=True)
    (node.home / "conf.d" / "more.toml").write_text(settings)
    node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "configuration read again" in node.log[start:])


def test_a_failed_sync_gives_its_exit_code_again_to_who_watches_later(target: Node) -> None:
    reconfigure(target, "[full_sync]\nlock_timeout_s = 1\n")
    try:
        with held(target):
            failed = target.pull("server-a", check=False)
    finally:
        reconfigure(target, "")
    documented(failed, failed.code)
    assert failed.code not in (0, 3, 130)
    assert failed.json["result"] == "failed"
    assert failed.json["error"]["message"] in failed.err
    again = target.run("jobs", "watch", failed.json["session"][:10], "--json", check=False)
    assert again.code == failed.code
    assert again.json["session"] == failed.json["session"]
    assert value(target) == "ours"
    status = target.run("status", check=False)
    assert status.code == 1
    assert "The last sync of shop from server-a failed." in status.out
    shown = target.run("jobs", "show", failed.json["session"][:8])
    assert "failed" in shown.out


# --- Ctrl-C -----------------------------------------------------------------------------------
def test_a_signal_in_a_script_cancels_and_nothing_is_changed(target: Node) -> None:
    with held(target):
        process = target.popen(
            "pull", "server-a", "--yes", "--json", "--progress", "json",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert b"cancelling" in err
    assert json.loads(out.splitlines()[-1])["result"] == "cancelled"
    assert value(target) == "ours"


@pytest.mark.parametrize(
    ("answer", "code", "ends", "changed"),
    [
        ("c\n", 130, "cancelled", False),
        ("d\n", 0, "done", True),
        ("\n", 0, "done", True),
        (CTRL_C, 0, "done", True),
        ("w\n", 0, "done", True),
    ],
    ids=["cancel", "detach", "enter", "again", "watch"],
)
def test_ctrl_c_at_a_terminal_asks_what_is_meant(
    target: Node, answer: str, code: int, ends: str, changed: bool
) -> None:
    with held(target) as release, terminal(target, "pull", "server-a", "--yes") as tty:
        tty.wait_for("overall")
        tty.type(CTRL_C)
        tty.wait_for(ASK)
        tty.answer(answer)
        if answer == "w\n":
            tty.wait_for("overall")
            release()
        assert tty.end() == code, tty.raw
        release()
    wait_until(lambda: sessions(target)[0]["state"] in ("done", "cancelled"))
    assert sessions(target)[0]["state"] == ends
    assert ("it goes on: peersync jobs watch" in tty.raw) is (code == 0 and answer != "w\n")
    assert value(target) == (THEIRS if changed else "ours")


def test_jobs_cancel_stops_a_sync_that_nobody_watches(target: Node) -> None:
    with held(target):
        job = target.run("pull", "server-a", "--yes", "--no-wait", "--json").json["session"]
        answer = target.run("jobs", "cancel", job[:6], "--json").json
        assert answer["schema_version"] == 1
        watched = target.run("jobs", "watch", job, check=False)
        documented(watched, 130)
    assert value(target) == "ours"


# --- looking ------------------------------------------------------------------------------------
def test_history_is_limited_and_has_both_sides(pair: TwoNodes, target: Node) -> None:
    target.pull("server-a")
    target.pull("server-a")
    limited = target.run("history", "--limit", "1", "--json").json
    assert limited["schema_version"] == 1
    assert len(limited["sessions"]) == 1
    assert len(sessions(target)) >= 2
    job = limited["sessions"][0]["id"]
    listed = target.run("jobs", "list", "--json").json
    assert (listed["schema_version"], listed["jobs"][0]["id"]) == (1, job)
    given = {s["id"]: s["role"] for s in sessions(pair.source)}
    assert given[job] == "source"
    documented(target.run("history", "--limit", "0", check=False), 2)
    table = target.run("history").out
    assert job[:8] in table
    assert "shop ◀── server-a" in table


def test_a_job_that_is_not_there_is_said(target: Node) -> None:
    for verb in ("show", "watch", "cancel"):
        refused = target.run("jobs", verb, "ffffffffff", check=False)
        documented(refused, 2)
        assert "peersync jobs list" in refused.err


def test_a_synced_database_is_fine(target: Node) -> None:
    target.pull("server-a")
    status = target.run("status")
    assert "shop was synced from server-a " in status.out
    told = target.run("status", "--json").json
    assert (told["schema_version"], told["fine"]) == (1, True)


def test_check_says_that_all_is_well(target: Node) -> None:
    target.pull("server-a")
    told = target.run("check", "--json").json
    assert told["schema_version"] == 1
    assert told["ok"] is True
    names = {c["name"] for c in told["checks"]}
    assert {"agent", "database shop", "peer server-a", "disk for spool"} <= names


def test_rights_that_are_taken_away_are_denied(pair: TwoNodes, target: Node) -> None:
    pair.source.run("peer", "deny", "server-b", "--pull")
    try:
        refused = target.run("pull", "server-a", "--yes", check=False)
        documented(refused, 8)
    finally:
        pair.source.run("peer", "allow", "server-b", "--pull")


def test_no_escape_codes_are_written_off_a_terminal(target: Node) -> None:
    for arguments in (
        ("pull", "server-a", "--yes", "--progress", "bar"),
        ("status",),
        ("history",),
    ):
        shown = target.run(*arguments)
        assert "\x1b" not in shown.out + shown.err


# --- nodes that are not well -------------------------------------------------------------------
def test_without_an_agent_every_command_says_how_to_start_it(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    node = make_node("alone", make_database(), start=False)
    for command in (["pull", "x", "--yes"], ["status"], ["history"], ["jobs", "list"]):
        refused = node.run(*command, check=False)
        documented(refused, 5)
        assert "peersync agent" in refused.err
    checked = node.run("check", check=False)
    documented(checked, 1)
    assert "agent" in checked.out
    assert "fix: start it" in checked.out
    node.config.write_text("nonsense = 1\n")
    documented(node.run("status", check=False), 7)


def test_status_and_check_of_a_node_whose_surroundings_fail(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    database = make_database(owner="plain")
    node = make_node("alone", database)
    assert "No peer is known yet." in node.run("status", check=False).out
    database.psql("CREATE TABLE secret (id int)", user="postgres")
    refused = node.run("check", check=False)
    documented(refused, 1)
    assert 'not all can be read here: table "public"."secret"' in refused.out
    assert 'fix: GRANT SELECT ON TABLE "public"."secret" TO "plain";' in refused.out

    other = make_node("other", make_database())
    node.pair_with(other)
    never = node.run("status", check=False)
    assert (never.code, "shop was never synced with other." in never.out) == (1, True)
    other.stop()
    gone = node.run("status", check=False)
    assert (gone.code, "other can't be reached." in gone.out) == (1, True)
    pulled = node.run("pull", "other", "--yes", check=False)
    documented(pulled, 5)
    checked = json.loads(node.run("check", "--json", check=False).out)
    peer = next(c for c in checked["checks"] if c["name"] == "peer other")
    assert peer["state"] == "failed"
    assert peer["fix"]

    database.cluster.psql(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
    try:
        database.cluster.psql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
            f"'{database.name}'"
        )
        down = node.run("status", check=False)
        assert (down.code, "Database shop can't be reached." in down.out) == (1, True)
        told = json.loads(node.run("check", "--json", check=False).out)
        failed = next(c for c in told["checks"] if c["name"] == "database shop")
        assert failed["state"] == "failed"
        assert failed["fix"]
        refused = node.run("pull", "other", "--yes", check=False)
        assert refused.code in DOCUMENTED - {0}
    finally:
        database.cluster.psql(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS true")


def test_the_watching_command_goes_on_when_the_agent_is_restarted(
    clusters: GetCluster, tmp_path: Path
) -> None:
    with running_pair(clusters, tmp_path, suffix="restart") as (source, target):
        for node in (source, target):
            node.database.psql("CREATE TABLE items (id int PRIMARY KEY, v text)")
        source.database.psql(f"INSERT INTO items VALUES (1, '{THEIRS}')")
        with held(target) as release:
            watching = target.popen(
                "pull", "server-a", "--yes", "--json", "--progress", "json",
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            assert watching.stdout is not None
            watching.stdout.readline()
            assert target.stop() == 0
            target.start()
            release()
            out, err = watching.communicate(timeout=60)
        assert watching.returncode == 0, err
        ended = json.loads(out.splitlines()[-1])
        assert (ended["result"], ended["resumed"] >= 1) == ("done", True)
        assert value(target) == THEIRS
