"""Deaths for the tests that break a session again and again, and what is measured at the proxy.

A session is stopped at the boundary of a chunk: the link is narrow, one chunk is under way at a
time, and the network swallows everything from the moment that the file of a chunk appears.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from tests.fault.rig import Rig, ask, eventually
from tests.plugins.nodes import Node

Way = Literal["pull", "push"]
Death = Callable[[Rig], None]

CHUNK_BYTES = 1_150_000  # chunks aim at 1 MiB, after compression
CALLS_BYTES = 40_000  # handshakes, manifests, reports: after each death, and at the beginning
NARROW_BYTES_S = 8_000_000.0
BULK_ROWS = 5_000
SOURCE_BULK = f"""
    CREATE TABLE IF NOT EXISTS bulk (id int PRIMARY KEY, body bytea NOT NULL);
    INSERT INTO bulk SELECT i, (SELECT string_agg(decode(md5(i || ':' || j), 'hex'), '')
        FROM generate_series(1, 64) j) FROM generate_series(1, {BULK_ROWS}) i
        ON CONFLICT DO NOTHING;
    ANALYZE bulk;"""
TARGET_BULK = "CREATE TABLE IF NOT EXISTS bulk (id int PRIMARY KEY, body bytea); TRUNCATE bulk"
_BULK = "SELECT md5(string_agg(b::text, ',' ORDER BY id)) FROM bulk b"


def begin(rig: Rig, way: Way, **options: object) -> str:
    """Starts the same sync from either end."""
    node, peer = (rig.target, rig.source) if way == "pull" else (rig.source, rig.target)
    request = {"action": way, "peer": peer.name, "database": "shop", **options}
    job: str = ask(node, "POST", "/api/admin/sync/full-sync", request)["job"]
    return job


class Pushing(Rig):
    """The rig, its sessions being pushes of the source."""

    def begin(self, node: Node | None = None) -> str:
        return begin(self, "push")


def pushing(rig: Rig) -> Pushing:
    return Pushing(rig.source, rig.target, rig.proxy, rig.extra, rig.method, rig.books)


def fail(rig: Rig) -> None:
    """What runs finds that somebody else has taken over, and fails; it may be resumed."""
    rig.target.database.psql("UPDATE peersync.leases SET fence = fence + 1")


def given(rig: Rig, job: str) -> dict[str, Any]:
    """The job as the source shows it."""
    found: dict[str, Any] = ask(rig.source, "GET", f"/api/admin/jobs/{job}")
    return found


def assert_both_say(rig: Rig, job: str, state: str) -> None:
    """Both ends show the job in this state, soon."""
    eventually(f"the target says {state}", lambda: rig.view(job)["state"] == state)
    eventually(f"the source says {state}", lambda: given(rig, job)["state"] == state)


def assert_equal(rig: Rig) -> None:
    """The large table is what the source has, too."""
    assert rig.target.database.psql(_BULK) == rig.source.database.psql(_BULK)


# --- deaths ---------------------------------------------------------------------------------
def target_dies(rig: Rig) -> None:
    rig.target.kill()
    rig.proxy.cut()
    rig.target.start()


def source_dies(rig: Rig) -> None:
    rig.source.kill()
    rig.proxy.cut()
    rig.source.start()


def network_dies(rig: Rig) -> None:
    rig.proxy.cut()


def target_server_dies(rig: Rig) -> None:
    rig.target.database.cluster.restart("immediate")


def source_server_dies(rig: Rig) -> None:
    rig.source.database.cluster.restart("immediate")


# --- the boundary of a chunk ----------------------------------------------------------------
def narrow(rig: Rig) -> None:
    """Everything passes (again), at the speed of a narrow link."""
    rig.proxy.heal()
    rig.proxy.bytes_s = NARROW_BYTES_S


def stop_after(rig: Rig, job: str, chunks: int) -> bool:
    """Waits until so many chunks are here, and lets nothing pass from then on.

    False: the session has ended before.
    """
    taken = rig.target.spool / "taken" / job
    deadline = time.monotonic() + 30
    looks = 0
    while time.monotonic() < deadline:
        if taken.is_dir() and sum(len(p.name) == 64 for p in taken.iterdir()) >= chunks:
            rig.proxy.hole_after = rig.proxy.down_bytes
            return True
        looks += 1
        if looks % 500 == 0 and rig.view(job)["completed_at"]:
            return False
        time.sleep(0.001)
    raise AssertionError(f"waited in vain for {chunks} chunks: {rig.view(job)}")


def dumped(rig: Rig, job: str) -> None:
    """Waits until the source has all of it in its spool, and needs its database no more."""
    journal = rig.source.spool / "given" / job / "journal"
    eventually("the dump is spooled", lambda: b'"complete"' in journal.read_bytes())


def transfer_bytes(view: dict[str, Any]) -> int:
    steps = view["progress"]["steps"]
    total: int = next(step["total"] for step in steps if step["name"] == "transfer")
    return total


def sent_again(rig: Rig, down_before: int, view: dict[str, Any]) -> int:
    """What the proxy has seen beyond one copy of every chunk."""
    return rig.proxy.down_bytes - down_before - transfer_bytes(view)
