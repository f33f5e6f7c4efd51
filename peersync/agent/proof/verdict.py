"""What is said of one table in the end: its result, its numbers, and the notes beside them.

It comes after all looks. What differs as it is meant to is set aside here, and what could not be
decided is called in flight; nothing is compared any more, only rows are read again for people.
"""

from __future__ import annotations

from typing import Final

import asyncpg
import msgspec

from peersync.agent.proof.matched import Unsettled
from peersync.agent.proof.oneway import Aside, Directions, set_aside
from peersync.agent.proof.pairs import Comparable, NotCompared
from peersync.agent.proof.rows import key_views
from peersync.agent.proof.view import KeyView, TableProof, TableResultName, VerifyRequest
from peersync.core.errors import (
    DatabaseUnreachable,
    Denied,
    PeersyncError,
    PeerUnreachable,
    ProtocolError,
)
from peersync.core.words import counted
from peersync.postgres.errors import TRANSLATED, translate

_ENDS_ALL: Final = (PeerUnreachable, ProtocolError, Denied, DatabaseUnreachable)


class Looked:
    """A table after its first look, until it is decided. seconds: how long that took."""

    def __init__(self, one: Comparable, unsettled: Unsettled, seconds: float) -> None:
        self.one = one
        self.unsettled = unsettled
        self.seconds = seconds

    @property
    def is_open(self) -> bool:
        """More differed than was kept, and none of what was kept does any more."""
        return self.unsettled.look.more and not self.unsettled.drift

    @property
    def miscounted(self) -> bool:
        """The numbers of rows differ, and nothing that was found says why."""
        look, none_found = self.unsettled.look, not self.unsettled.in_flight
        return none_found and not self.one.filtered and look.rows_there != look.rows_here


class Judge:
    """`decide` for each table of one verification with `peer`."""

    def __init__(
        self, conn: asyncpg.Connection, peer: str, directions: Directions, wanted: VerifyRequest
    ) -> None:
        self._conn = conn
        self._peer = peer
        self._directions = directions
        self._wanted = wanted

    async def decide(self, looked: Looked) -> TableProof:
        """Its verdict. Raises only what ends the whole verification."""
        one, unsettled = looked.one, looked.unsettled
        look, notes = unsettled.look, list(one.notes)
        if looked.is_open:
            _leave_open(unsettled)
        matched = max(0, look.rows_there - look.missing - look.different)
        aside = await self._set_aside(unsettled, notes)
        if one.filtered and look.extra:
            notes.append(_drop_extra(unsettled))
        keys = await self._keys(unsettled, notes)
        return proof_of(
            one,
            _result(looked, aside, notes),
            rows_there=look.rows_there,
            rows_here=look.rows_here,
            matched=matched,
            different=look.different,
            missing=look.missing,
            extra=look.extra,
            in_flight=unsettled.in_flight,
            one_way=aside.rows,
            exact=not look.more,
            kept_at=look.kept_at,
            notes=tuple(notes),
            seconds=looked.seconds,
            keys=keys,
        )

    async def _set_aside(self, unsettled: Unsettled, notes: list[str]) -> Aside:
        aside = Aside()
        try:
            aside = await set_aside(self._conn, unsettled, self._directions, self._peer)
        except (PeersyncError, *TRANSLATED) as exc:
            why = error_of_table(exc, self._conn).message
            notes.append(f"what is kept back could not be read: {why}")
        notes += aside.notes
        return aside

    async def _keys(self, unsettled: Unsettled, notes: list[str]) -> tuple[KeyView, ...]:
        wanted = self._wanted
        try:
            return await key_views(
                self._conn,
                unsettled,
                wanted.keys,
                fields=wanted.rows or wanted.values,
                values=wanted.values,
            )
        except (PeersyncError, *TRANSLATED) as exc:
            why = error_of_table(exc, self._conn).message
            notes.append(f"the rows could not be read again: {why}")
            return ()


def _leave_open(unsettled: Unsettled) -> None:
    """What was not kept is no more decided than what was."""
    look = unsettled.look
    unsettled.changing += look.differing
    unsettled.in_flight += look.differing
    look.missing = look.extra = look.different = 0


def _drop_extra(unsettled: Unsettled) -> str:
    """Rows that are only here say nothing; gives the note of them."""
    extra, unsettled.look.extra = unsettled.look.extra, 0
    unsettled.drift = {k: pair for k, pair in unsettled.drift.items() if pair[0] is not None}
    return f"{counted(extra, 'row')} {'is' if extra == 1 else 'are'} only here"


def _result(looked: Looked, aside: Aside, notes: list[str]) -> TableResultName:
    if looked.unsettled.look.differing:
        return "differs"
    if looked.unsettled.changing:
        return "in flight"
    if looked.miscounted and not aside.rows:
        notes.append("the two sides have not as many rows, and none was found to differ")
        return "in flight"
    return "partly" if looked.one.partly else "equal"


def proof_of(one: Comparable, result: TableResultName, **given: object) -> TableProof:
    """The keyword arguments are further fields of it."""
    proof = TableProof(
        schema=one.table.schema,
        name=one.table.name,
        result=result,
        key_columns=one.shape.key,
        notes=one.notes,
    )
    return msgspec.structs.replace(proof, **given)


def proof_of_left(one: NotCompared) -> TableProof:
    schema, _, name = one.name.partition(".")
    return TableProof(
        schema=schema, name=name, result="not compared", reason=one.reason, intended=one.intended
    )


def error_of_table(exc: Exception, conn: asyncpg.Connection) -> PeersyncError:
    """The error of one table; one that ends the whole verification is raised."""
    error = exc if isinstance(exc, PeersyncError) else translate(exc, what="comparing rows")
    if isinstance(error, _ENDS_ALL) or conn.is_closed():
        raise error from exc
    return error
