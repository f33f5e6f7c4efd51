"""Many conflicts settled at once: what was counted is what is done, and what was done is told."""

from __future__ import annotations

from peersync.postgres.log.settling import Meant, settle_all
from tests.integration.operators_rig import connect, join_group, publish, put_conflict
from tests.plugins.clusters import MakeDatabase

OPEN = Meant(state="open")


async def test_what_comes_after_the_count_waits_and_what_was_done_before_a_failure_is_told(
    make_database: MakeDatabase,
) -> None:
    database = make_database(18, migrated=True)
    conn, other = await connect(database), await connect(database)
    try:
        await conn.execute("CREATE TABLE public.item (id int PRIMARY KEY, name text)")
        await conn.execute("INSERT INTO public.item SELECT g, 'kept' FROM generate_series(1, 4) g")
        own = (await join_group(conn)).origin
        await publish(conn)

        async def put(key: int) -> None:
            sides = f"({key},kept)", f"({key},in)"
            await put_conflict(conn, own, "item", f"({key})", *sides, winner="kept", state="open")

        for key in (1, 2, 3):
            await put(key)
        counted = await settle_all(
            conn, "shop", OPEN, "take", by="ann", limit=9, is_late=lambda: False, dry_run=True
        )
        await put(4)

        def is_cut() -> bool:
            conn.terminate()
            return False

        meant = Meant(state="open", before=counted.next)
        done = await settle_all(conn, "shop", meant, "take", by="ann", limit=9, is_late=is_cut)
        assert (done.matched, done.settled, done.left) == (counted.matched, 1, 2)
        rest = Meant(state="open", before=done.next)
        done = await settle_all(
            other, "shop", rest, "take", by="ann", limit=9, is_late=lambda: False
        )
        assert (done.settled, done.left, done.next) == (2, 0, None)
        names = await other.fetchval("SELECT string_agg(name, ' ' ORDER BY id) FROM public.item")
        assert names == "in in in kept"
    finally:
        await conn.close()
        await other.close()
