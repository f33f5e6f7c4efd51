"""Applies what a peer's feed brings: whole transactions, once, in an order that cannot mislead.

Owns the connection of a link that writes, and the way from a frame to runs. A run is one local
transaction (`apply_run`), so a frame that breaks off has applied whole runs or nothing of them.
No status is inferred from an exception: whoever called reads the vector again.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import asyncpg

from peersync.core.errors import DatabaseError, PeersyncError, ProtocolError, RowsLocked
from peersync.core.names import TableName
from peersync.core.order.change import Transaction
from peersync.core.order.plan import Plan, Run, Stop, plan_runs
from peersync.postgres.errors import DRIVERS, translate
from peersync.postgres.log.apply_parked import Resumed, resume
from peersync.postgres.log.apply_run import Fill, Overtaken, apply_run
from peersync.postgres.log.apply_session import Session
from peersync.postgres.log.apply_settle import Outcome
from peersync.postgres.log.members import Member, decode_vector
from peersync.postgres.log.parking import parked_tables
from peersync.postgres.log.rows import ShapeLike
from peersync.postgres.log.staging import FRAME, copy_in, take_from_frame
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries
from peersync.wire.feed import FeedHead

_TARGETS: Final = queries("apply")["targets"]
_HOLDERS: Final = queries("catalog")["lock_holders"]
_BROKEN: Final = (*DRIVERS, ConnectionError)
_IN_THE_WAY: Final = ("40001", "40P01", "55P03")
_MODES: Final = [
    f"{mode}Lock"
    for mode in ("RowExclusive", "Share", "ShareRowExclusive", "Exclusive", "AccessExclusive")
]


@dataclass(frozen=True)
class Applied:
    """What became of a frame. `stopped`: the first transaction that must wait, and why.

    `vector` is read afterwards. `parked`: tables whose changes were put aside.
    """

    transactions: int
    changes: int
    conflicts: int
    quarantined: int
    vector: dict[int, int]
    stopped: Stop | None = None
    parked: frozenset[TableName] = frozenset()


@dataclass
class _Counts:
    transactions: int = 0
    changes: int = 0
    conflicts: int = 0
    quarantined: int = 0
    parked: set[TableName] = field(default_factory=set)

    def add(self, run: Run, outcome: Outcome) -> None:
        self.transactions += len(run.transactions)
        self.changes += run.changes
        self.conflicts += outcome.conflicts
        self.quarantined += outcome.quarantined
        self.parked |= outcome.parked


class Applier:
    """Applies frames into one database, one after another, on a connection of its own.

    An async context manager. After any failure the connection is dropped, and opened anew when
    next needed. Two of them may work on one database, also on transactions of the same origin.
    """

    def __init__(self, database: Database, origin: int, *, lock_timeout_s: float = 30.0) -> None:
        self._database = database
        self._origin = origin
        self._lock_timeout_s = lock_timeout_s
        self._stack = AsyncExitStack()
        self._session: Session | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._drop()
        await self._close()

    async def apply(self, head: FeedHead, rows: AsyncIterable[bytes]) -> Applied:
        """Applies what may be applied now of a frame; `rows` must raise where it is not whole.

        Raises RowsLocked (retryable), ProtocolError, and what `postgres.errors` makes of the
        driver's. Transactions that must wait are no error: see `stopped`.
        """
        try:
            return await self._apply(await self._opened(), head, rows)
        except _BROKEN as error:
            self._drop()
            raise await self._translated(error, head) from error
        except BaseException:
            self._drop()
            raise

    async def resume_parked(self) -> list[Resumed]:
        """Applies what waits for tables that fit by now; the others' reason is said anew."""
        try:
            session = await self._opened()
            await self._refuse_unless_active(session)
            parked = await parked_tables(session.conn)
            return [done for table in parked if (done := await resume(session, table)) is not None]
        except _BROKEN as error:
            self._drop()
            raise translate(error, what="applying the waiting changes of a table") from error
        except BaseException:
            self._drop()
            raise

    # --- a frame ------------------------------------------------------------------------
    async def _apply(self, session: Session, head: FeedHead, rows: AsyncIterable[bytes]) -> Applied:
        plan = await self._plan(session, head)
        shapes: dict[int, ShapeLike] = {shape.shape: shape for shape in head.shapes}
        heads = {(t.origin, t.position): t for t in head.transactions}
        await session.learn(shapes.values())
        counts = _Counts()
        try:
            for run, fill in await self._filled(session, head, plan, rows):
                counts.add(run, await apply_run(session, run, heads, shapes, fill))
        except Overtaken:
            pass  # somebody else applies the same origin: the next frame begins behind them
        return Applied(
            counts.transactions,
            counts.changes,
            counts.conflicts,
            counts.quarantined,
            await session.vector(),
            plan.stopped,
            frozenset(counts.parked),
        )

    async def _plan(self, session: Session, head: FeedHead) -> Plan:
        await self._refuse_unless_active(session)
        members = list(map(member_of, await session.fetch("members")))
        return plan_runs(
            transactions_of(head),
            {member.origin: member.applied for member in members},
            own_origin=self._origin,
            members=[m.origin for m in members if m.counts or m.state == "expired"],
            fenced=_fenced(members, head.origin),
        )

    async def _refuse_unless_active(self, session: Session) -> None:
        replica = next(iter(await session.fetch("replica")), None)
        if replica is None or (replica["origin"], replica["state"]) != (self._origin, "active"):
            state = "no member of a group" if replica is None else f"{replica['state']}"
            raise DatabaseError(
                f"database {self._database.name} applies nothing now: it is {state}",
                detail=replica["reason"] if replica else None,
            )
        session.direction = replica["direction"]

    @staticmethod
    async def _filled(
        session: Session, head: FeedHead, plan: Plan, rows: AsyncIterable[bytes]
    ) -> list[tuple[Run, Fill]]:
        """Each run with what stages its changes: a lone run's come straight from the wire."""
        conn = session.conn
        full = [run for run in plan.runs if run.changes]
        if len(full) == 1 and full[0].changes == head.changes:
            return [
                (run, _from_wire(conn, rows) if run is full[0] else _nothing) for run in plan.runs
            ]
        if full:
            await conn.execute(f"TRUNCATE {FRAME}")
            if await copy_in(conn, FRAME, rows) != head.changes:
                raise ProtocolError("a peer sent another number of changes than it announced")
        else:
            await _drain(rows)
        return [(run, _from_frame(conn, run) if run.changes else _nothing) for run in plan.runs]

    # --- the connection -----------------------------------------------------------------
    async def _opened(self) -> Session:
        if self._session is None or self._session.conn.is_closed():
            await self._close()
            self._session = await Session.open(
                self._stack, self._database, self._origin, self._lock_timeout_s
            )
        return self._session

    def _drop(self) -> None:
        """The server rolls back; what a cancelled statement left on the line goes with it."""
        if self._session is not None:
            self._session.conn.terminate()

    async def _close(self) -> None:
        stack, self._stack, self._session = self._stack, AsyncExitStack(), None
        await stack.aclose()

    async def _translated(self, error: BaseException, head: FeedHead) -> Exception:
        what = "applying changes of a peer"
        found = translate(error, what=what)
        if getattr(error, "sqlstate", None) not in _IN_THE_WAY:
            return found
        holder = await self._holder(head)
        return RowsLocked(
            f"{what}: {holder or 'another transaction'} is in the way; it is tried again",
            detail=found.detail,
            hint="a transaction that stays open for long holds all changes of its rows back",
            holder=holder,
            **found.data,
        )

    async def _holder(self, head: FeedHead) -> str | None:
        """The oldest open transaction that writes into a table of this frame."""
        names = [(s.schema, s.table) for s in head.shapes]
        with suppress(PeersyncError):  # it only makes another error's words better
            async with self._database.acquire("looking who is in the way") as conn:
                schemas, tables = [n[0] for n in names], [n[1] for n in names]
                targets = await conn.fetch(_TARGETS, schemas, tables)
                oids = [row["oid"] for row in targets if row["oid"]]
                rows = await conn.fetch(_HOLDERS, oids, _MODES)
                if rows:
                    row: Mapping[str, Any] = rows[0]
                    return (
                        f"{row['application_name'] or 'a session'} (process {row['pid']}, user "
                        f"{row['usename']}, {row['state']}, since {row['since']} UTC)"
                    )
        return None


def transactions_of(head: FeedHead) -> list[Transaction]:
    """The heads of a frame as the core knows them, each with all that it had seen."""
    return [
        Transaction(
            t.origin,
            t.position,
            t.hlc,
            t.kind,
            t.changes,
            seen,
            None if t.info is None else _subject(t.info),
        )
        for t, seen in zip(head.transactions, head.seens, strict=True)
    ]


def member_of(row: Any) -> Member:
    return Member(**{**row, "seen": decode_vector(row["seen"])})


def _subject(info: Mapping[str, Any]) -> int | None:
    subject = info.get("origin")
    return subject if isinstance(subject, int) else None


def _fenced(members: list[Member], sender: int) -> list[int]:
    """Origins that this sender may not bring: the expired ones, unless it is a member (R10)."""
    if any(member.origin == sender and member.counts for member in members):
        return []
    return [member.origin for member in members if member.state == "expired"]


def _from_wire(conn: asyncpg.Connection, rows: AsyncIterable[bytes]) -> Fill:
    async def fill() -> int:
        return await copy_in(conn, "peersync_in", rows)

    return fill


def _from_frame(conn: asyncpg.Connection, run: Run) -> Fill:
    async def fill() -> int:
        return await take_from_frame(conn, run.origin, run.first, run.last)

    return fill


async def _nothing() -> int:
    return 0


async def _drain(rows: AsyncIterable[bytes]) -> None:
    """To the end, which proves that the frame was whole, also where nothing of it is needed."""
    async for _ in rows:
        pass
