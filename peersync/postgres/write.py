"""Gets the staged rows of one table into it, inside the transaction of the whole sync.

The usual way is one guarded statement. Where the table refuses it because unique values
have moved between rows, rows are replaced; where rows that are only here are in the way,
everything that fits is written and the rest is set aside. Each way is tried in a savepoint,
so a table ends written, partly written or untouched, and never in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors as pg

from peersync.core.errors import PeersyncError
from peersync.postgres.aside import Aside, Reason
from peersync.postgres.cascades import read_cascades, refuse_cascade
from peersync.postgres.errors import translate
from peersync.postgres.load import TableLoad
from peersync.postgres.merge import Merge
from peersync.postgres.sqlfiles import queries

# What a table answers to rows that it does not want. Not among them: what ends a connection,
# a disk, a lock or a statement, which is nobody's fault and the same for every table.
REFUSALS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.ProgrammingError,
    psycopg.NotSupportedError,
    pg.ObjectNotInPrerequisiteState,
)
_MOVED = (pg.UniqueViolation, pg.ExclusionViolation)
# ON CONFLICT does not go with rules or deferrable keys: then the first refusal is what is said.
_NO_ON_CONFLICT = (psycopg.NotSupportedError, pg.ObjectNotInPrerequisiteState)
_ROUNDS = 20
_SHOWN_KEYS = 3
_FEW_ROWS = 50_000  # that are found one by one faster than by reading the whole table …
_FEW_OF = 10  # … of which they are a tenth at most
_COLLIDE: Reason = (
    "{} row collides with a row here on another unique key and was left out",
    "{} rows collide with rows here on another unique key and were left out",
)
_AMBIGUOUS: Reason = (
    "{} row of the source shares its key with another row there and was left out",
    "{} rows of the source share their key with another row there and were left out",
)
_HINTS = {
    "23502": "the column may be empty on the source: drop NOT NULL here, or fill it there",
    "23503": "the row that it refers to is not here: sync that table first, or let this role SET "
    "session_replication_role",
    "23505": "change the row here that has this value, or drop the unique key here",
    "23514": "the source does not have this constraint, or an older form of it: drop it here, "
    "or mend the rows there",
    "23P01": "change the row here that is in the way, or drop the constraint here",
}


# A name that a trigger's function does not find: our sessions have an empty search_path.
_NOT_FOUND = {"42P01", "42703", "42704", "42883", "3F000"}


@dataclass
class Outcome:
    """What the server counted.

    `skipped` rows of the stage were not written. Without a key they are still in the stage
    (`absent`), else they were set aside.
    """

    inserted: int = 0
    updated: int = 0
    skipped: int = 0
    absent: int = 0
    note: str | None = None
    error: str | None = None


def upsert(
    connection: psycopg.Connection,
    load: TableLoad,
    aside: Aside | None = None,
    *,
    replica_role: bool,
) -> Outcome:
    """Makes the table hold what is staged, as far as it lets itself be written.

    What it does not take is set aside. Raises one of REFUSALS when nothing of it could be
    written; the table is then untouched.
    """
    if load.compared is not None and not load.rows:
        return Outcome()  # there was nothing that differs
    merge = load.merge
    may_delete = replica_role or not load.table.delete_cascades
    if merge.deletes and not may_delete:
        raise _would_cascade(load)
    if not replica_role:
        _refuse_update_cascades(connection, load)
    try:
        return _counted(connection, load, merge.merge(), narrow=True)
    except (*_MOVED, pg.CardinalityViolation) as exc:
        refusal: psycopg.Error = exc
    if merge.key is None:
        return _copies_that_fit(connection, load, refusal)
    aside = aside or Aside(connection, merge)
    before = aside.rows
    aside.put(column(connection, merge.ambiguous()), _AMBIGUOUS)
    outcome = _after_setting_aside(
        connection, load, aside, refusal, retry=aside.rows > before, may_delete=may_delete
    )
    outcome.skipped = aside.rows - before
    if outcome.skipped:
        outcome.error = _left_out_words(connection, aside, load, refusal)
    return outcome


def _left_out_words(
    connection: psycopg.Connection, aside: Aside, load: TableLoad, refusal: psycopg.Error
) -> str:
    """The first refusal may name rows that found their place in the end: these did not."""
    keys = aside.some_keys(_SHOWN_KEYS)
    constraint = refusal.diag.constraint_name
    among = f" ({constraint} was the first that refused)" if constraint else ""
    which = "row with the key" if aside.rows == 1 else "rows with the keys"
    unique = _unique_columns(connection, load, constraint) if constraint else ()
    select = aside.select(_SHOWN_KEYS, unique)
    look = f"\nto see them on the source: {select}" if select else ""
    return (
        f"writing {load.table.name}: left out: the {which} {', '.join(keys)}"
        f"{'' if aside.rows <= len(keys) else ' …'}{among}\n"
        "hint: another row here has the same value in a unique key, or they share their key "
        f"with each other: change or delete one of the two, then start again{look}"
    )


def _unique_columns(
    connection: psycopg.Connection, load: TableLoad, constraint: str
) -> tuple[str, ...]:
    """Those of a unique key by its name; none of an index of expressions."""
    cursor = psycopg.RawCursor(connection)
    wanted = (load.table.oid, constraint)
    row = cursor.execute(queries("catalog")["unique_columns"], wanted).fetchone()
    return tuple(row[0] or ()) if row else ()


def _refuse_update_cascades(connection: psycopg.Connection, load: TableLoad) -> None:
    """ON UPDATE of a foreign key to columns outside the key, which the upsert may change."""
    merge = load.merge
    if merge.key is None:
        return
    for cascade in read_cascades(connection, load.table.oid):
        changed = tuple(c for c in cascade.columns if c in merge.written)
        if cascade.on_update and changed and not set(cascade.columns) <= set(merge.key.columns):
            rows = (
                f"JOIN {merge.stage.sql} AS s ON {merge.on()} WHERE {merge.row('t', changed)} "
                f"OPERATOR(pg_catalog.*<>) {merge.row('s', changed)}"
            )
            refuse_cascade(connection, load.table.name, cascade, rows, "changed")


def _copies_that_fit(
    connection: psycopg.Connection, load: TableLoad, refusal: psycopg.Error
) -> Outcome:
    """Without a key nothing says which row here is the older version of a row that collides."""
    merge = load.merge
    try:
        outcome = _counted(connection, load, [merge.insert_missing_copies(skip_conflicts=True)])
    except _NO_ON_CONFLICT:
        raise refusal from None
    outcome.skipped = outcome.absent = differences(connection, merge)[0]
    outcome.note = _COLLIDE[outcome.absent != 1].format(outcome.absent)
    outcome.error = words(translate(refusal, what=f"writing {load.table.name}"))
    return outcome


def _after_setting_aside(
    connection: psycopg.Connection,
    load: TableLoad,
    aside: Aside,
    refusal: psycopg.Error,
    *,
    retry: bool,
    may_delete: bool,
) -> Outcome:
    merge = load.merge
    if retry:
        try:
            return _counted(connection, load, merge.merge())
        except _MOVED:
            pass
    if not may_delete:
        raise refusal if _holder_is_only_here(connection, load, refusal) else _would_cascade(load)
    try:
        outcome = _counted(connection, load, merge.replace())
    except _MOVED as exc:
        refusal = exc
    else:
        outcome.note = "unique values moved between rows: rows were replaced"
        return outcome
    try:
        return _write_what_fits(connection, load, aside)
    except _NO_ON_CONFLICT:
        raise refusal from None


def _holder_is_only_here(
    connection: psycopg.Connection, load: TableLoad, refusal: psycopg.Error
) -> bool:
    """Whether a value is held by a row that the source does not have, so that it stays."""
    columns = _unique_columns(connection, load, refusal.diag.constraint_name or "")
    if not columns or not set(columns) <= set(load.merge.written):
        return True
    return bool(column(connection, load.merge.holds_only_here(columns))[0])


def _write_what_fits(connection: psycopg.Connection, load: TableLoad, aside: Aside) -> Outcome:
    """Writes all rows but those that collide with rows that stay.

    A row that is refused keeps its old version here, and that version may be in the way of
    another: so each round begins anew without the rows that the last one refused.
    """
    merge = load.merge
    for number in range(_ROUNDS):
        if number == _ROUNDS - 1:  # a long chain: what differs here stays as it is
            aside.put(column(connection, merge.differing()), _COLLIDE)
        with connection.transaction():
            outcome = _counted(connection, load, merge.replace(skip_conflicts=True))
            refused = column(connection, merge.refused())
            if refused:
                raise psycopg.Rollback
        if not refused:
            return outcome
        aside.put(refused, _COLLIDE)
    return _counted(connection, load, merge.replace(skip_conflicts=True))


def column(connection: psycopg.Connection, query: str) -> list[Any]:
    """The first column of what a query gives."""
    return [row[0] for row in connection.execute(query.encode()).fetchall()]


def _counted(
    connection: psycopg.Connection,
    load: TableLoad,
    statements: Sequence[str],
    *,
    narrow: bool = False,
) -> Outcome:
    """Runs the statements in a savepoint, and counts by the server's own statistics.

    A row that was deleted and inserted anew counts as updated. `narrow`: where a journal has
    found that few rows or none will change, only those are looked at again.
    """
    with connection.transaction():
        counter = _Counter(connection, load)
        changed = load.journal.take_changes(load) if load.journal is not None else None
        if narrow and changed is not None:
            statements = _narrowed(load, changed) or statements
        for statement in statements:
            counter.run(statement)
        inserted, updated = counter.written()
        if load.table.checked_late and (inserted or updated):
            _check_deferrable(connection, load)
    return Outcome(inserted=inserted, updated=updated)


def _narrowed(load: TableLoad, changed: int) -> list[str] | None:
    """The statements of an upsert of so few rows; None: it is better to go through all."""
    if changed > min(_FEW_ROWS, load.rows // _FEW_OF):
        return None
    statements = load.merge.merge_changed()
    if statements is None:
        return None
    return ["SET LOCAL enable_nestloop = on", *statements, "SET LOCAL enable_nestloop = off"]


class _Counter:
    """How many rows statements insert and update; one that was deleted and inserted is updated.

    The server counts them. Where it does not (track_counts is off, and this role may not set it),
    the rows that a table has are counted before and after.
    """

    def __init__(self, connection: psycopg.Connection, load: TableLoad) -> None:
        self._connection = connection
        self._load = load
        self._changed = 0  # rows of statements, without what was deleted to be inserted anew
        tracked = column(connection, "SELECT pg_catalog.current_setting('track_counts')")[0]
        self._tracked = tracked == "on"
        self._before = self._now()

    def run(self, statement: str) -> None:
        number = self._connection.execute(statement.encode()).rowcount
        if not statement.startswith("DELETE "):
            self._changed += max(0, number)

    def written(self) -> tuple[int, int]:
        """(inserted, updated)"""
        inserted, updated, deleted = (b - a for a, b in zip(self._before, self._now(), strict=True))
        if not self._tracked:
            return inserted, self._changed - inserted
        return inserted - deleted, updated + deleted

    def _now(self) -> tuple[int, int, int]:
        if self._tracked:
            return _tuple_counts(self._connection, self._load.table.oid)
        return int(column(self._connection, self._load.merge.count_target())[0]), 0, 0


def _tuple_counts(connection: psycopg.Connection, oid: int) -> tuple[int, int, int]:
    row = connection.execute(
        "SELECT pg_catalog.pg_stat_get_xact_tuples_inserted(%(oid)s::bigint::oid),"
        " pg_catalog.pg_stat_get_xact_tuples_updated(%(oid)s::bigint::oid),"
        " pg_catalog.pg_stat_get_xact_tuples_deleted(%(oid)s::bigint::oid)",
        {"oid": oid},
    ).fetchone()
    assert row is not None
    return (row[0], row[1], row[2])


def _check_deferrable(connection: psycopg.Connection, load: TableLoad) -> None:
    """A deferrable constraint is checked by a trigger, and the replica role keeps them quiet."""
    cursor = psycopg.RawCursor(connection)
    keys = cursor.execute(queries("catalog")["deferrable_keys"], (load.table.oid,)).fetchall()
    for name, columns, nulls_equal in keys:
        found = column(connection, load.merge.twice(columns, nulls_equal=nulls_equal))
        if found:
            raise pg.UniqueViolation(
                f"({', '.join(columns)})={found[0]} would be twice in the deferrable "
                f'constraint "{name}"'
            )
    others = cursor.execute(
        queries("catalog")["deferrable_exclusions"], (load.table.oid,)
    ).fetchall()
    for name, compared, operators, predicate in others:
        found = column(connection, load.merge.excluded(compared, operators, predicate))
        if found:
            raise pg.ExclusionViolation(
                f"({', '.join(compared)})={found[0]} would conflict with another row in the "
                f'deferrable constraint "{name}"'
            )


def _would_cascade(load: TableLoad) -> psycopg.Error:
    return pg.InsufficientPrivilege(
        f"unique or identity values have moved between rows of {load.table.name}: they have to "
        "be deleted and inserted again, and a foreign key of another table would then delete or "
        "change rows there (ON DELETE); this role would have to be allowed to keep it quiet: "
        "GRANT SET ON PARAMETER session_replication_role TO it"
    )


def differences(connection: psycopg.Connection, merge: Merge) -> tuple[int, int, int]:
    """Staged rows that are missing in the table, that differ there, and rows only there."""
    row = connection.execute(merge.verify().encode()).fetchone()
    assert row is not None
    return (row[0], row[1], row[2])


def refusal_words(exc: psycopg.Error, load: TableLoad, *, replica_role: bool) -> str:
    """What a table answered, with what to do; triggers that had a part in it are named."""
    error = translate(exc, what=f"writing {load.table.name}")
    sqlstate = str(error.data.get("sqlstate"))
    hint = None
    name = load.table.name
    if sqlstate == "42501" and error.message.endswith(f"permission denied for table {name.name}"):
        # what else is needed, the plan has looked at
        hint = f"as its owner: GRANT DELETE ON TABLE {name.sql} TO the role of the conninfo"
    elif sqlstate in _NOT_FOUND and load.table.fires(replica_role=replica_role):
        hint = (
            f"{fires_words(load, replica_role=replica_role)} here, with an empty search_path: "
            "qualify every name in its function, or ALTER FUNCTION … SET search_path = …"
        )
    return words(error, hint=hint)


def fires_words(load: TableLoad, *, replica_role: bool) -> str:
    """What fires when this table is written."""
    if not replica_role:
        return "triggers or rules fire"
    names = load.table.fires_always
    return f"{', '.join(names)} {'fires' if len(names) == 1 else 'fire'}"


def words(error: PeersyncError, *, hint: str | None = None) -> str:
    """What a person needs: what was done, the database's words, what to do."""
    code = error.data.get("sqlstate")
    detail = (error.detail or "").removeprefix(f"{code}: ")
    said = [error.message, *(line for line in detail.splitlines() if line not in error.message)]
    hint = hint or _HINTS.get(str(code)) or error.hint
    return "\n".join([*said, *([f"hint: {hint}"] if hint else [])])
