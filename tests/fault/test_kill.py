"""kill -9 of either agent in every step: old or new, never between, and it goes on by itself."""

from __future__ import annotations

import os
import signal

from tests.fault.rig import NEW, OLD, Rig, ask, chunk_files, dump_processes, eventually


def test_p13_target_killed_in_transfer_goes_on_with_what_is_here(rig: Rig) -> None:
    with rig.transfer_held() as job:
        rig.target.kill()
        here = sum(path.stat().st_size for path in chunk_files(rig.target.spool / "taken"))
        assert here
        rig.proxy.cut()
    assert rig.state() == OLD
    down = rig.proxy.down_bytes
    rig.target.start()
    view = rig.done(job)
    progress = view["progress"]
    assert progress["resumed"] == 1
    assert progress["saved_bytes"] == here
    total = next(s["total"] for s in progress["steps"] if s["name"] == "transfer")
    assert rig.proxy.down_bytes - down < (total - here) * 1.1 + 200_000


def test_target_killed_while_the_source_dumps(rig: Rig) -> None:
    with rig.dump_held() as job:
        rig.target.kill()
        rig.target.start()
    rig.done(job)


def test_p1_target_killed_in_the_final_transaction(rig: Rig) -> None:
    with rig.final_held() as job:
        rig.target.kill()
        rig.target.start()
        assert rig.state() == OLD
    rig.done(job)


def test_p1_target_killed_when_all_is_written_and_not_committed(rig: Rig) -> None:
    with rig.before_commit_held() as job:
        rig.target.kill()
        assert rig.state() == OLD
        rig.target.start()
    rig.done(job)


def test_p13_target_killed_between_commit_and_cleaning(rig: Rig) -> None:
    with rig.sql(rig.target) as other:
        with rig.before_commit_held() as job:
            stage = other.execute(
                "SELECT min(oid::regclass::text) FROM pg_class WHERE relname LIKE 'stage\\_%'"
                " AND relkind = 'r'"
            ).fetchone()
            assert stage is not None
            other.execute(f"LOCK TABLE {stage[0]} IN ACCESS SHARE MODE".encode())
        rig.waits(rig.target, "peersync/clean/%")
        assert rig.state() == NEW
        rig.target.kill()
    rig.target.start()
    view = rig.done(job)
    assert view["progress"]["rows"] == sum(t["source"] for t in view["tables"])


def test_source_killed_in_transfer_sends_nothing_twice(rig: Rig) -> None:
    down = rig.proxy.down_bytes
    with rig.transfer_held() as job:
        eventually("the dump is spooled", lambda: _complete(rig))
        rig.source.kill()
        rig.proxy.cut()
        rig.source.start()
    progress = rig.done(job)["progress"]
    total = next(s["total"] for s in progress["steps"] if s["name"] == "transfer")
    assert progress["wire_bytes"] <= total * 1.1
    assert rig.proxy.down_bytes - down <= total * 1.1 + 500_000


def test_p13_source_killed_while_pg_dump_runs(rig: Rig) -> None:
    """The orphans wait in PostgreSQL, and are ended when the same backup begins again."""
    with rig.dump_held() as job:
        orphans = set(dump_processes(_pid(rig)))
        rig.source.kill()
        rig.source.start()
        eventually("a new pg_dump", lambda: dump_processes(_pid(rig)))
        eventually("the orphans have ended", lambda: not orphans & set(dump_processes(os.getpid())))
    rig.done(job)


def test_pg_dump_is_killed(rig: Rig) -> None:
    with rig.dump_held() as job:
        for told in dump_processes(_pid(rig)):
            os.kill(int(told.split()[1]), signal.SIGKILL)
        eventually("the source says so", lambda: "signal 9" in rig.source.log)
    rig.done(job)


def test_source_away_when_the_target_ends_hears_of_it_later(rig: Rig) -> None:
    with rig.final_held() as job:
        rig.source.kill()
    assert rig.end(job)["state"] == "done"
    rig.source.start()
    eventually("the source says so, too", lambda: _source_state(rig, job) == "done")
    rig.assert_clean()


def test_both_killed_at_once(rig: Rig) -> None:
    with rig.transfer_held() as job:
        rig.source.kill()
        rig.target.kill()
        rig.proxy.cut()
    rig.source.start()
    rig.target.start()
    rig.done(job)


def test_p20_jobs_status_and_history_agree_after_a_kill(rig: Rig) -> None:
    with rig.transfer_held() as job:
        rig.target.kill()
        rig.proxy.cut()
        rig.target.start()
        eventually("it is shown as running", lambda: rig.view(job)["state"] == "running")
        status = ask(rig.target, "GET", "/api/admin/status")
        assert [p["session"] for p in status["running"]] == [job]
        assert status["links"][0]["state"] == "syncing"
    rig.done(job)
    shown = rig.target.run("jobs", "show", job[:8], "--json").json
    listed = rig.target.run("history", "--json").json["sessions"][0]
    assert shown["state"] == "done"
    assert listed["id"] == job
    eventually("the source says so, too", lambda: _source_state(rig, job) == "done")


def _source_state(rig: Rig, job: str) -> str:
    state: str = ask(rig.source, "GET", f"/api/admin/jobs/{job}")["state"]
    return state


def _complete(rig: Rig) -> bool:
    journals = (rig.source.spool / "given").glob("*/journal")
    return any(b'"complete"' in journal.read_bytes() for journal in journals)


def _pid(rig: Rig) -> int:
    assert rig.source.process is not None
    return rig.source.process.pid
