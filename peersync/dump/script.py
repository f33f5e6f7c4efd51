"""Turns a plain dump into an UPSERT script for psql that can be run again and again.

Keys come after the rows in a dump, so it is read twice: `survey` learns the tables,
their keys and what will be left out, `write_script` writes. The script is ours to the
last statement; only rows are taken over as they are, and they cannot end their block.
It is one transaction: it stops at the first error, and cut off anywhere it changes
no row, because its COMMIT is its last statement. Definitions are left out and counted.
A dump that keeps its rows in INSERT statements is refused: leaving them out loses them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from peersync.core.errors import CorruptData, RefusedInput
from peersync.core.names import TableName
from peersync.dump.ddl import Definitions, TableFacts
from peersync.dump.frame import (
    HEAD,
    LARGE_COPY,
    LARGE_HEAD,
    LARGE_TAIL,
    large_object_row,
    large_object_sql,
    sequence_sql,
)
from peersync.dump.grammar import DataGrammar
from peersync.dump.lexer import DumpLexer
from peersync.dump.pieces import (
    CopyBegin,
    CopyEnd,
    CopyRows,
    Item,
    LargeObject,
    LargeObjectData,
    Piece,
    SequenceValue,
    Statement,
)
from peersync.dump.refusal import refused
from peersync.dump.upsert import TablePlan, merge_sql, stage_sql

Key = tuple[str, ...]  # column names; empty: compare whole rows
_CHANGES_ROWS = ("INSERT ", "UPDATE ", "DELETE ", "MERGE ", "TRUNCATE ", "DO ", "CALL ")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A statement of the dump that the script does not repeat."""

    type: str
    name: str


@dataclass(slots=True)
class Survey:
    """What the first reading of a dump found."""

    definitions: Definitions = field(default_factory=Definitions)
    blocks: list[tuple[TableName, int]] = field(default_factory=list)  # rows, in order
    sequences: int = 0
    large_objects: set[int] = field(default_factory=set)
    left_out: list[LeftOut] = field(default_factory=list)

    def rows(self) -> Counter[TableName]:
        """Rows by table, also of tables with none."""
        counts: Counter[TableName] = Counter()
        for table, rows in self.blocks:
            counts[table] += rows
        return counts


OWN_SCHEMA = "peersync"


def read_pieces(
    parts: Iterable[bytes], other: Callable[[Statement], None] | None = None
) -> Iterator[Piece]:
    """The data in a full plain dump; `other` gets each statement that is not data.

    A database that is synced has peersync's own records in it. They tell of that node and
    would be lies in another's database: their rows are left out. Raises RefusedInput for what
    no dump should hold, CorruptData for a dump cut off.
    """
    lexer, grammar = DumpLexer(), DataGrammar()
    ours = False  # within a block of a table of peersync's own

    for item in _items(lexer, parts):
        if not isinstance(item, Statement):
            if isinstance(item, CopyBegin):
                ours = item.table.schema == OWN_SCHEMA
            if not ours:
                yield item
            continue
        pieces = grammar.read(item)
        if pieces is None and other is not None:
            other(item)
        yield from pieces or ()
    if not lexer.complete:
        raise CorruptData(
            "the dump ends before pg_dump's last line",
            hint="The dump is incomplete: make it again, or copy it again.",
        )


def _items(lexer: DumpLexer, parts: Iterable[bytes]) -> Iterator[Item]:
    for part in parts:
        yield from lexer.feed(part)
    yield from lexer.finish()


def survey(parts: Iterable[bytes]) -> Survey:
    """Read a dump for what `write_script` must know. Raises RefusedInput, CorruptData."""
    found = Survey()

    def other(statement: Statement) -> None:
        if statement.text[:9].upper().startswith(_CHANGES_ROWS):
            hint = "Make the dump without --inserts and --column-inserts."
            text = statement.text.encode()
            raise refused("a statement that changes rows", statement.position, text, hint)
        found.definitions.read(statement)
        toc = statement.toc
        type_, name = (toc.type, toc.name) if toc else (statement.text.split()[0].upper(), "")
        found.left_out.append(LeftOut(type_, name))

    table = None
    for piece in read_pieces(parts, other):
        if isinstance(piece, CopyBegin):
            table = piece.table
        elif isinstance(piece, CopyEnd) and table is not None:
            found.blocks.append((table, piece.rows))
        elif isinstance(piece, SequenceValue):
            found.sequences += 1
        elif isinstance(piece, LargeObject):
            found.large_objects.add(piece.oid)
    return found


def plan_tables(found: Survey, keys: Mapping[TableName, Key]) -> dict[TableName, TablePlan]:
    """A plan for each table with rows. `keys` go before the keys in the dump.

    Raises RefusedInput if a table is neither defined in the dump nor in `keys`.
    """
    tables = [table for table, rows in found.rows().items() if rows]
    known = found.definitions.tables
    unknown = [str(table) for table in tables if table not in keys and table not in known]
    if unknown:
        raise RefusedInput(
            f"the dump does not define the keys of {len(unknown)} of its tables",
            detail=", ".join(unknown[:20]),
            hint="Give a full dump, or --database NAME, or --keys FILE.",
            tables=unknown,
        )
    return {table: _plan(table, known.get(table), keys.get(table)) for table in tables}


def _plan(table: TableName, facts: TableFacts | None, given: Key | None) -> TablePlan:
    if facts is None:
        # Without definitions any key column may be an identity column or of any type.
        key = given or ()
        return TablePlan(table, key, by_image=True, fixed=frozenset(key))
    best = facts.best_key() if given is None else None
    key = given if given is not None else (best.columns if best else ())
    columns = facts.columns
    types = [columns[name].built_in if name in columns else False for name in key]
    fixed = {name for name, column in columns.items() if column.identity_always}
    return TablePlan(
        table,
        key,
        arbiter=not (best and best.deferrable),
        by_image=not all(types) or bool(best and best.nulls_equal),
        fixed=frozenset(fixed),
        only=not facts.partitioned,
        has_rules=facts.has_rules,
    )


def write_script(
    parts: Iterable[bytes],
    found: Survey,
    plans: Mapping[TableName, TablePlan],
    restrict_key: str,
    write: Callable[[bytes], object],
) -> None:
    r"""Read the dump again and write the script.

    `restrict_key` (letters and digits that nobody can guess) goes into a `\restrict`,
    for a psql that knows it; empty: none. Raises CorruptData if the dump has changed.
    """
    restrict = f"\\restrict {restrict_key}\n" if restrict_key else ""
    write(HEAD.format(restrict=restrict).encode())
    if found.large_objects:
        write(LARGE_HEAD.encode())
    writer = _Writer(found, plans, write)
    for piece in read_pieces(parts):
        writer.piece(piece)
    if found.large_objects:
        writer.close_large_object()
        write(LARGE_TAIL.encode())
    write(b"COMMIT;\n")
    if restrict_key:
        write(f"\\unrestrict {restrict_key}\n".encode())


class _Writer:
    def __init__(
        self,
        found: Survey,
        plans: Mapping[TableName, TablePlan],
        write: Callable[[bytes], object],
    ) -> None:
        self._blocks = iter(found.blocks)
        self._plans = plans
        self._write = write
        self._copy: CopyBegin | None = None  # the block that is being written
        self._expected = 0
        self._object = 0  # the large object whose rows are being written
        self._written = 0  # bytes of it

    def piece(self, piece: Piece) -> None:
        if isinstance(piece, LargeObjectData):
            self._large_object(piece)
            return
        self.close_large_object()
        if isinstance(piece, CopyBegin):
            self._begin(piece)
        elif isinstance(piece, CopyRows):
            if self._copy is None:
                raise _changed_meanwhile()
            self._write(piece.data)
        elif isinstance(piece, CopyEnd):
            self._finish(piece.rows)
        elif isinstance(piece, SequenceValue):
            self._write(sequence_sql(piece).encode())
        else:
            self._write(large_object_sql(piece).encode())

    def _begin(self, piece: CopyBegin) -> None:
        table, self._expected = next(self._blocks, (None, 0))
        if table != piece.table:
            raise _changed_meanwhile()
        if self._expected:
            self._copy = piece
            self._write(stage_sql(self._plans[piece.table], piece.columns).encode())

    def _finish(self, rows: int) -> None:
        if rows != self._expected:
            raise _changed_meanwhile()
        if self._copy is not None:
            merge = merge_sql(self._plans[self._copy.table], self._copy.columns)
            self._write(b"\\.\n" + merge.encode())
            self._copy = None

    def _large_object(self, piece: LargeObjectData) -> None:
        if self._object != piece.oid:
            self.close_large_object()
            self._object, self._written = piece.oid, 0
            self._write(LARGE_COPY.encode())
        self._write(large_object_row(piece, self._written))
        self._written += len(piece.data)

    def close_large_object(self) -> None:
        if self._object:
            self._write(b"\\.\n")
            self._object = 0


def _changed_meanwhile() -> CorruptData:
    return CorruptData("the dump changed while it was being read")
