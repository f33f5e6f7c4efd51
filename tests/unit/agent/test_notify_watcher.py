"""What is told of a node, from looks at it with a clock of the test's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from peersync.agent.notify.ended import Ended
from peersync.agent.notify.facts import disk, pairing
from peersync.agent.notify.watcher import Sources, Watcher
from peersync.agent.periodic.answers import LinkView
from peersync.agent.proof.view import ProofSummary
from peersync.agent.status_view import DatabaseStatus, LinkStatus, Status
from peersync.config.model import Config, Node
from peersync.config.orchestration import ALARMS, Channel, Notify
from peersync.core.errors import DatabaseUnreachable
from peersync.core.incidents import Fact, Notice

T0 = 1_700_000_000.0


def member(state: str = "in sync", peer: str = "server-b", **more: Any) -> LinkStatus:
    view = LinkView(database="shop", peer=peer, state=state, **more)
    return LinkStatus(
        database="shop", peer=peer, state=state, problem=view.problem, hint=view.hint, periodic=view
    )


def copied(state: str = "synced", **more: Any) -> LinkStatus:
    """A link without periodic sync, of which the last full sync counts."""
    last = "2023-11-14T22:00:00+00:00"
    return LinkStatus(database="shop", peer="server-b", state=state, last_sync=last, **more)


def a_status(*links: LinkStatus, **database: Any) -> Status:
    shop = DatabaseStatus(**{"name": "shop", "reachable": True, **database})
    return Status(
        node="server-a", version="0", sentence="", fine=True, databases=[shop], links=list(links),
        running=[], giving=[],
    )  # fmt: skip


class World:
    """A watcher whose node is what the test says. Time passes in looks of 15 seconds."""

    def __init__(self, home: Path, **limits: Any) -> None:
        self.home, self.limits = home, limits
        self.now = T0
        self.status: Status | Exception = a_status(member())
        self.contacts: dict[tuple[str, str], float] = {}
        self.kept: dict[str, tuple[str, str | None]] = {}
        self.pending: list[Fact] = []
        self.said: list[tuple[float, Notice]] = []

    async def start(self) -> None:
        async def status() -> Status:
            if isinstance(self.status, Exception):
                raise self.status
            return self.status

        async def kept() -> Mapping[str, tuple[str, str | None]]:
            return self.kept

        config = Config(
            node=Node(name="server-a", state_dir=str(self.home), spool_dir=str(self.home)),
            notify=Notify(**{"disk_free_mib": 0, **self.limits}),
            channel=(
                Channel(name="c", kind="webhook", url="http://x/", events=(*ALARMS, "completed")),
            ),
        )
        sources = Sources(status, lambda: self.contacts, kept, lambda: self.pending)
        self.watcher = Watcher(config, {}, sources, clock=lambda: self.now)
        await self.watcher.begin()

    async def passes(self, seconds: float, *, look_s: float = 15) -> list[Notice]:
        """What was said meanwhile."""
        before = len(self.said)
        for _ in range(int(seconds // look_s)):
            await self.watcher.look(self.now)
            for _ in range(3):
                await self.watcher.say(self.now)
                self._take()
                self.now += look_s / 3
        return [notice for _, notice in self.said[before:]]

    def _take(self) -> None:
        waiting = self.watcher.incidents.memory.channels["c"].waiting
        self.said += [(self.now, notice) for message in waiting for notice in message.notices]
        waiting.clear()


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.start()
    return world


def told(notices: list[Notice]) -> list[tuple[str, str]]:
    return [(n.kind, n.event) for n in notices]


async def test_a_node_that_is_well_says_nothing(world: World) -> None:
    assert await world.passes(3600, look_s=30) == []


@pytest.mark.parametrize("link", [member, copied], ids=["member", "copied"])
async def test_a_peer_that_stopped_is_noticed_within_15_minutes_with_the_defaults(
    world: World, link: Any
) -> None:
    world.status = a_status(link())
    assert await world.passes(600) == []
    stopped_at = world.now
    world.status = a_status(
        link("unreachable", problem="server-b did not answer", hint="start it again")
    )
    (notice,) = await world.passes(3600, look_s=30)
    (at, _) = world.said[0]
    assert at - stopped_at <= 15 * 60
    assert (notice.event, notice.peer, notice.database) == ("silent", "server-b", "shop")
    assert "changes of server-b since 2023-11-14" in notice.impact
    assert (notice.problem, notice.hint) == ("server-b did not answer", "start it again")
    world.status = a_status(link())
    (end,) = await world.passes(300)
    assert end.kind == "recovered"
    assert end.lasted_s == pytest.approx(world.now - 300 - stopped_at, abs=60)


async def test_a_peer_that_is_away_for_less_is_not_told_of(world: World) -> None:
    for _ in range(5):
        world.status = a_status(member("unreachable"))
        await world.passes(540)
        world.status = a_status(member())
        await world.passes(60)
    assert world.said == []


async def test_after_a_restart_a_silent_peer_is_told_of_once_and_its_end_too(
    world: World,
) -> None:
    await world.passes(60)
    world.status = a_status(member("unreachable"))
    for _ in range(5):  # an agent that is restarted again and again is not blind
        await world.passes(180)
        await world.start()
    await world.passes(600)
    assert told([n for _, n in world.said]) == [("opened", "silent")]
    await world.start()
    world.status = a_status(member())
    assert told(await world.passes(300)) == [("recovered", "silent")]


async def test_many_databases_with_one_silent_peer_are_one_notice(world: World) -> None:
    def links(state: str) -> Status:
        names = [f"d{i}" for i in range(40)]
        views = [LinkView(database=n, peer="server-b", state=state) for n in names]
        found = [
            LinkStatus(database=v.database, peer="server-b", state=state, periodic=v) for v in views
        ]
        return a_status(*found)

    world.status = links("in sync")
    await world.passes(60)
    world.status = links("unreachable")
    (notice,) = await world.passes(1800)
    assert notice.database is not None and notice.database.count(",") == 39


async def test_a_puller_that_gets_no_answer_is_silent_though_the_peer_is_there(
    world: World,
) -> None:
    world.contacts = {("shop", "server-b"): world.now}
    notices = await world.passes(900)
    assert told(notices) == [("opened", "silent")]
    assert "fetched" in notices[0].title


async def test_a_link_that_failed_and_is_unreachable_now_has_not_recovered(world: World) -> None:
    world.status = a_status(member("failed", problem="clock is off"))
    assert told(await world.passes(120)) == [("opened", "failed")]
    world.status = a_status(member("unreachable"))
    assert told(await world.passes(1200)) == [("opened", "silent")]
    world.status = a_status(member())
    ends = await world.passes(120)
    assert sorted(told(ends)) == [("recovered", "failed"), ("recovered", "silent")]


async def test_behind_is_told_after_behind_s_with_since_when_and_which_way(world: World) -> None:
    world.status = a_status(member("behind", lag_s=890.0))
    assert await world.passes(300) == []
    world.status = a_status(member("behind", lag_s=900.0, peer_lag_s=3.0))
    notices = await world.passes(120)
    assert told(notices) == [("opened", "behind")]
    assert "changes of server-b since" in notices[0].impact
    assert notices[0].since == pytest.approx(world.now - 120 - 900, abs=1)


async def test_a_link_that_is_paused_is_neither_behind_nor_silent(world: World) -> None:
    world.status = a_status(member("paused", peer_lag_s=1e6))
    assert await world.passes(7200, look_s=120) == []


@pytest.mark.parametrize(
    ("link", "event", "hint"),
    [
        (member("conflict", conflicts=2), "conflict", "peersync conflicts list --database shop"),
        (member("conflict", quarantined=1), "quarantine",
         "peersync quarantine list --database shop"),
        (member("conflict", parked_tables=1), "quarantine", "peersync tables list --database shop"),
        (copied("failed", hint="peersync jobs show 1"), "failed", "peersync jobs show 1"),
        (copied("partly", hint="peersync jobs show 1"), "partial", "peersync jobs show 1"),
    ],
    ids=["conflict", "quarantine", "parked", "failed", "partly"],
)  # fmt: skip
async def test_each_trouble_has_its_event_and_the_next_command(
    world: World, link: LinkStatus, event: str, hint: str
) -> None:
    world.status = a_status(link)
    (notice,) = await world.passes(120)
    assert (notice.event, notice.hint) == (event, hint)
    world.status = a_status(copied() if link.periodic is None else member())
    assert told(await world.passes(120)) == [("recovered", event)]


async def test_a_database_that_is_down_is_told_of_and_not_its_links(world: World) -> None:
    world.status = a_status(member("conflict", conflicts=1))
    await world.passes(120)
    down = LinkStatus(database="shop", peer="server-b", state="unknown")
    world.status = a_status(down, reachable=False, problem="connection refused")
    (notice,) = await world.passes(3600, look_s=30)
    assert (notice.event, notice.problem) == ("failed", "connection refused")
    world.status = a_status(member())
    ends = await world.passes(120)
    assert sorted(told(ends)) == [("recovered", "conflict"), ("recovered", "failed")]


async def test_a_state_that_cannot_be_read_is_told_of_even_when_that_is_a_bug(
    world: World,
) -> None:
    for trouble in (DatabaseUnreachable("shop is away"), ZeroDivisionError("a bug")):
        world.status = trouble
        assert told(await world.passes(120)) == [("opened", "failed")]
        world.status = a_status(member())
        assert told(await world.passes(120)) == [("recovered", "failed")]


async def test_an_expired_peer_is_told_of_once(world: World) -> None:
    world.status = a_status(member("failed"))
    await world.passes(120)
    world.status = a_status(member("expired", problem="server-b was expired"))
    assert told(await world.passes(86_400 * 2, look_s=900)) == [("opened", "retention")]


async def test_a_log_that_is_kept_for_long_is_a_retention_alarm(world: World) -> None:
    world.kept = {"shop": ("120 MiB, kept for server-b (12.0 d)", "start server-b again")}
    (notice,) = await world.passes(120)
    assert (notice.event, notice.hint) == ("retention", "start server-b again")
    world.kept = {}
    assert told(await world.passes(180)) == [("recovered", "retention")]


async def test_a_peer_that_was_removed_leaves_nothing_behind(world: World) -> None:
    world.status = a_status(member("unreachable"), member(peer="server-c"))
    await world.passes(1200)
    world.status = a_status(member(peer="server-c"))
    assert await world.passes(300) == []
    assert world.watcher.incidents.open() == []


async def test_a_disk_that_fills_is_told_of_until_there_is_some_more(tmp_path: Path) -> None:
    assert disk("spool_dir", "/x", 1024 << 20, 1024, T0) is None
    world = World(tmp_path, disk_free_mib=1 << 30)  # a petabyte is not there
    await world.start()
    (notice,) = await world.passes(120)
    assert (notice.event, notice.hint) == (
        "disk", "free some space, or set node.spool_dir to a larger disk",
    )  # fmt: skip
    assert str(tmp_path) in (notice.problem or "")


def an_end(outcome: Any, *, lasts: bool = True) -> Ended:
    return Ended(
        key="complete/shop", what="the complete sync of shop", outcome=outcome, lasts=lasts,
        hint="peersync complete-sync", database="shop", rows=3,
    )  # fmt: skip


async def test_a_scheduled_run_that_failed_lasts_until_one_goes_well(world: World) -> None:
    world.watcher.ended(an_end("failed"))
    assert told(await world.passes(3600, look_s=30)) == [("opened", "failed")]
    world.watcher.ended(an_end("partial"))
    assert await world.passes(3600, look_s=30) == []
    world.watcher.ended(an_end("good"))
    assert told(await world.passes(60)) == [("recovered", "failed"), ("happened", "completed")]


async def test_a_run_that_somebody_typed_is_told_of_once(world: World) -> None:
    world.watcher.ended(an_end("failed", lasts=False))
    assert told(await world.passes(86_400 * 2, look_s=900)) == [("happened", "failed")]


async def test_what_was_said_survives_a_damaged_file(world: World) -> None:
    (world.home / "notify.json").write_text("{")
    await world.start()
    world.status = a_status(member("failed"))
    assert told(await world.passes(60)) == [("opened", "failed")]


async def test_a_failed_run_of_what_is_gone_is_forgotten(world: World) -> None:
    world.watcher.ended(dataclasses.replace(an_end("failed"), database="gone"))
    world.watcher.ended(dataclasses.replace(an_end("failed"), key="set/old/server-b"))
    assert await world.passes(3600, look_s=30) == []
    assert world.watcher.incidents.open() == []


async def test_an_incident_that_nothing_will_end_can_be_dismissed(world: World) -> None:
    world.watcher.ended(an_end("failed"))
    assert told(await world.passes(60)) == [("opened", "failed")]
    assert await world.watcher.dismiss("complete/shop")
    assert not await world.watcher.dismiss("complete/shop")
    assert await world.passes(86_400 * 2, look_s=900) == []


async def test_a_peer_that_dies_behind_a_state_about_something_else_is_silent(
    world: World,
) -> None:
    world.status = a_status(copied("undone"))
    await world.passes(60)
    world.status = a_status(copied("undone", away=True))
    assert told(await world.passes(1800)) == [("opened", "silent")]


async def test_rows_that_a_verification_found_to_differ_are_said_until_one_finds_them_gone(
    world: World,
) -> None:
    since = "2023-11-14T22:00:00+00:00"
    proof = ProofSummary(checked_at=since, differs_since=since, differing=2)
    world.status = a_status(msgspec.structs.replace(member(), proof=proof))
    (notice,) = await world.passes(600)
    assert (notice.kind, notice.event, notice.problem) == (
        "opened",
        "difference",
        "2 tables differ",
    )
    assert notice.hint == "peersync verify server-b --database shop --rows"
    proved = ProofSummary(checked_at=since, proved_at=since)
    world.status = a_status(msgspec.structs.replace(member(), proof=proved))
    assert told(await world.passes(600)) == [("recovered", "difference")]


async def test_who_waits_to_be_a_peer_is_said_once(world: World) -> None:
    world.pending = [pairing("ab" * 32, "server-x", "abab-abab", "192.0.2.7", world.now)]
    (notice,) = await world.passes(86_400 * 2, look_s=900)
    assert (notice.kind, notice.event) == ("opened", "pairing")
    assert "abab-abab" in str(notice.problem)
    world.pending = []
    assert await world.passes(3600) == []
