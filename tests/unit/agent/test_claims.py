"""What a peer tells of its progress is bounded and clean before it is kept and shown."""

from __future__ import annotations

from peersync.agent.claims import checked_progress
from peersync.core.progress import Progress
from peersync.core.tables import SHOWN, TableProgress, TablesProgress


def test_what_a_peer_says_of_its_tables_is_made_fit() -> None:
    liar = TableProgress(
        schema="public", name="a\x1b[2Jb", state="exploded", rows=-5, bytes=1 << 80, bytes_total=-1
    )
    told = Progress(
        session="0" * 32,
        action="pull",
        database="shop",
        source="a",
        target="b",
        state="running",
        tables=TablesProgress(
            total=-1, waiting=1, active=0, done=0, failed=1 << 70, shown=(liar,) * (SHOWN + 10)
        ),
        cancelled_by="x\x00" * 2000,
    )
    kept = checked_progress(
        told, session="1" * 32, action="pull", database="shop", source="a", target="b"
    )
    assert kept.tables is not None
    assert (kept.tables.total, kept.tables.failed) == (0, 1 << 60)
    assert len(kept.tables.shown) == SHOWN
    one = kept.tables.shown[0]
    assert (one.name, one.state, one.rows, one.bytes_total) == ("a\ufffd[2Jb", "waiting", 0, 0)
    assert one.bytes == 1 << 60
    assert kept.cancelled_by is not None
    assert len(kept.cancelled_by) <= 1000
    assert "\x00" not in kept.cancelled_by
