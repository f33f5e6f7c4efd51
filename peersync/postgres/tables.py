"""Writes tables that belong together, inside a transaction of the caller, and says how it went.

A unit is usually one table. Where tables refer to each other in a circle, or to columns that
an upsert may change, what has to be left out is only known once it has been tried: the unit
is written in a savepoint, looked at, and written anew without the rows that broke something,
until nothing does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from msgspec.structs import replace

from peersync.core.names import TableName
from peersync.core.results import TableResult
from peersync.postgres import orphans
from peersync.postgres.aside import Aside
from peersync.postgres.bulk import Stop
from peersync.postgres.compared import few_rows
from peersync.postgres.foreign_keys import ForeignKey, Unit, is_blind
from peersync.postgres.load import TableLoad
from peersync.postgres.verify import count_changed, verify_count, verify_table
from peersync.postgres.write import REFUSALS, Outcome, fires_words, refusal_words, upsert, words

_ROUNDS = 20


@dataclass
class TableWork:
    """One table on its way. `error` with `failed`: it is as it was; without: partly."""

    load: TableLoad
    aside: Aside
    outcome: Outcome = field(default_factory=Outcome)
    failed: bool = False
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    target_only: int | None = None
    partial: bool = False  # the source keeps some of its rows to itself
    deleted: int = 0
    retained: int = 0  # rows only here that a mirror has to leave
    retained_by: Sequence[str] = ()  # why, in words
    dropped: int = 0  # rows that a trigger or a rule here did not let in
    disturbed: bool = False  # rows are not what was staged, and nobody wants to fail for it

    def fail(self, error: str) -> None:
        self.failed, self.error = True, error

    @property
    def complete(self) -> bool:
        """Whether the table has every row that the source has of it."""
        lost = self.outcome.absent or self.dropped or self.aside.rows or self.aside.kept_local
        return not (self.failed or lost or self.partial)

    def result(self) -> TableResult:
        load, outcome, aside = self.load, self.outcome, self.aside
        result = TableResult(
            schema=load.table.name.schema,
            name=load.table.name.name,
            result="done",
            source=load.source_rows,
            way="delta" if load.compared else "full",
            way_reason=load.way_reason,
            blocks=load.compared.blocks if load.compared else None,
            differing_blocks=load.compared.differing if load.compared else None,
            raw_bytes=load.raw_bytes,
            created=load.created,
        )
        if self.failed:
            return replace(result, result="failed", error=self.error)
        if load.created:
            return replace(result, inserted=load.rows, target_only=0)
        skipped = aside.rows + outcome.absent + self.dropped
        error = "\n".join(filter(None, (outcome.error, self.error))) or None
        notes = [*aside.words, *filter(None, [outcome.note]), *self.notes, *self.retained_by]
        partly = skipped or self.error or self.retained or self.disturbed
        written = outcome.inserted + outcome.updated
        return replace(
            result,
            result="partly" if partly else "done",
            inserted=outcome.inserted,
            updated=outcome.updated,
            unchanged=max(0, load.source_rows - written - skipped - aside.kept_staged),
            skipped=skipped,
            target_only=self.target_only,
            deleted=self.deleted,
            kept_local=aside.kept_local,
            note="; ".join(notes) or None,
            error=error,
        )


class TableWriter:
    """Writes one unit after the other. `complete` are the tables that have all their rows."""

    def __init__(
        self,
        connection: psycopg.Connection,
        stop: Stop,
        *,
        replica_role: bool,
        keep: Mapping[TableName, Sequence[tuple[str, ...]]],
        partial: Collection[TableName] = (),
        make_room: Callable[[Unit, Sequence[TableWork]], None] | None = None,
    ) -> None:
        """`make_room` deletes rows that are only here, when such rows may be in the way."""
        self.complete: set[int] = set()
        self._connection = connection
        self._stop = stop
        self._replica_role = replica_role
        self.keep = keep
        self._partial = partial
        self._make_room = make_room

    def write(self, unit: Unit) -> list[TableWork]:
        """Never raises for what one table refuses: its work then says that it failed."""
        works = {load.table.oid: self.begin(load) for load in unit.loads}
        for work in works.values():
            self._leave_out_before(unit, work)
        cramped = self._make_room is not None
        for _ in range(_ROUNDS):
            if unit.entangled and any(not w.complete for w in works.values()):
                self._leave_out_among(unit, works)
            before = {oid: work.aside.counts() for oid, work in works.items()}
            with self._connection.transaction():
                for work in works.values():
                    self._write(work)
                amends = self._amends(unit, works) if unit.entangled else []
                if cramped and any(work.outcome.skipped for work in works.values()):
                    amends, cramped = [lambda: self._clear(unit, works)], False
                if amends:
                    raise psycopg.Rollback
            if not amends:
                break
            for oid, work in works.items():
                work.aside.back_to(before[oid])
                work.outcome = Outcome()
            for amend in amends:
                amend()
        else:
            self._give_up(works)
        self.complete |= {oid for oid, work in works.items() if work.complete}
        return list(works.values())

    def begin(self, load: TableLoad) -> TableWork:
        work = TableWork(load, Aside(self._connection, load.merge))
        work.partial = load.table.name in self._partial
        if load.error is not None:
            work.fail(words(load.error))
        elif not load.loaded:
            work.fail("the backup does not have its rows")
        return work

    def _trying(self, work: TableWork, step: Callable[[], object]) -> None:
        """Does something for one table in a savepoint; a refusal is the table's failure."""
        if work.failed or work.load.created:
            return
        self._stop.check()
        before = work.aside.counts()
        try:
            with self._connection.transaction():
                step()
        except REFUSALS as exc:
            work.aside.back_to(before)
            work.outcome = Outcome()
            work.fail(refusal_words(exc, work.load, replica_role=self._replica_role))

    def _leave_out_before(self, unit: Unit, work: TableWork) -> None:
        """Unsent changes of ours, and what refers to rows of tables outside that are missing."""
        keep = self.keep.get(work.load.table.name, ())
        if keep:
            self._trying(work, lambda: work.aside.keep(keep))
        oid = work.load.table.oid
        within = {load.table.oid for load in unit.loads}
        keys = orphans.incomplete(unit.keys, oid, self.complete | within)
        if keys:
            self._trying(work, lambda: orphans.leave_out_orphans(work.aside, work.load, keys))

    def _leave_out_among(self, unit: Unit, works: Mapping[int, TableWork]) -> None:
        """What refers to rows of the unit that are neither here nor staged any more."""
        stages = {o: w.load.stage.sql for o, w in works.items() if not w.failed}
        number = 1
        while number:
            number = 0
            for oid, work in works.items():
                keys = [k for k in unit.keys if k.child == oid and k.parents & works.keys()]
                before = work.aside.rows
                self._trying(
                    work,
                    lambda w=work, k=keys: orphans.leave_out_orphans(  # type: ignore[misc]
                        w.aside, w.load, k, stages
                    ),
                )
                number += work.aside.rows - before

    def _clear(self, unit: Unit, works: Mapping[int, TableWork]) -> None:
        if self._make_room is not None:
            self._make_room(unit, list(works.values()))

    def _write(self, work: TableWork) -> None:
        def step() -> None:
            with few_rows(self._connection, work.load):
                work.outcome = upsert(
                    self._connection, work.load, work.aside, replica_role=self._replica_role
                )

        self._trying(work, step)

    def _amends(self, unit: Unit, works: Mapping[int, TableWork]) -> list[Callable[[], object]]:
        """What must be done before the next round: nothing, if no foreign key is broken."""
        failed = [w for w in works.values() if w.failed]
        amends: list[Callable[[], object]] = []
        partial = bool(failed) or any(not w.complete for w in works.values())
        for key in unit.keys:
            work = works.get(key.child)
            if work is None or work.failed or work.load.created:
                continue
            if is_blind(key, work.load) or (partial and key.parents & works.keys()):
                amends += self._orphans_of(work, key)
        if amends or not self._replica_role:
            return amends
        updated = {o: w.load for o, w in works.items() if not w.failed and w.outcome.updated}
        for oid, error in orphans.moved_away(self._connection, unit.keys, updated).items():
            amends.append(lambda w=works[oid], e=error: w.fail(e))  # type: ignore[misc]
        return amends

    def _orphans_of(self, work: TableWork, key: ForeignKey) -> list[Callable[[], object]]:
        try:
            with self._connection.transaction():
                places = orphans.find_orphans(self._connection, work.load, key)
        except REFUSALS as exc:
            error = refusal_words(exc, work.load, replica_role=self._replica_role)
            return [lambda: work.fail(error)]
        return [lambda: work.aside.put(places, orphans.reason(key))] if places else []

    def _give_up(self, works: Mapping[int, TableWork]) -> None:
        names = ", ".join(str(work.load.table.name) for work in works.values())
        for work in works.values():
            if not work.failed:
                work.fail(f"no part of the rows of {names} was found that fits together")

    # --- what was written -----------------------------------------------------------------
    def verify(self, work: TableWork, *, verify: bool) -> None:
        """Counts what is only here, or says what a trigger did. Raises VerifyFailed."""
        load = work.load
        if work.failed:
            return
        if load.created:
            if verify:
                verify_count(self._connection, load)
        elif verify:
            with few_rows(self._connection, load):
                work.target_only = verify_table(
                    self._connection,
                    load,
                    work.outcome,
                    work.aside,
                    replica_role=self._replica_role,
                )
        elif load.table.fires(replica_role=self._replica_role):
            self._note_changed(work)

    def _note_changed(self, work: TableWork) -> None:
        """Not verified, but a trigger or a rule fired: what was written has to be looked at."""
        missing, differing = count_changed(self._connection, work.load, work.outcome)
        if missing or differing:
            work.dropped, work.disturbed = missing, True
            work.notes.append(
                f"{fires_words(work.load, replica_role=self._replica_role)} here: "
                f"{missing} rows of the source are not in the table and {differing} differ"
            )
            self.complete.discard(work.load.table.oid)
