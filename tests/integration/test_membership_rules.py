"""Who may be let in, come back and be let go, by databases that know different things of the group.

The rules are those of the order of changes (R8 to R12); what each prevents is in its test.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from peersync.agent.periodic import expiring
from peersync.agent.periodic.hub import Hub
from peersync.agent.periodic.keeper import Keeper
from peersync.config.model import Periodic
from peersync.core.errors import Locked
from peersync.core.names import TableName
from peersync.core.order.plan import Reason
from peersync.postgres.log.apply import Applier
from peersync.postgres.log.baseline import baseline, refuse_to_sponsor
from peersync.postgres.log.members import found, read_members, read_replica
from peersync.postgres.log.membership import say_expire, say_leave, say_word
from peersync.postgres.log.prune import prune
from peersync.postgres.log.publish import beat
from peersync.wire.messages import JoinRequest
from tests.integration.apply_rig import Node, drain, make_group, stream
from tests.integration.replay_join import take_over
from tests.plugins.clusters import MakeDatabase

ITEM = "CREATE TABLE public.item (k text PRIMARY KEY, v text)"
ANEW, DELTA = 4_444, 5_555


@pytest.fixture
async def four(stack: AsyncExitStack, make_database: MakeDatabase) -> list[Node]:
    return await make_group(stack, *[make_database(18, migrated=True) for _ in range(4)], sql=ITEM)


@pytest.fixture
async def three(stack: AsyncExitStack, make_database: MakeDatabase) -> list[Node]:
    return await make_group(stack, *[make_database(18, migrated=True) for _ in range(3)], sql=ITEM)


async def take_in(sponsor: Node, node_id: str, origin: int) -> None:
    """What a full sync asks of a member when somebody joins; nobody is waited for."""
    async with (
        sponsor.database.connect("keeper", what="keeping a view") as keeper,
        baseline(
            sponsor.database,
            keeper,
            [TableName("public", "item")],
            node_id=node_id,
            join=JoinRequest(origin=origin, node_name="back"),
            lock_timeout_s=5,
            patience_s=0,
        ),
    ):
        pass


async def states(node: Node) -> dict[int, str]:
    return {m.origin: m.state for m in await read_members(node.conn)}


# --- coming back (R10, R11) -----------------------------------------------------------------
async def test_who_comes_back_waits_until_all_that_others_have_of_it_is_here(
    three: list[Node],
) -> None:
    """Else it makes again what another has, over what was written on top; and that one is stuck."""
    a, b, c = three
    await c.execute("INSERT INTO public.item VALUES ('k', 'of c')")
    await b.pull(c)
    await b.execute("UPDATE public.item SET v = 'b, on top of it'")
    with pytest.raises(Locked, match="b may have changes of it") as refused:
        await take_in(a, "c" * 32, ANEW)
    assert "members expire" in str(refused.value.hint)
    assert (await states(a))[c.origin] == "expired"

    await b.pull(a)
    with pytest.raises(Locked, match="b may have changes"):  # it knows, and has not told
        await take_in(a, "c" * 32, ANEW)
    await beat(b.conn)
    head, rows = await b.frame(a)
    applied = await a.applier.apply(head, stream(rows))
    assert applied.stopped is None
    assert await a.rows("SELECT v FROM public.item") == [("b, on top of it",)]
    await take_in(a, "c" * 32, ANEW)
    assert (await states(a))[ANEW] == "member"


async def test_with_two_members_who_comes_back_waits_for_nobody(three: list[Node]) -> None:
    a = three[0]
    await a.execute("DELETE FROM peersync.member WHERE node_name = 'b'")
    await take_in(a, "c" * 32, ANEW)
    assert (await states(a))[ANEW] == "member"


# --- joining (R7, R8) -----------------------------------------------------------------------
async def test_a_baseline_has_no_change_without_a_position_while_others_write(
    three: list[Node],
) -> None:
    """One that the rows have and the vector does not would come once more, and count twice (H7)."""
    a = three[0]
    await a.execute("INSERT INTO public.item VALUES ('k', 'v')")
    done = asyncio.Event()

    async def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            await a.execute("INSERT INTO public.item VALUES ($1, 'x')", str(number))

    async with asyncio.TaskGroup() as group:
        group.create_task(write(), name="writer")
        try:
            for origin in range(ANEW, ANEW + 5):
                assert await without_position(a, origin) == set()
        finally:
            done.set()


async def without_position(sponsor: Node, origin: int) -> set[str]:
    """The transactions that the view of a baseline shows and its vector does not have."""
    join = JoinRequest(origin=origin, node_name="new")
    tables = [TableName("public", "item")]
    async with (
        sponsor.database.connect("keeper", what="keeping a view") as keeper,
        baseline(
            sponsor.database, keeper, tables, node_id=f"{origin:032}", join=join, lock_timeout_s=5
        ) as taken,
    ):
        shown = await keeper.fetch("SELECT DISTINCT xid::text FROM peersync.change")
        placed = await sponsor.asks.fetch(
            "SELECT xid::text FROM peersync.transaction WHERE origin = $1 AND position <= $2",
            sponsor.origin,
            taken.vector[sponsor.origin],
        )
    assert shown
    return {row["xid"] for row in shown} - {row["xid"] for row in placed}


async def join(stack: AsyncExitStack, joiner: Node, sponsor: Node, origin: int) -> None:
    """Makes it a member by a baseline of the sponsor; nobody else knows it yet."""
    await joiner.execute("DELETE FROM peersync.member; DELETE FROM peersync.replica")
    group = (await read_replica(sponsor.conn)).group_id  # type: ignore[union-attr]
    await found(joiner.conn, "d" * 32, "d", group_id=group, state="joining")
    await joiner.execute("UPDATE peersync.replica SET origin = $1", origin)
    await joiner.execute("UPDATE peersync.member SET origin = $1", origin)
    joiner.origin = origin
    await take_over(
        sponsor.database, sponsor.database.resolved, joiner.database.resolved, origin, "d" * 32
    )
    joiner.applier = await stack.enter_async_context(Applier(joiner.database, origin))


async def test_who_has_just_joined_lets_nobody_join_and_keeps_what_it_wrote(
    four: list[Node], stack: AsyncExitStack
) -> None:
    """Were its sponsor expired before the others know, both would be cut off for ever (J2)."""
    a, b, c, d = four
    for node in (a, b, c):
        await node.execute("DELETE FROM peersync.member WHERE node_name = 'd'")
    await a.execute("UPDATE peersync.replica SET hlc = hlc + 3600000000")  # an hour ahead
    await join(stack, d, a, DELTA)
    clocks = [await node.rows("SELECT hlc FROM peersync.replica") for node in (a, d)]
    assert clocks[0] == clocks[1]  # what d writes is later than all that it got (H6)
    with pytest.raises(Locked, match="b, c has not told") as refused:
        await refuse_to_sponsor(d.conn, patience_s=0)
    assert "Join from a" in str(refused.value.hint)
    with pytest.raises(Locked, match="it has joined itself"):
        await take_in(d, "e" * 32, ANEW)
    await refuse_to_sponsor(a.conn, patience_s=0)

    # what its sponsor has may still be gone with it: all of it is kept, to be made again
    await d.execute("INSERT INTO public.item VALUES ('k', 'of d')")
    await drain(a, d)
    await beat(a.conn)
    await d.pull(a)
    assert (await prune(d.conn)).floors[DELTA] == 0
    assert (DELTA, 1) in await d.rows("SELECT origin, position FROM peersync.transaction")

    for node in (b, c):
        await node.pull(a)
        await beat(node.conn)
        await a.pull(node)
    with pytest.raises(Locked, match="b, c has not told"):  # they have, but not to d
        await refuse_to_sponsor(d.conn, patience_s=0)
    await d.pull(a)
    await refuse_to_sponsor(d.conn, patience_s=0)
    await take_in(d, "e" * 32, ANEW)


# --- expiry (R10) ---------------------------------------------------------------------------
async def test_of_an_expired_member_only_members_bring_changes(three: list[Node]) -> None:
    """What it writes after it was expired is not in anybody's count of what is here."""
    a, b, c = three
    await c.execute("INSERT INTO public.item VALUES ('k', 'before')")
    await b.pull(c)
    own = await c.frame(a)
    async with a.conn.transaction():
        await say_expire(a.conn, c.origin)
    refused = await a.applier.apply(own[0], stream(own[1]))
    assert refused.stopped is not None
    assert (refused.transactions, refused.stopped.reason) == (0, Reason.FENCED)
    assert (await a.pull(b)).transactions == 1
    assert await a.rows("SELECT v FROM public.item") == [("before",)]


async def test_after_a_good_bye_nothing_of_that_member_is_taken(three: list[Node]) -> None:
    a, b, c = three
    async with c.conn.transaction():
        await say_leave(c.conn, c.origin)
    await a.pull(c)
    await b.pull(a)
    await c.execute("INSERT INTO public.item VALUES ('k', 'after it')")
    for node in (a, b):
        assert (await states(node))[c.origin] == "left"
        refused = await node.pull(c)
        assert refused.stopped is not None
        assert refused.stopped.reason is Reason.UNKNOWN_ORIGIN
        assert await node.rows("SELECT v FROM public.item") == []


# --- a split (R12) --------------------------------------------------------------------------
def hub_of(node: Node, *, hears: list[Node]) -> Hub:
    hub = Hub("shop", node.database)
    hub.idle_at = 0.0  # it runs for long
    hub.proved_at = {other.origin: time.time() for other in hears}
    return hub


async def look(node: Node, hub: Hub) -> None:
    replica = await read_replica(node.conn)
    assert replica is not None
    if replica.state == "active":
        await expiring.answer(hub, node.conn, replica)


async def ask(node: Node, *missed: Node) -> None:
    for other in missed:
        async with node.conn.transaction():
            await say_word(node.conn, other.origin, asks=True)


async def settle(side: list[Node]) -> None:
    """One part of a split: it misses the other, and all that it says goes round in it."""
    hubs = [hub_of(node, hears=side) for node in side]
    for _ in range(3):
        for node, hub in zip(side, hubs, strict=True):
            await look(node, hub)
        await drain(*side)


async def counted(node: Node) -> set[int]:
    return {origin for origin, state in (await states(node)).items() if state == "member"}


@pytest.mark.parametrize("size", [3, 4])
async def test_two_parts_of_a_split_never_expire_each_other(
    stack: AsyncExitStack, make_database: MakeDatabase, size: int
) -> None:
    """Each part asks to expire the other: more than half have their way, two halves wait."""
    nodes = await make_group(
        stack, *[make_database(18, migrated=True) for _ in range(size)], sql=ITEM
    )
    large, small = nodes[: (size + 1) // 2], nodes[(size + 1) // 2 :]
    for side, other in ((large, small), (small, large)):
        await drain(*side)
        await ask(side[0], *other)
        await settle(side)
    everybody, most = {n.origin for n in nodes}, {n.origin for n in large}
    for node in small:
        assert await counted(node) == everybody
    for node in large:
        assert await counted(node) == (most if 2 * len(large) > size else everybody)

    # the network is back: nobody is expired by what was said meanwhile
    if 2 * len(large) == size:
        await drain(*nodes)
        await settle(nodes)
        for node in nodes:
            assert await counted(node) == everybody


async def test_a_member_away_too_long_is_asked_about_and_two_alone_decide_nothing(
    three: list[Node],
) -> None:
    """What `periodic.retention_d` sets off is a question, too."""
    a, b, c = three
    await a.execute("INSERT INTO public.item VALUES ('k', 'v')")
    await b.pull(a)
    await beat(b.conn)
    await a.pull(b)
    for members, asked in ((2, 0), (3, 1)):
        if members == 2:
            gone = "UPDATE peersync.member SET state = 'left' WHERE node_name = 'b'"
        else:
            gone = "UPDATE peersync.member SET state = 'member' WHERE node_name = 'b'"
        await a.execute(gone)
        replica = await read_replica(a.conn)
        assert replica is not None
        keeper = Keeper(hub_of(a, hears=[b]), Periodic(retention_d=1e-9))
        await keeper.look_who_is_late(a.conn, replica)
        await keeper.look_who_is_late(a.conn, replica)
        words = "SELECT count(*) FROM peersync.transaction WHERE kind = 'w'"
        assert await a.rows(words) == [(asked,)]
        assert (await states(a))[c.origin] == "member"


async def test_who_hears_a_member_gives_no_word_against_it(three: list[Node]) -> None:
    a, b, c = three
    await ask(a, c)
    await drain(a, b)
    for _ in range(2):
        await look(a, hub_of(a, hears=[b]))
        await look(b, hub_of(b, hears=[a, c]))
        await drain(a, b)
    assert (await states(a))[c.origin] == "member"
    await look(b, hub_of(b, hears=[a]))  # it misses it as well, from now on
    await drain(a, b)
    await look(a, hub_of(a, hears=[b, c]))  # but a hears it again
    assert (await states(a))[c.origin] == "member"
    await look(a, hub_of(a, hears=[b]))
    await drain(a, b)
    assert [(await states(node))[c.origin] for node in (a, b)] == ["expired", "expired"]
