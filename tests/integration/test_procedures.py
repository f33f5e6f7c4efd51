"""docs/procedures.md: what the page says for the night works, command by command."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.integration.procedures_rig import FIRST, PAGE, sections, walk
from tests.integration.shared_pair import held
from tests.integration.test_clear_stuck import begun
from tests.integration.test_join import ITEMS, join, shows
from tests.integration.test_rebaseline import keep_copy, restore_copy
from tests.plugins.clusters import MakeDatabase
from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import MakeNode, Node, TwoNodes

WALKED = {
    FIRST,
    "A stuck sync",
    "A lost peer",
    "A restored backup",
    "A full disk",
    "Roll back a full sync",
    "Move to a new server",
    "Rotate certificates",
    "Remove peersync without a trace",
}


def test_every_procedure_of_the_page_is_walked_by_a_test() -> None:
    assert set(sections()) == WALKED
    here = "".join(path.read_text() for path in Path(__file__).parent.glob("test_procedures*.py"))
    for title in WALKED - {FIRST}:
        assert f'walk("{title}")' in here
        anchor = title.lower().replace(" ", "-")
        assert f"(#{anchor})" in PAGE.read_text(), "the table at the top leads to it"


def test_every_command_in_the_text_of_the_page_exists() -> None:
    from peersync.cli.main import VERBS

    for line in re.findall(r"`peersync ([a-z-]+)", PAGE.read_text().replace("\n", " ")):
        assert line in VERBS


def members(pair: TwoNodes) -> TwoNodes:
    source, target = pair
    source.database.psql(ITEMS)
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "60")
    return pair


def in_sync(node: Node) -> None:
    deadline = time.monotonic() + 20
    while "in sync" not in (said := node.run("status", check=False).out):
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def test_a_stuck_sync_is_cancelled_or_cleared(pair_18: TwoNodes) -> None:
    source, target = pair_18
    for node in pair_18:
        node.database.psql("CREATE TABLE items (id int PRIMARY KEY, v text)")
    source.database.psql(
        "INSERT INTO items VALUES (1, 'theirs'); CREATE TABLE fresh (id int PRIMARY KEY)"
    )
    with walk(FIRST) as first:
        assert "never synced" in first.type(target, check=False).out
        assert first.type(target, check=False).code in (0, 1)
    with walk("A stuck sync") as steps:
        with held(target):
            job = begun(target)
            assert job[:8] in steps.type(target).out
            assert "running" in steps.type(target, JOB=job[:8]).out
            assert "cancel" in steps.type(target, JOB=job[:8]).err
        shows(target.database, "SELECT to_regclass('public.fresh') IS NULL", "t")
        with held(target):
            job = begun(target)
            target.kill()
            assert job in steps.type(target).out
            assert "is closed as failed" in steps.type(target).err
        assert target.database.psql("SELECT v FROM items") == ""
        target.start()
        target.run("join", "server-a", "--yes")
        assert "server-a" in steps.type(target).out
        steps.type(target)
        assert steps.type(target).code == 0
    assert_same_rows(source.database, target.database)


def test_a_lost_peer_is_not_waited_for_and_can_come_back(pair_18: TwoNodes) -> None:
    source, target = members(pair_18)
    target.stop()
    target.database.psql("UPDATE item SET name = 'while away' WHERE id = 1")
    source.database.psql("UPDATE item SET name = 'went on' WHERE id = 2")
    source.stop()  # a minute of silence, without waiting for it
    source.database.psql(
        "UPDATE peersync.member SET applied_hlc = greatest(applied_hlc - 3600000000, 0)"
        " WHERE node_name = 'server-b'"
    )
    source.start()
    with walk("A lost peer") as steps:
        assert "server-b" in steps.type(source, PEER="server-b").out
        steps.type(source, PEER="server-b")
        steps.type(source, PEER="server-b")
        assert "server-b" not in steps.type(source, check=False).out
        assert "expired" in source.run("members", "list", "--all").out
        target.start()
        invite = steps.type(source).out.split()[-1]
        steps.type(target, INVITE=invite)
        steps.type(target, PEER="server-a")
        assert steps.type(target).code == 0
    shows(source.database, "SELECT name FROM item WHERE id = 1", "while away")
    assert_same_rows(source.database, target.database)


def test_a_restored_backup_is_taken_back_in(pair_18: TwoNodes) -> None:
    source, target = members(pair_18)
    target.stop()
    keep_copy(target.database)
    target.start()
    target.database.psql("UPDATE item SET name = 'sent after the backup' WHERE id = 2")
    target.run("sync", "now", "--wait", "--timeout", "60")
    with walk("A restored backup") as steps:
        steps.type(target)
        restore_copy(target.database)
        target.database.psql("UPDATE item SET name = 'after the restore' WHERE id = 4")
        steps.type(target)
        shows(target.database, "SELECT state FROM peersync.replica", "held")
        told = steps.type(target, check=False)
        assert "older than" in told.out
        assert "peersync rebaseline server-a" in told.out
        steps.type(target, PEER="server-a")
        assert steps.type(target).code == 0
        steps.type(target)
    in_sync(target)
    shows(source.database, "SELECT name FROM item WHERE id = 4", "after the restore")
    assert target.database.psql("SELECT name FROM item WHERE id = 2") == "sent after the backup"
    assert_same_rows(source.database, target.database)


def test_a_full_disk_loses_nothing(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(
        "CREATE TABLE big (id int PRIMARY KEY, pad text); INSERT INTO big SELECT i, md5(i::text)"
        " || md5((-i)::text) || md5('x' || i) || md5('y' || i) FROM generate_series(1, 30000) i"
    )
    target.env |= {"PEERSYNC_FULL_SYNC_SPOOL_MAX_GIB": "0.001"}
    target.stop()
    target.start()
    failed = target.pull("server-a", check=False)
    assert failed.code == 1
    assert "disk-full" in failed.out
    job = target.run("jobs", "list", "--json").json["jobs"][0]["id"]
    del target.env["PEERSYNC_FULL_SYNC_SPOOL_MAX_GIB"]
    with walk("A full disk") as steps:
        steps.type(target)
        assert job[:8] in steps.type(target).out
        assert steps.type(target, JOB=job[:8]).code == 0
        assert_same_rows(source.database, target.database)
        target.run("join", "server-a", "--yes")
        assert "kB" in (said := steps.type(target).out) or "MB" in said
        steps.type(target)
        assert "server-a" in steps.type(target).out


def test_a_full_sync_is_rolled_back(pair_18: TwoNodes) -> None:
    source, target = pair_18
    for node in pair_18:
        node.database.psql("CREATE TABLE items (id int PRIMARY KEY, v text)")
    source.database.psql("INSERT INTO items VALUES (1, 'wrong'), (2, 'wrong too')")
    target.database.psql("INSERT INTO items VALUES (1, 'right')")
    job = target.pull("server-a").json["session"]
    with walk("Roll back a full sync") as steps:
        assert job[:8] in steps.type(target).out
        assert "dry run" in steps.type(target, JOB=job[:8]).out
        assert target.database.psql("SELECT count(*) FROM items") == "2"
        assert "Undone." in steps.type(target, JOB=job[:8]).out
    assert target.database.psql("SELECT id, v FROM items") == "1|right"


def test_a_certificate_is_rotated_and_the_peers_follow(pair_18: TwoNodes) -> None:
    source, target = members(pair_18)
    with walk("Rotate certificates") as steps:
        refused = target.run("node", "rotate-certificate", "--yes", check=False)
        assert (refused.code, "systemctl stop" in refused.err) == (6, True)
        steps.type(target)
        source.database.psql("UPDATE item SET name = 'meanwhile' WHERE id = 1")
        assert "it is the same node" in steps.type(target).err
        steps.type(target)
        shows(target.database, "SELECT name FROM item WHERE id = 1", "meanwhile")
        target.database.psql("UPDATE item SET name = 'from the new one' WHERE id = 2")
        shows(source.database, "SELECT name FROM item WHERE id = 2", "from the new one")
        assert "reachable" in (said := steps.type(target).out) and "not reachable" not in said
    probed = source.run("peer", "list", "--probe").out
    assert "reachable" in probed and "not reachable" not in probed
    assert "has a new certificate" in source.log
    target.run("pull", "server-a", "--yes")
    in_sync(source)
    in_sync(target)


def test_a_peer_that_was_away_follows_a_certificate_when_it_is_back(pair_18: TwoNodes) -> None:
    source, target = members(pair_18)
    source.stop()
    target.stop()
    target.run("node", "rotate-certificate", "--yes")
    first = target.run("node", "rotate-certificate", "--yes", "--json").json
    assert first["certificate"] != first["earlier"] != first["nodeId"]
    target.start()
    target.database.psql("UPDATE item SET name = 'while it was away' WHERE id = 1")
    source.start()
    shows(source.database, "SELECT name FROM item WHERE id = 1", "while it was away")
    in_sync(source)
    in_sync(target)


def test_a_new_server_takes_the_place_of_an_old_one(
    pair_18: TwoNodes, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source, old = members(pair_18)
    new = make_node("server-c", make_database(18, nth=2))
    with walk("Move to a new server") as steps:
        invite = steps.type(old).out.split()[-1]
        steps.type(new, INVITE=invite)
        steps.type(new, PEER="server-b")
        steps.type(new, PEER="server-b")
        new.pair_with(source)
        new.database.psql("UPDATE item SET name = 'on the new one' WHERE id = 1")
        assert steps.type(old).code == 0
        steps.type(old)
        listed = steps.type(new).out
        assert sorted(re.findall(r"^server-.", listed, re.M)) == ["server-a", "server-c"]
        left = steps.left[0]
        steps.type(new, PEER="server-b")
        steps.left.insert(0, left)
        steps.type(source, PEER="server-b")
        steps.stop_before("systemctl stop")
    old.stop()
    source.database.psql("UPDATE item SET name = 'goes on' WHERE id = 2")
    shows(new.database, "SELECT name FROM item WHERE id = 2", "goes on")
    shows(source.database, "SELECT name FROM item WHERE id = 1", "on the new one")
