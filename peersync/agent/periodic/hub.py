"""What the parts of one database's periodic sync tell each other, in memory.

Owns nothing that a restart may not forget: the news that wakes long polls, what each link saw
last, and which vector each member was last heard to have applied. Positions that matter are
read from the database.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from peersync.agent.periodic.news import News
from peersync.agent.periodic.restart import Failures
from peersync.agent.systemd import Pulse
from peersync.core.errors import PeersyncError
from peersync.core.patterns import Patterns
from peersync.postgres.log.members import Member, Replica, Vector, set_state
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries
from peersync.wire.feed import FeedHead

_SQL: Final = queries("links")


LAGS_KEPT: Final = 4096  # between two looks of who counts them; the oldest go first


@dataclass
class Counts:
    """What came from one peer since the agent started; it outlives pauses of the link.

    raw_bytes: rows as they were unpacked. wire_bytes: what the network carried for them,
    questions that had nothing for an answer included, HTTP and TLS not. lags: (seconds from
    the last change there to commit here, how many transactions that stands for).
    """

    peer: str = ""
    transactions: int = 0
    changes: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    conflicts: int = 0
    quarantined: int = 0
    errors: int = 0
    lags: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=LAGS_KEPT))
    behind_since: float | None = None  # it has not all that the peer has, or fails; monotonic
    behind_s: float = 0.0  # for so long altogether, up to `behind_since`

    def fell_behind(self) -> None:
        if self.behind_since is None:
            self.behind_since = time.monotonic()

    def caught_up(self) -> None:
        if self.behind_since is not None:
            self.behind_s += time.monotonic() - self.behind_since
            self.behind_since = None

    @property
    def behind_now_s(self) -> float:
        """For how long it has been so by now; 0 where it is in step."""
        return time.monotonic() - self.behind_since if self.behind_since is not None else 0.0


@dataclass
class Link:
    """What the puller of one link saw last. Times are of time.time()."""

    peer: str
    node_id: str
    origin: int
    trouble: Failures
    rows: bool = True  # False: this database only gives, and takes positions alone
    contact_at: float | None = None
    offset_s: float | None = None
    applying: bool = False
    poke: News = field(default_factory=News)
    counts: Counts = field(default_factory=Counts)

    @property
    def transactions(self) -> int:
        return self.counts.transactions

    @property
    def changes(self) -> int:
        return self.counts.changes

    @property
    def raw_bytes(self) -> int:
        return self.counts.raw_bytes

    @property
    def wire_bytes(self) -> int:
        return self.counts.wire_bytes


@dataclass(frozen=True)
class Backlog:
    """What a log holds above a vector. `oldest`: seconds since 1970; None for nothing.

    size_bytes: of keys and rows as text, before compression; what travels is less.
    """

    transactions: int = 0
    changes: int = 0
    oldest: float | None = None
    size_bytes: int = 0


NOTHING: Final = Backlog()


@dataclass
class Hub:
    """One database. `database` is for short uses of many, with a pool of its own."""

    name: str
    database: Database
    announces: bool = False  # another process of this node serves the peers: it has to be woken
    news: News = field(default_factory=News)
    links: dict[str, Link] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)  # by node, as links are
    proved: dict[int, Vector] = field(default_factory=dict)  # by origin: what it has applied
    proved_at: dict[int, float] = field(default_factory=dict)  # by origin: when it last said so
    heard: Vector = field(default_factory=dict)  # by other origin: its last change applied here
    late: dict[int, float] = field(default_factory=dict)  # by origin: kept for it too long, seconds
    troubles: list[Failures] = field(default_factory=list)  # of publisher and keeper
    idle_at: float = field(default_factory=time.time)  # when it was last seen to take no part
    recheck: News = field(default_factory=News)  # members, pauses or the state have changed
    patterns: Patterns = field(default_factory=lambda: Patterns(("*",)))  # of the configuration
    capturing: asyncio.Lock = field(default_factory=asyncio.Lock)
    stamp: str | None = None  # of the catalogue, when the tables were last looked at
    pulse: Pulse = field(init=False)  # of the loop that looks after all of this
    capture_at: float = 0.0  # when they are looked at again in any case, of time.monotonic()
    capture_busy: int = 0  # looks in a row that found a table locked

    def __post_init__(self) -> None:
        self.pulse = Pulse(f"the periodic sync of {self.name}")

    async def tell(self, conn: asyncpg.Connection) -> None:
        """Something was published or applied: wakes everybody who waits for that."""
        self.news.tell()
        if self.announces:
            await conn.execute(_SQL["announce"])

    def prove(self, origin: int, vector: Mapping[int, int]) -> None:
        """A member has told, of its own, what it has applied."""
        self.proved[origin] = dict(vector)
        self.proved_at[origin] = time.time()

    def note_heard(self, head: FeedHead, vector: Mapping[int, int]) -> None:
        """What was applied of a frame; heartbeats need no answer (R5)."""
        for t in head.transactions:
            if t.kind != "b" and t.position <= vector.get(t.origin, 0):
                self.heard[t.origin] = max(t.position, self.heard.get(t.origin, 0))

    @property
    def failure(self) -> PeersyncError | None:
        """Why this database's own part does not run, if so."""
        return next((t.error for t in self.troubles if t.error is not None), None)


def covers(vector: Mapping[int, int], wanted: Mapping[int, int]) -> bool:
    """Whether everything of `wanted` is in `vector`."""
    return all(vector.get(origin, 0) >= position for origin, position in wanted.items())


def in_group(vector: Mapping[int, int], members: list[Member]) -> Vector:
    """The vector without origins that have left: nobody waits for their last words."""
    counted = {m.origin for m in members if m.counts}
    return {o: p for o, p in vector.items() if o in counted}


async def read_backlog(conn: asyncpg.Connection, mine: Vector, theirs: Vector) -> Backlog:
    """What is in the log here and not in `theirs`."""
    ahead = {o: theirs.get(o, 0) for o, p in mine.items() if p > theirs.get(o, 0)}
    if not ahead:
        return Backlog()
    return Backlog(**await conn.fetchrow(_SQL["backlog"], [*ahead], [*ahead.values()]))


async def hold(conn: asyncpg.Connection, peer: str, theirs: int, replica: Replica) -> str:
    """This database neither publishes nor applies from now on (R13); the reason, for people.

    `theirs`: how many of its transactions the peer has, more than there are. Its numbers prove
    nothing any more, because the peer's may be of other transactions: that is noted, too.
    """
    reason = (
        f"{peer} has {theirs} of its transactions, it has {replica.position}: it was set back,"
        " or is a copy of a server that still runs (then type on the copy, before all else:"
        " peersync node reset-identity)"
    )
    async with conn.transaction():
        await conn.execute(_SQL["contradicted"], replica.origin)
        await set_state(conn, "held", f"this database is older than its own history: {reason}")
    return reason
