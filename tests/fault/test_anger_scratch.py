from __future__ import annotations
import os, time, pytest
from tests.fault import anger
from tests.fault.rig import *
from tests.fault.rig import chunk_files, Refused, spools
OLD_TIME = time.time() - 30*86400

class Pushing(Rig):
    def begin(self, node=None):
        return anger.begin(self, "push")

@pytest.fixture
def pushing(rig):
    return Pushing(rig.source, rig.target, rig.proxy, rig.extra, rig.books)

def fail(rig):
    rig.target.database.psql("UPDATE peersync.leases SET fence = fence + 1")

def expire_given(rig, job, days=3):
    rig.source.stop()
    rig.source.database.psql("UPDATE peersync.full_sync_sessions SET updated_at = updated_at - interval '3 days'")
    g = rig.source.spool/"given"/job
    if g.exists(): os.utime(g, (OLD_TIME, OLD_TIME))
    rig.source.start()
    eventually("its spool is gone", lambda: not g.exists())

def test_a_pull_resumed_after_source_expired(rig):
    with rig.transfer_held() as job:
        fail(rig); rig.proxy.heal(); rig.failed(job)
        eventually("src", lambda: anger.given(rig, job)["state"] == "failed")
    expire_given(rig, job)
    print("SRC", anger.given(rig, job)["state"], anger.given(rig, job)["error"], anger.given(rig, job)["resumable"])
    r = rig.target.run("jobs", "resume", job[:8], "--json", check=False)
    print(r.code, r.out, r.err)
    v = rig.end(job); print(v["progress"]["saved_bytes"], v["progress"]["wire_bytes"], v["progress"]["message"], v["state"])
    print(rig.target.log[-1500:]); print("SRCLOG", rig.source.log[-1500:])

@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("may", [True, False])
def test_b_push_resumed_after_source_expired(pushing, side, may):
    rig = pushing
    if not may:
        rig.source.run("peer", "deny", "server-b", "--pull")
    with rig.transfer_held() as job:
        fail(rig); rig.proxy.heal(); rig.failed(job)
        eventually("src", lambda: anger.given(rig, job)["state"] == "failed")
    print("SRC0", anger.given(rig, job)["state"], anger.given(rig, job)["error"], anger.given(rig, job)["resumable"])
    expire_given(rig, job)
    print("SRC", anger.given(rig, job)["state"], anger.given(rig, job)["error"], anger.given(rig, job)["resumable"])
    node = getattr(rig, side)
    r = node.run("jobs", "resume", job[:8], "--json", check=False)
    print(side, may, r.code, r.out, r.err)
    v = rig.end(job); print(v["progress"]["saved_bytes"], v["progress"]["wire_bytes"], v["progress"]["message"], v["state"], v["error"], v["resumable"])
    print("SRC2", anger.given(rig, job)["state"], anger.given(rig, job)["error"], anger.given(rig, job)["resumable"])

def test_c_told_never(rig):
    with rig.final_held() as job:
        rig.source.kill()
    assert rig.end(job)["state"] == "done"
    eventually("rec", lambda: rig.target.database.psql("SELECT count(*) FROM peersync.full_sync_sessions WHERE completed_at IS NOT NULL") != "0")
    rig.target.stop(); rig.source.start(); rig.target.start()
    time.sleep(6); print(rig.source.log[-2500:]); print("TGT", rig.target.log[-2500:])
    print("SRC", anger.given(rig, job)["state"], spools(rig.source))


def test_d_cancel_before_recovery(rig):
    """The killed agent's lease is held by a COMMIT-like stuck backend, so recovery waits."""
    with rig.sql(rig.target) as other:
        other.execute("SELECT 1")
        with rig.transfer_held() as job:
            rig.target.kill()
            rig.proxy.cut()
        key = "x'70737963'::int, pg_catalog.hashtext('full_sync')"
        eventually("lock", lambda: other.execute(f"SELECT pg_try_advisory_lock({key})").fetchone()[0])
        other.commit()
        rig.target.start()
        for _ in range(3):
            try:
                print("CANCEL", ask(rig.target, "POST", f"/api/admin/jobs/{job}/cancel")["state"])
            except Refused as e: print(e)
            time.sleep(0.5)
        print("VIEW", rig.view(job)["state"])
        other.execute(f"SELECT pg_advisory_unlock({key})"); other.commit()
    print("END", rig.end(job)["state"])

def test_e_budget(rig):
    """Failed sessions rest in the spool; another sync finds no room."""
    rig.target.env["PEERSYNC_FULL_SYNC_SPOOL_MAX_GIB"] = "0.004"
    rig.target.stop(); rig.target.start()
    try:
        for n in range(4):
            if n < 3:
                with rig.transfer_held() as job: fail(rig)
            else: job = rig.begin()
            v = rig.end(job)
            print(n, v["state"], v["error"] and (v["error"]["message"], v["error"]["hint"]), v["resumable"], [str(s)[-40:] for s in spools(rig.target)])
    finally:
        del rig.target.env["PEERSYNC_FULL_SYNC_SPOOL_MAX_GIB"]

def test_f_died_too_often(rig):
    """An outage of the database of the target counts as deaths."""
    with rig.transfer_held() as job:
        c = rig.target.database.cluster
        c.stop("immediate")
        rig.proxy.heal()
        time.sleep(14)
        print("R", rig.view(job)["progress"]["resumed"])
        c.start()
        rig.target.kill()
        n = rig.target.database.psql("SELECT resumed FROM peersync.full_sync_sessions")
        print("RESUMED", n)
