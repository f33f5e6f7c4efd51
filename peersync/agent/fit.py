"""Whether what both sides call by the same name is the same: types, columns, partitions.

Rows travel as text, so a type that is made otherwise here reads the same text as another
value, and nothing refuses it. What would change values in silence is a reason to leave the
table out; what may round, refuse or compute them otherwise is a warning. Pure: it compares
what the catalogues of both sides say, and knows nothing of plans.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from peersync.core.names import TableName, quote_ident, quote_literal
from peersync.postgres.catalog import Column, DatabaseCatalog, Table, UserType
from peersync.wire.messages import Catalogue, ColumnInfo, SequenceInfo, TableInfo, TypeInfo

_ROUNDED = "values may be rounded"
_SHOWN = 300


# --- types ----------------------------------------------------------------------------------
def compare_types(
    columns: Iterable[ColumnInfo],
    there: Mapping[str, TypeInfo],
    here: Mapping[str, UserType],
    *,
    created: bool,
) -> tuple[str | None, list[str]]:
    """Why rows with these types can't be taken (or None), and what should be known of them.

    With `created` the table is new here: then a label that misses here ends the whole sync, and
    is a reason to leave the table out. There is none where the source did not tell its types.
    """
    warnings: list[str] = []
    for name in _reached((c.type for c in columns), there):
        own = here.get(name)
        if own is None or (own.kind, own.parts) == (there[name].kind, there[name].parts):
            continue
        reason, said = _compare_type(there[name], own, created=created)
        if reason:
            return reason, []
        warnings += said
    return None, warnings


def _reached(types: Iterable[str], there: Mapping[str, TypeInfo]) -> list[str]:
    """These types, without [], and what they are made of, as far as the users made them."""
    found: dict[str, None] = {}
    waiting = [name.removesuffix("[]") for name in types]
    while waiting:
        name = waiting.pop()
        if name in there and name not in found:
            found[name] = None
            waiting += there[name].uses
    return sorted(found)


def _compare_type(there: TypeInfo, own: UserType, *, created: bool) -> tuple[str | None, list[str]]:
    name = there.name
    if there.kind != own.kind:
        return f"type {name} is a {there.kind} type there and a {own.kind} type here", []
    both = f"({_listed(there.parts)}) there and ({_listed(own.parts)}) here"
    if there.kind == "composite":
        return (
            f"type {name} is {both}: values come field by field and would change: make it alike "
            "here (ALTER TYPE)"
        ), []
    if there.kind != "enum":
        return None, [f"{there.kind} {name} is {both}: {_ROUNDED} or refused"]
    missing = [label for label in there.parts if label not in own.parts]
    if missing:
        mend = " ".join(f"ALTER TYPE {name} ADD VALUE {quote_literal(m)};" for m in missing[:5])
        words = f"enum {name} has no {_listed([quote_literal(m) for m in missing])} here: {mend}"
        return (words, []) if created else (None, [f"{words} The table fails if a row has one"])
    if [label for label in own.parts if label in there.parts] != list(there.parts):
        return None, [f"enum {name} has its labels in another order here: they sort otherwise"]
    return None, []


def _listed(parts: Sequence[str]) -> str:
    text = ", ".join(parts)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " …"


# --- columns --------------------------------------------------------------------------------
def compare_column(there: ColumnInfo, own: Column | None) -> str | None:
    """How a column that both sides have may come to hold another value, if it may."""
    if own is None:
        return None
    if own.type != there.type:
        words = f"column {own.name} is {there.type} there and {own.type} here"
        return f"{words}: {_ROUNDED}" if may_round(there.type, own.type) else words
    if there.generated and not own.generated:
        return (
            f"column {own.name} is computed there and not here: it keeps its value, or gets its "
            "default"
        )
    if own.generated and not there.generated:
        return f"column {own.name} is computed here: the source's values are not taken"
    if there.expression and own.expression and there.expression != own.expression:
        return f"column {own.name} is computed by another expression here: values may differ"
    return None


_NUMBER = re.compile(r"numeric(?:\((\d+),(-?\d+)\))?$")
_TIMES = ("timestamp", "time", "interval")
_EXACT_IN = {  # what fits whole into a type that rounds
    "real": ("smallint",),
    "double precision": ("smallint", "integer", "real"),
    "money": ("smallint", "integer", "money"),
}


def may_round(there: str, here: str) -> bool:
    """Whether PostgreSQL reads the text of one type as a near value of the other, unasked."""
    number = _NUMBER.match(here)
    if number:
        return number[2] is not None and _decimals(there) > int(number[2])
    if here in _EXACT_IN:
        return there not in _EXACT_IN[here]
    if here == "date":
        return there.startswith("timestamp")
    return here.startswith(_TIMES) and there.startswith(_TIMES)


def _decimals(there: str) -> float:
    if there in ("smallint", "integer", "bigint"):
        return 0
    number = _NUMBER.match(there)
    return int(number[2]) if number and number[2] is not None else float("inf")


# --- partitions -----------------------------------------------------------------------------
def compare_place(there: TableInfo, here: Table) -> str | None:
    """How the place of a partition differs: what does not fit its bound here is refused."""
    own = here.bound or None
    if there.bound == own:
        return None
    if own is None:
        return f"it is a partition there ({there.bound}), and a table of its own here"
    if there.bound is None:
        return f"it is a partition here ({own}), and none there: rows that do not fit are refused"
    return f"it is a partition {there.bound} there and {own} here: rows that do not fit are refused"


# --- sequences ------------------------------------------------------------------------------
def missing_sequences(
    source: Catalogue, here: DatabaseCatalog, wanted: Iterable[TableName]
) -> list[tuple[str, str]]:
    """The source's sequences that have no counterpart here, each with what that means.

    The sequence that a column owns counts as one, whatever its name: it is moved past the rows.
    """
    names = {s.name for s in here.sequences}
    owners = {(s.table, s.column) for s in here.sequences if s.table is not None}
    tables = set(wanted)
    found = []
    for theirs in source.sequence_list:
        owner = _owner(theirs)
        counterpart = owner is not None and (
            owner not in tables or (owner, theirs.column) in owners
        )
        if TableName(theirs.schema, theirs.name) not in names and not counterpart:
            name = TableName(theirs.schema, theirs.name)
            mend = f"CREATE SEQUENCE {name.sql};"
            if owner:
                mend = f"{mend[:-1]} OWNED BY {owner.sql}.{quote_ident(theirs.column or '')};"
            found.append((str(name), f"sequence that is not here: {mend}"))
    return found


def _owner(sequence: SequenceInfo) -> TableName | None:
    table = sequence.table
    return TableName(table.schema, table.name) if table else None
