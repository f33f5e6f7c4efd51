"""`peersync bulk-sync` as a user types it, on a node with five databases."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from peersync.agent.orchestration.bulk_outcome import BulkView
from tests.integration.bulk_rig import NAMES, PATH, Rig, bulk_rig, from_cron, install
from tests.integration.shared_pair import wait_until
from tests.plugins.clusters import GetCluster

SCRIPT = Path(__file__).parents[2] / "scripts" / "bulk-sync"
SECONDS = r"\(\d+\.\d s\)"


@pytest.fixture(scope="module")
def rig(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with bulk_rig(clusters, tmp_path_factory.mktemp("bulk")) as made:
        yield made


def test_each_database_has_its_turn_its_line_and_a_place_in_the_summary(rig: Rig) -> None:
    keys = {name: rig.write(name) for name in ("shop", "crm")}
    ran = rig.node.run("bulk-sync", check=False)
    assert ran.code == 1, ran.err
    lines = ran.out.splitlines()
    assert re.fullmatch(rf"\[1/5\] ✓ shop – 1 peer, 1 row {SECONDS}", lines[0])
    assert lines[1] == "[2/5] ○ playground – a demo database"
    assert lines[2].startswith("[3/5] ✗ crm – 1 of 2 peers failed (server-c): ")
    assert lines[3].startswith("[4/5] ✗ broken – ")
    assert lines[4] == "[5/5] ○ archive – not active"
    assert lines[5].split()[:4] == ["DATABASES", "SUCCESSFUL", "FAILED", "SKIPPED"]
    assert lines[6].split()[:4] == ["5", "1", "2", "2"]
    assert all(rig.has(name, key) for name, key in keys.items())


def test_the_result_says_what_happened_to_each_and_where_to_read_more(rig: Rig) -> None:
    held = int(rig.write("shop"))
    ran = rig.node.run("bulk-sync", "--json", "--sync-type", "scheduled", check=False)
    told = ran.json
    assert (ran.code, told["status"], told["success"]) == (1, "partial", False)
    assert told["message"] == "1 successful, 2 failed, 2 skipped"
    assert [one["database"] for one in told["databases"]] == list(NAMES)
    shop, _, crm, broken, _ = told["databases"]
    assert (shop["status"], shop["peers"], shop["rows"]) == ("success", 1, held)
    assert shop["cost"] > 0
    assert told["cost"] == pytest.approx(shop["cost"] + crm["cost"])
    assert (crm["status"], crm["peers"], crm["peers_failed"]) == ("partial", 2, 1)
    assert broken["error"]["code"] == "database-unreachable"
    kept = rig.ours["shop"].psql(
        "SELECT complete_id, bulk_id, sync_type FROM peersync.complete_syncs "
        f"WHERE complete_id = '{shop['complete_id']}'"
    )
    assert kept.replace("-", "") == f"{shop['complete_id']}|{told['id']}|scheduled"
    newest = rig.runs()[0]
    assert (newest.id, newest.completed_at) == (told["id"], told["completed_at"])


def test_quiet_says_only_what_failed(rig: Rig) -> None:
    ran = rig.node.run("bulk-sync", "-q", check=False)
    assert (ran.code, ran.out) == (1, "")
    assert [line.split()[1] for line in ran.err.splitlines() if line[0] == "✗"] == ["crm", "broken"]
    silent = rig.node.run("bulk-sync", "-q", "--databases", "shop")
    assert (silent.out, silent.err) == ("", "")


def test_verbose_says_what_was_done_for_each_peer(rig: Rig) -> None:
    ran = rig.node.run("bulk-sync", "-v", "--databases", "crm", check=False)
    lines = ran.out.splitlines()
    assert re.match(r" +✓ server-a – full-pull, \d+ rows?, .* on the wire", lines[1])
    assert re.match(r" +✗ server-c – full-pull: ", lines[2])


def test_a_terminal_without_utf8_gets_ascii(rig: Rig) -> None:
    rig.node.env["LC_ALL"] = "C"
    try:
        ran = rig.node.run("bulk-sync", "--dry-run", check=False)
    finally:
        del rig.node.env["LC_ALL"]
    assert ran.out.isascii()
    assert ran.out.splitlines()[:2] == ["ok shop - 1 peer", "skipped playground - a demo database"]


def test_a_dry_run_says_who_would_have_a_turn_and_changes_nothing(rig: Rig) -> None:
    key, before = rig.write("shop"), rig.runs()
    ran = rig.node.run("bulk-sync", "--dry-run", check=False)
    lines = ran.out.splitlines()
    assert ran.code == 1, "broken can't be asked"
    assert lines[:3] == [
        "✓ shop – 1 peer", "○ playground – a demo database", "✓ crm – 2 peers",
    ]  # fmt: skip
    assert lines[3].startswith("✗ broken – ")
    assert lines[4:] == [
        "○ archive – not active",
        "dry run: 2 of 5 databases would be synced, 2 skipped, 1 cannot be asked",
    ]
    assert not rig.has("shop", key)
    assert rig.runs() == before
    assert rig.node.run("bulk-sync", "--dry-run", "--databases", "crm,shop").code == 0


def test_nothing_to_do_has_a_code_of_its_own(rig: Rig) -> None:
    ran = rig.node.run("bulk-sync", "--databases", "playground,archive", check=False)
    assert ran.code == 2
    assert "nothing to do: 0 successful, 0 failed, 2 skipped" in ran.err
    assert rig.node.run("bulk-sync", "--dry-run", "--databases", "archive", check=False).code == 2
    ran = rig.source.run("bulk-sync", check=False)
    assert ran.code == 2
    assert ran.out.splitlines()[:2] == [
        "[1/2] ○ shop – no auto-sync peers", "[2/2] ○ crm – no auto-sync peers",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        ("--bogus",),
        ("--sync-type", "never"),
        ("--databases", "shop,nowhere"),
        ("--databases", "shop,,crm"),
        ("-q", "-v"),
    ],
    ids="-".join,
)
def test_wrong_usage_ends_with_64_and_does_nothing(rig: Rig, wrong: tuple[str, ...]) -> None:
    before = rig.runs()
    ran = rig.node.run("bulk-sync", "--json", *wrong, check=False)
    assert (ran.code, ran.json["error"]["exit_code"]) == (64, 64)
    assert ran.err.startswith("peersync: ")
    assert rig.runs() == before


def test_cron_hears_of_failures_only(rig: Rig) -> None:
    install(rig.node)
    ran = from_cron(rig.node, SCRIPT)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("FAILED crm - 1 of 2 peers failed (server-c): ")
    assert ran.stderr.isascii()
    assert rig.runs()[0].sync_type == "scheduled"


def test_cron_is_told_where_peersync_is(rig: Rig, tmp_path: Path) -> None:
    """By PEERSYNC in the crontab; without it the script says what is missing."""
    install(rig.node)
    script = Path(shutil.copy(SCRIPT, tmp_path))
    program = rig.node.home / ".local" / "bin" / "peersync"
    lost = from_cron(rig.node, script, HOME="/nowhere")
    assert (lost.returncode, lost.stdout) == (127, "")
    assert "set PEERSYNC" in lost.stderr
    ran = from_cron(rig.node, script, HOME="/nowhere", PEERSYNC=str(program), LANG="C.UTF-8")
    assert ran.returncode == 1
    assert ran.stderr.startswith("✗ crm – ")


def test_no_agent_is_a_failure_that_says_what_to_start(rig: Rig) -> None:
    config = rig.node.config.read_text().replace(f"{rig.node.home}/s", f"{rig.node.home}/no")
    (rig.node.home / "other.toml").write_text(config)
    ran = rig.node.run("bulk-sync", "--config", str(rig.node.home / "other.toml"), check=False)
    assert ran.code == 1
    assert "systemctl start peersync-agent" in ran.err


def test_a_record_that_cannot_be_written_keeps_no_database_from_its_turn(rig: Rig) -> None:
    place = rig.node.state_dir / "bulk"
    away = place.rename(rig.node.state_dir / "away")
    try:
        key = rig.write("shop")
        ran = rig.node.run("bulk-sync", "--databases", "shop")
        assert ran.out.startswith("[1/1] ✓ shop")
        assert rig.has("shop", key)
    finally:
        away.rename(place)
    assert "the record of bulk sync" in rig.node.log


def test_a_script_starts_one_over_http(rig: Rig) -> None:
    status, place, body = rig.post(PATH, {"databases": ["shop"], "requestedBy": "a script"})
    assert status == 202
    assert place == f"{PATH}/{body['id']}"
    wait_until(lambda: rig.ask(place, BulkView).status != "running")
    view = rig.ask(place, BulkView)
    assert (view.status, view.sync_type, view.requested_by) == ("success", "api", "a script")
    status, _, body = rig.post(PATH, {"database": "shop"})
    assert (status, body["code"]) == (400, "bad-request")


def test_a_run_is_found_by_the_beginning_of_its_id(rig: Rig) -> None:
    run = rig.runs()[0]
    found = rig.ask(f"{PATH}/{run.id[:12]}", type(run))
    assert found == run
    assert os.stat(rig.node.state_dir / "bulk").st_mode & 0o777 == 0o700
