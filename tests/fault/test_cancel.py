"""Cancel at each step: at once, the target untouched, both sides clean. And who is refused."""

from __future__ import annotations

import time

import psycopg
import pytest

from tests.fault.rig import OLD, Refused, Rig, ask, eventually
from tests.plugins.nodes import TwoNodes


def cancel(rig: Rig, job: str) -> None:
    """As `jobs cancel` does it; the answer does not wait for the end, which is far."""
    asked = time.monotonic()
    view = ask(rig.target, "POST", f"/api/admin/jobs/{job}/cancel")
    assert time.monotonic() - asked < 10
    assert view["state"] in ("cancelling", "cancelled")


@pytest.mark.parametrize("step", ["gate", "dump", "transfer", "final", "before_commit"])
def test_p1_cancel_in_each_step(rig: Rig, step: str) -> None:
    held = {
        "gate": rig.gate,
        "dump": rig.dump_held,
        "transfer": rig.transfer_held,
        "final": rig.final_held,
        "before_commit": rig.before_commit_held,
    }[step]
    with held() as job:
        cancel(rig, job)
        cancel(rig, job)  # impatience does not hurt
        if step in ("gate", "transfer"):
            continue_ = rig.open_gate if step == "gate" else rig.proxy.heal
            continue_()
        assert rig.end(job, 10)["state"] == "cancelled"
        assert rig.target.database.psql("SELECT count(*) FROM items") == "500"
    assert rig.state() == OLD
    rig.assert_clean()
    eventually("the source knows", lambda: source_state(rig, job) in ("cancelled", None))


def test_cancel_from_the_command_line(rig: Rig) -> None:
    with rig.final_held() as job:
        assert rig.target.run("jobs", "cancel", job[:8]).code == 0
        assert rig.target.run("jobs", "watch", job[:8], check=False).code == 130
    assert rig.state() == OLD


def test_p13_cancel_drops_what_the_session_created(rig: Rig) -> None:
    rig.target.run("peer", "allow", "server-a", "--schema")
    rig.target.database.psql("DROP TABLE items, notes")
    with rig.transfer_held() as job:
        eventually("the tables are created", lambda: tables(rig) == "2")
        cancel(rig, job)
        assert rig.end(job)["state"] == "cancelled"
        eventually("they are dropped", lambda: tables(rig) == "0")
    rig.assert_clean()


def test_p13_a_killed_first_load_begins_again_with_its_own_tables(rig: Rig) -> None:
    rig.target.run("peer", "allow", "server-a", "--schema")
    rig.target.database.psql("DROP TABLE items, notes")
    with rig.transfer_held() as job:
        eventually("the tables are created", lambda: tables(rig) == "2")
        rig.target.kill()
        rig.proxy.cut()
    rig.target.start()
    rig.done(job)


def test_a_cancel_that_a_kill_interrupts_stays_a_cancel(rig: Rig) -> None:
    with rig.sql(rig.target) as other, rig.transfer_held() as job:
        stage = eventually(
            "a staging table",
            lambda: rig.target.database.psql(
                "SELECT min(oid::regclass::text) FROM pg_class WHERE relname LIKE 'stage\\_%\\_0'"
                " AND relkind = 'r'"
            ),
        )
        other.execute(f"LOCK TABLE {stage} IN ACCESS SHARE MODE".encode())
        cancel(rig, job)
        rig.waits(rig.target, "peersync/clean/%")
        rig.target.kill()
        other.rollback()
        rig.target.start()
    assert rig.end(job)["state"] == "cancelled"
    assert rig.state() == OLD
    eventually("no stage is left", lambda: not [x for x in rig.left() if x.startswith("stage_")])


def test_a_second_full_sync_is_refused_and_told_who_is_at_it(rig: Rig) -> None:
    with rig.transfer_held() as job:
        with pytest.raises(Refused) as refused:
            rig.begin()
        assert refused.value.status == 409
        assert refused.value.problem["data"]["holder"]["job"] == job
        command = rig.target.pull("server-a", check=False)
        assert command.code == 6
        assert job in command.err
    rig.done(job)


def test_both_directions_at_once_end_in_one_state(rig: Rig) -> None:
    rig.source.database.psql("BEGIN; CREATE TABLE backup AS TABLE items; COMMIT")
    try:
        with rig.transfer_held() as job:
            back = ask(
                rig.source,
                "POST",
                "/api/admin/sync/full-sync",
                {"action": "pull", "peer": "server-b", "database": "shop"},
            )["job"]
        assert rig.end(job)["state"] in ("done", "partly")
        view = eventually(
            "the way back ends",
            lambda: (v := ask(rig.source, "GET", f"/api/admin/jobs/{back}"))["completed_at"] and v,
        )
        assert view["state"] in ("done", "partly"), view
        # each took the view that the other had at its beginning; another round makes them equal
        assert rig.end(rig.begin())["state"] in ("done", "partly")
        query = "SELECT md5(string_agg(i::text, ',' ORDER BY id)) FROM items i"
        assert rig.target.database.psql(query) == rig.source.database.psql(query)
    finally:
        rig.source.database.psql(
            "UPDATE items i SET v = b.v, pad = b.pad FROM backup b"
            " WHERE i.id = b.id AND i IS DISTINCT FROM b; UPDATE notes SET v = 1;"
            "DROP TABLE backup"
        )


def source_state(rig: Rig, job: str) -> str | None:
    try:
        state: str = ask(rig.source, "GET", f"/api/admin/jobs/{job}")["state"]
    except Refused:
        return None
    return state


def tables(rig: Rig) -> str:
    return rig.target.database.psql(
        "SELECT count(*) FROM pg_tables WHERE tablename IN ('items', 'notes')"
    )


def test_a_cancel_while_a_failed_sync_cleans_up_does_not_leave_it_open(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(
        "CREATE TABLE t (id int PRIMARY KEY, pad text);"
        "INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 20000) AS n"
    )
    target.database.psql("CREATE TABLE t (id int PRIMARY KEY, pad text)")
    stages = (
        "SELECT min(oid::regclass::text) FROM pg_class"
        " WHERE relname LIKE 'stage\\_%\\_0' AND relkind = 'r'"
    )
    cleaning = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE '%clean/%'"
    with psycopg.connect(target.database.conninfo()) as other:
        other.execute("LOCK TABLE t IN SHARE MODE")  # it can't commit before it fails
        job = target.run("pull", "server-a", "--yes", "--no-wait").out.split()[0]
        stage = eventually("a staging table", lambda: target.database.psql(stages).strip())
        other.execute(f"LOCK TABLE {stage} IN ACCESS SHARE MODE".encode())
        target.run("peer", "remove", "server-a")
        eventually("it is cleaned up", lambda: target.database.psql(cleaning).strip())
        target.run("jobs", "cancel", job)
        other.rollback()

    def ended() -> str | None:
        view = target.run("jobs", "show", job, "--json").json
        return str(view["state"]) if view["completed_at"] else None

    assert eventually("it has ended", ended) in ("failed", "cancelled")
