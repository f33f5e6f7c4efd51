"""Which tables two databases have in common, what of them can be compared, and what cannot.

Pure: it reads the catalogues of both sides. What is not compared has a reason that people are
told; `intended` is what somebody configured, or what no sync of peersync takes either. A column
is compared where both sides write its values alike: by its type where that is the same, by its
text where two types have one text for one value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from peersync.agent.fit import compare_types
from peersync.agent.proof.partitions import ancestors, parted_by
from peersync.core.names import TableName
from peersync.core.patterns import Patterns
from peersync.postgres.catalog import Column, DatabaseCatalog, Table, UserType
from peersync.postgres.digest import Shape
from peersync.postgres.keyorder import WHOLE_NUMBERS
from peersync.postgres.rowform import base_type
from peersync.wire.messages import Catalogue, ColumnInfo, TableInfo, TypeInfo

SPLIT_OTHERWISE: Final = "compared as a whole: its rows are in other partitions, or in none, there"
_STRINGS: Final = frozenset({"text", "character varying", "name"})
_LENGTH_SHOWS: Final = frozenset({"character", "bit"})  # in every value
_SCALE: Final = re.compile(r"numeric\(\d+,(-?\d+)\)$")


@dataclass(frozen=True)
class Comparable:
    """A table of both sides. `shape` is ours; types_there, only_there: what differs of the peer's.

    filtered: rows that are only here say nothing, because one side keeps rows to itself.
    notes: what of it is not compared. partly: that is not as somebody wants it.
    """

    shape: Shape
    types_there: tuple[str, ...] = ()
    only_there: bool = True
    filtered: bool = False
    partly: bool = False
    notes: tuple[str, ...] = ()
    rows: int = 0
    size_bytes: int = 0

    @property
    def table(self) -> TableName:
        return self.shape.table


@dataclass(frozen=True)
class NotCompared:
    """`name` as people read it."""

    name: str
    reason: str
    intended: bool = False


@dataclass
class Pairs:
    comparable: list[Comparable] = field(default_factory=list)
    left: list[NotCompared] = field(default_factory=list)


@dataclass(frozen=True)
class Sides:
    """What is known of both. closed: tables that this role may not read whole, and why."""

    there: Catalogue
    here: DatabaseCatalog
    peer: str
    patterns: Patterns
    chosen: Patterns
    everything: bool  # no tables were named
    closed: Mapping[TableName, str]
    own_filters: frozenset[TableName]


def pair_tables(sides: Sides) -> Pairs:
    """All tables that are chosen, each as comparable or with its reason, by name."""
    theirs = {TableName(t.schema, t.name): t for t in sides.there.tables}
    ours = {n: t for n, t in sides.here.tables.items() if sides.patterns.match(n)}
    found = Pairs()
    for root in _split_otherwise(theirs, ours):
        left = {n: t for n, t in theirs.items() if root in (n, *_above(t.bound))}
        right = {n: t for n, t in ours.items() if root in (n, *_above(t.bound))}
        theirs = {n: t for n, t in theirs.items() if n not in left}
        ours = {n: t for n, t in ours.items() if n not in right}
        if sides.chosen.match(root):
            _add(found, sides, root, [*left.values()], [*right.values()])
    for name in sorted(theirs.keys() | ours.keys()):
        if not sides.chosen.match(name):
            continue
        there, own = theirs.get(name), ours.get(name)
        if there is not None and own is not None:
            _add(found, sides, name, [there], [own])
        else:
            found.left.append(_on_one_side(sides, name, own))
    for name_text, reason in {**dict(sides.here.not_copied), **dict(sides.there.skipped)}.items():
        others = [one for one in found.left if one.name != name_text]
        if sides.everything or len(others) < len(found.left):
            found.left = [*others, NotCompared(name_text, reason, intended=True)]
    found.left.sort(key=lambda one: one.name)
    return found


def _above(bound: str | None) -> list[TableName]:
    return [name for name, _ in ancestors(bound)]


def _split_otherwise(
    theirs: Mapping[TableName, TableInfo], ours: Mapping[TableName, Table]
) -> list[TableName]:
    """Tables that both sides have, and whose rows are in other partitions, or in none, on one.

    The lowest ones: what is split alike beside them is compared partition by partition.
    """
    left = {(name, there.bound) for name, there in theirs.items()}
    right = {(name, own.bound) for name, own in ours.items()}
    both = _known(left) & _known(right)
    found: set[TableName] = set()
    higher: dict[TableName, set[TableName]] = {}
    for _, bound in left ^ right:
        chain = ancestors(bound)
        for place, (name, _) in enumerate(chain):
            higher.setdefault(name, set()).update(_above(bound)[place + 1 :])
        found.update(name for name, _ in [one for one in chain if one in both][:1])
    return sorted(name for name in found if not higher[name] & found)


def _known(tables: Iterable[tuple[TableName, str | None]]) -> set[tuple[TableName, str]]:
    """All tables that can be compared as a whole, as `ancestors` tells of them."""
    whole = {(name, "") for name, bound in tables if bound is None}
    return whole.union(*(ancestors(bound) for _, bound in tables))


def _on_one_side(sides: Sides, name: TableName, own: Table | None) -> NotCompared:
    if own is not None:
        return NotCompared(str(name), f"it is not on {sides.peer}, or not given to this node")
    if not sides.patterns.match(name):
        return NotCompared(str(name), "left out by the configuration of this node", intended=True)
    return NotCompared(str(name), f"it is only on {sides.peer}")


def _add(
    found: Pairs,
    sides: Sides,
    name: TableName,
    theirs: Sequence[TableInfo],
    ours: Sequence[Table],
) -> None:
    """One table, given as itself or as its partitions."""
    refused = next((t.refused for t in theirs if t.refused), None)
    closed = next((sides.closed[t.name] for t in ours if t.name in sides.closed), None)
    if refused or closed:
        who = sides.peer if refused else "this node"
        why = f"{who} may not read all of it: {refused or closed}"
        found.left.append(NotCompared(str(name), why))
        return
    columns = _compare_columns(sides, theirs[0], ours[0])
    if not columns.names:
        found.left.append(NotCompared(str(name), "; ".join(columns.notes) or "it has no columns"))
        return
    key = _key(name, theirs, ours, columns.names)
    notes = list(columns.notes)
    if not key and any(t.key for t in theirs):
        notes.append("compared as whole rows: the two sides have no key in common")
    kept = [t for t in theirs if t.filtered]
    if kept:
        notes.append(f"{sides.peer} keeps some rows to itself: rows that are only here don't count")
    split = ours[0].name != name or TableName(theirs[0].schema, theirs[0].name) != name
    notes += [SPLIT_OTHERWISE] if split else []
    own_filter = any(t.name in sides.own_filters for t in ours)
    if own_filter:
        notes.append("this node keeps some rows or columns to itself: rows only here don't count")
    own_types = {c.name: c.type for c in ours[0].columns}
    peer_types = {c.name: c.type for c in theirs[0].columns}
    found.comparable.append(
        Comparable(
            shape=Shape(
                table=name,
                columns=columns.names,
                types=tuple(own_types[c] for c in columns.names),
                key=key,
                as_text=columns.as_text,
                numbers=columns.numbers,
                only=ours[0].name == name,
            ),
            types_there=tuple(peer_types[c] for c in columns.names),
            only_there=TableName(theirs[0].schema, theirs[0].name) == name,
            filtered=bool(kept) or own_filter,
            partly=columns.partly,
            notes=tuple(notes),
            rows=max(sum(t.rows or 0 for t in theirs), sum(t.rows or 0 for t in ours)),
            size_bytes=max(sum(t.size_bytes for t in theirs), sum(t.size_bytes for t in ours)),
        )
    )


def _key(
    name: TableName, theirs: Sequence[TableInfo], ours: Sequence[Table], columns: Sequence[str]
) -> tuple[str, ...]:
    """The peer's key, where the same columns are a key here.

    What is a key of each partition is one of them all only with the columns that part them.
    """
    key = theirs[0].key or ()
    same = all(set(t.key or ()) == set(key) for t in theirs) and all(
        any(set(own.columns) == set(key) for own in t.keys) for t in ours
    )
    bounds = [t.bound for t in theirs if TableName(t.schema, t.name) != name]
    bounds += [t.bound for t in ours if t.name != name]
    parted = [parted_by(bound, name) for bound in bounds]
    same = same and all(own is not None and own <= set(key) for own in parted)
    return tuple(key) if same and set(columns) >= set(key) else ()


# --- columns --------------------------------------------------------------------------------
@dataclass
class _Columns:
    names: tuple[str, ...] = ()
    as_text: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    partly: bool = False


def _compare_columns(sides: Sides, there: TableInfo, own: Table) -> _Columns:
    found = _Columns()
    types = {t.name: t for t in sides.there.types}
    for column in there.columns:
        mine = own.column(column.name)
        if mine is None:
            found.notes.append(f"column {column.name} is only on {sides.peer}")
            found.partly = True
        elif column.generated and mine.generated:
            found.notes.append(f"column {column.name} is computed on both sides: not compared")
        elif column.generated or mine.generated:
            found.notes.append(f"column {column.name} is computed on one side: not compared")
            found.partly = True
        else:
            _add_column(found, column, mine, types, sides.here.types)
    names = {c.name for c in there.columns}
    for mine in own.columns:
        if mine.name not in names:
            found.notes.append(f"column {mine.name} is only here")
            found.partly = found.partly or not there.columns_filtered
    return found


def _add_column(
    found: _Columns,
    column: ColumnInfo,
    mine: Column,
    theirs: Mapping[str, TypeInfo],
    ours: Mapping[str, UserType],
) -> None:
    reason, _ = compare_types([column], theirs, ours, created=False)
    how = compared_as(column.type, mine.type, theirs, ours)
    if reason or how is None:
        both = f"column {column.name} is {column.type} there and {mine.type} here"
        found.notes.append(f"{reason or both}: not compared")
        found.partly = True
        return
    found.names = (*found.names, column.name)
    if how != "type":
        found.as_text |= {column.name}
    if how == "number":
        found.numbers |= {column.name}


def compared_as(
    there: str, here: str, theirs: Mapping[str, TypeInfo], ours: Mapping[str, UserType]
) -> str | None:
    """type, text or number; None where one value has two texts, or two values one."""
    left, right = base_type(there), base_type(here)
    if left == right:
        return "type" if there == here or _same_length(there, here, left) else None
    if WHOLE_NUMBERS.issuperset((left, right)):
        return "number"
    kinds = {n: t.kind for n, t in theirs.items()} | {n: t.kind for n, t in ours.items()}
    if all(_is_string(name, kinds) for name in (left, right)):
        return "text"
    based = {name: _based_on(name, made) for name, made in ((left, theirs), (right, ours))}
    if based[left] == based[right]:
        return "text"
    return None


def _same_length(there: str, here: str, base: str) -> bool:
    """Whether values of two lengths of one type are written alike."""
    there, here, base = (name.removesuffix("[]") for name in (there, here, base))
    if base == "numeric":
        left, right = _SCALE.match(there), _SCALE.match(here)
        return left is not None and right is not None and left[1] == right[1]
    return base not in _LENGTH_SHOWS


def _is_string(name: str, kinds: Mapping[str, str]) -> bool:
    return name in _STRINGS or name.endswith(".citext") or kinds.get(name) == "enum"


def _based_on(name: str, made: Mapping[str, TypeInfo] | Mapping[str, UserType]) -> str:
    """The type below a domain; of any other, itself."""
    found = made.get(name)
    if found is None or found.kind != "domain" or not found.parts:
        return name
    return found.parts[0].removesuffix(" NOT NULL")
