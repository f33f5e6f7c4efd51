"""Which rights in PostgreSQL a role needs for peersync, and which of them it has.

Read from the catalog as it is now, object by object, so that what is printed is the least that
is enough and a missing right is named before anything starts. Decides nothing about roles: it
writes GRANTs for whoever may give them, and gives none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from peersync.core.errors import NotFound
from peersync.core.names import TableName, quote_ident
from peersync.postgres.catalog import Fetches
from peersync.postgres.sqlfiles import queries

Mode = Literal["pull", "push", "both", "join", "periodic"]
Wanted = Callable[[TableName], bool]

LARGE_OBJECTS_A_GRANT: Final = 100
_MAINTAIN_SINCE: Final = 170000
_FOR: Final = {
    "push": "read here",
    "pull": "written here, though it can be read",
    "periodic": "synced periodically",
}


@dataclass(frozen=True)
class Right:
    """One right. `sql` gives it, run by an owner or a superuser, and is harmless to repeat.

    `kind`: database, schema, table, sequence, large object, parameter, role. `name` is the
    object as SQL writes it.
    """

    kind: str
    name: str
    sql: str
    why: str
    held: bool


@dataclass(frozen=True)
class Relation:
    """A table, the parent of partitions, or a sequence, and what the role may do with it."""

    oid: int
    name: TableName
    is_sequence: bool
    is_parent: bool
    may_use_schema: bool
    may_select: bool
    may_insert: bool
    may_update: bool
    may_delete: bool
    may_trigger: bool
    row_security: bool  # rows may be hidden from this role
    belongs_to: int | None
    parents: tuple[int, ...]


@dataclass(frozen=True)
class LargeObject:
    oid: int
    may_select: bool
    may_update: bool


@dataclass(frozen=True)
class Rights:
    """What one role may do in one database. `server` is the row of the query `role`."""

    role: str
    server: Any
    schemas: tuple[Any, ...]
    relations: dict[int, Relation]
    large_objects: tuple[LargeObject, ...]

    @property
    def role_sql(self) -> str:
        return quote_ident(self.role)


async def read_rights(
    connection: Fetches, role: str | None = None, *, all_objects: bool = False
) -> Rights:
    """Of a role, or of the one that is connected. Raises NotFound for one that is not there.

    Without `all_objects`, large objects that it may read and change are left out.
    """
    sql = queries("rights")
    server = await connection.fetchrow(sql["role"], role)
    if server is None:
        raise NotFound(
            f"there is no role {role} on this server",
            hint=f"CREATE ROLE {quote_ident(role or '?')} LOGIN;",
        )
    name = server["role"]
    relations = [_relation(row) for row in await connection.fetch(sql["relations"], name)]
    objects = await connection.fetch(sql["large_objects"], name, all_objects)
    return Rights(
        role=name,
        server=server,
        schemas=tuple(await connection.fetch(sql["schemas"], name)),
        relations={r.oid: r for r in relations},
        large_objects=tuple(
            LargeObject(o["oid"], o["may_select"], o["may_update"]) for o in objects
        ),
    )


def _relation(row: Any) -> Relation:
    return Relation(
        oid=row["oid"],
        name=TableName(row["schema"], row["name"]),
        is_sequence=row["is_sequence"],
        is_parent=row["is_parent"],
        may_use_schema=row["may_use_schema"],
        may_select=row["may_select"],
        may_insert=row["may_insert"],
        may_update=row["may_update"],
        may_delete=row["may_delete"],
        may_trigger=row["may_trigger"],
        row_security=row["row_security"],
        belongs_to=row["belongs_to"],
        parents=tuple(row["parents"] or ()),
    )


# --- what is needed -------------------------------------------------------------------------
def needed(rights: Rights, mode: Mode, wanted: Wanted) -> list[Right]:
    """Every right that a mode needs for the tables that are wanted, held or not.

    push: rows are read here (this node pushes, or a peer pulls). pull: rows are written here
    (this node pulls, or a peer pushes), which reads them, too. both: both. periodic: changes are
    captured and applied, and others join here. join: that, and rows are taken before, as by a pull.
    """
    periodic = mode in ("join", "periodic")
    takes = mode in ("pull", "both", "join")
    chosen = [r for r in rights.relations.values() if _is_wanted(rights, r, wanted)]
    found = [
        *_on_database(rights, takes or periodic, takes),
        *_on_schemas(rights, takes, chosen),
    ]
    for relation in chosen:
        if relation.is_sequence:
            found.append(_on_sequence(rights, relation, takes))
        elif periodic:
            found.append(_on_synced_table(rights, relation, takes))
        else:
            found.append(_on_table(rights, relation, takes))
    found += _on_large_objects(rights, takes)
    hidden = [r.name.sql for r in chosen if r.row_security and (periodic or not r.is_parent)]
    if hidden:
        found.append(
            Right(
                "role",
                rights.role_sql,
                f"ALTER ROLE {rights.role_sql} BYPASSRLS;",
                f"row-level security hides rows of {_listed(hidden)}; a copy must have all",
                held=False,
            )
        )
    return found


def missing_rights(rights: Rights, mode: Mode, wanted: Wanted) -> list[Right]:
    """Those of them that the role does not have."""
    return [right for right in needed(rights, mode, wanted) if not right.held]


def verdict(
    rights: Rights, wanted: Wanted, *, member: bool = False
) -> tuple[bool, str, str] | None:
    """Whether it stops every sync, what is missing, and what mends it; None: nothing is.

    What keeps rows from being read stops every sync, and so does, on a `member`, what keeps
    changes from being captured or applied. What keeps rows from being written by a full sync
    stops only those that write here.
    """
    modes: tuple[Mode, ...] = ("push", "periodic", "pull") if member else ("push", "pull")
    for mode in modes:
        lacking = missing_rights(rights, mode, wanted)
        if lacking:
            words = _listed([f"{r.kind} {r.name}" for r in lacking])
            return (
                mode != "pull",
                f"not all can be {_FOR[mode]}: {words}",
                statements(lacking, mode),
            )
    return None


def statements(lacking: Sequence[Right], mode: Mode) -> str:
    """The first statements that give what is missing, and the command that prints all."""
    every = f"peersync grants --mode {mode} --missing --sql prints every statement"
    return "\n".join([r.sql for r in lacking[:3]] + ([every] if lacking[3:] else []))


def _is_wanted(rights: Rights, relation: Relation, wanted: Wanted) -> bool:
    """A sequence goes with its table; a parent of partitions with any of them."""
    if relation.is_parent:
        children = (r for r in rights.relations.values() if relation.oid in r.parents)
        return any(wanted(r.name) for r in children if not r.is_parent)
    table = rights.relations.get(relation.belongs_to or 0)
    return wanted(relation.name if table is None or table.is_parent else table.name)


def _on_database(rights: Rights, writes: bool, takes: bool) -> Iterator[Right]:
    server, role = rights.server, rights.role_sql
    name = quote_ident(server["database"])
    yield Right(
        "database",
        name,
        f"GRANT CONNECT, CREATE ON DATABASE {name} TO {role};",
        "to connect, and to create schema peersync" + (" and schemas of a peer" * takes),
        held=server["may_connect"] and (server["may_create"] or server["has_schema"]),
    )
    if writes:
        yield Right(
            "parameter",
            "session_replication_role",
            f"GRANT SET ON PARAMETER session_replication_role TO {role};",
            "triggers stay quiet and foreign keys are not checked row by row while a sync writes",
            held=server["may_set_replica"],
        )


def _on_schemas(rights: Rights, writes: bool, chosen: list[Relation]) -> Iterator[Right]:
    used = {r.name.schema for r in chosen} | ({"public"} if writes else set())
    for row in rights.schemas:
        if row["schema"] not in used:
            continue
        name = quote_ident(row["schema"])
        what = "USAGE, CREATE" if writes else "USAGE"
        why = "to reach what is in it" + (", and to create a peer's tables there" * writes)
        held = row["may_use"] and (row["may_create"] or not writes)
        sql = f"GRANT {what} ON SCHEMA {name} TO {rights.role_sql};"
        yield Right("schema", name, sql, why, held)


def _on_table(rights: Rights, relation: Relation, writes: bool) -> Right:
    what, why, held = "SELECT", "pg_dump locks and reads it", relation.may_select
    if relation.is_parent:
        why = "pg_dump locks it with its partitions"
    elif writes:
        what, why = "SELECT, INSERT, UPDATE, DELETE", "rows are compared, and written by a sync"
        held = held and relation.may_insert and relation.may_update and relation.may_delete
    if writes:
        # REFERENCES, MAINTAIN: nice to have, so a role without them still has what it needs.
        what += ", REFERENCES"
        if rights.server["version_num"] >= _MAINTAIN_SINCE and not relation.is_parent:
            what += ", MAINTAIN"
    name = relation.name.sql
    return Right("table", name, f"GRANT {what} ON TABLE {name} TO {rights.role_sql};", why, held)


def _on_synced_table(rights: Rights, relation: Relation, takes: bool) -> Right:
    """Of a partitioned table the parent, too: it has triggers, and is what rows are written to."""
    what = "SELECT, INSERT, UPDATE, DELETE, TRIGGER"
    why = "its changes are captured by triggers, and a peer's changes written"
    held = all(
        (
            relation.may_select,
            relation.may_insert,
            relation.may_update,
            relation.may_delete,
            relation.may_trigger,
        )
    )
    if takes:
        what += ", REFERENCES"
        if rights.server["version_num"] >= _MAINTAIN_SINCE and not relation.is_parent:
            what += ", MAINTAIN"
    name = relation.name.sql
    return Right("table", name, f"GRANT {what} ON TABLE {name} TO {rights.role_sql};", why, held)


def _on_sequence(rights: Rights, relation: Relation, writes: bool) -> Right:
    name = relation.name.sql
    what = "SELECT, UPDATE" if writes else "SELECT"
    why = "its value is read" + (", and moved on by a sync" * writes)
    held = relation.may_select and (relation.may_update or not writes)
    sql = f"GRANT {what} ON SEQUENCE {name} TO {rights.role_sql};"
    return Right("sequence", name, sql, why, held)


def _on_large_objects(rights: Rights, writes: bool) -> Iterator[Right]:
    what = "SELECT, UPDATE" if writes else "SELECT"
    why = "it is read" + (", and rewritten where the peer's differs" * writes)
    for held in (True, False):
        oids = [
            str(o.oid)
            for o in rights.large_objects
            if (o.may_select and (o.may_update or not writes)) is held
        ]
        for start in range(0, len(oids), LARGE_OBJECTS_A_GRANT):
            name = ", ".join(oids[start : start + LARGE_OBJECTS_A_GRANT])
            sql = f"GRANT {what} ON LARGE OBJECT {name} TO {rights.role_sql};"
            yield Right("large object", name, sql, why, held)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


# --- what cannot be read --------------------------------------------------------------------
@dataclass(frozen=True)
class Unreadable:
    """What a dump as this role would fail on, each with the statement that mends it.

    `tables`: their rows cannot be copied whole. `sequences`: those without a table. `relations`:
    what pg_dump must be told to leave alone, because it would fail to lock or to read it.
    `large_objects`: the statement, None when all can be read.
    """

    tables: dict[TableName, str]
    sequences: dict[TableName, str]
    relations: tuple[TableName, ...]
    large_objects: str | None


def unreadable(rights: Rights) -> Unreadable:
    """Why each table cannot be copied; a table goes with its parents and its sequences."""
    tables: dict[TableName, str] = {}
    sequences: dict[TableName, str] = {}
    refused = {r.oid: words for r in rights.relations.values() if (words := _refusal(rights, r))}
    for oid, words in refused.items():
        relation = rights.relations[oid]
        if not relation.is_sequence:
            concerned = [r for r in rights.relations.values() if oid in (r.oid, *r.parents)]
        elif relation.belongs_to in rights.relations:
            owner = rights.relations[relation.belongs_to]
            concerned = [r for r in rights.relations.values() if owner.oid in (r.oid, *r.parents)]
        else:
            sequences[relation.name] = words
            continue
        for table in concerned:
            if not (table.is_parent or table.is_sequence):
                tables.setdefault(table.name, words)
    alone = {*tables, *(rights.relations[oid].name for oid in refused)}
    return Unreadable(tables, sequences, tuple(sorted(alone)), _closed_objects(rights))


def _closed_objects(rights: Rights) -> str | None:
    closed = [str(o.oid) for o in rights.large_objects if not o.may_select]
    if not closed:
        return None
    some = ", ".join(closed[:LARGE_OBJECTS_A_GRANT])
    return f"GRANT SELECT ON LARGE OBJECT {some} TO {rights.role_sql};"


def _refusal(rights: Rights, relation: Relation) -> str | None:
    """The statement that lets the role read this one; None when it may already."""
    role, name = rights.role_sql, relation.name
    lines = []
    if not relation.may_use_schema:
        lines.append(f"GRANT USAGE ON SCHEMA {quote_ident(name.schema)} TO {role};")
    if not relation.may_select:
        kind = "SEQUENCE" if relation.is_sequence else "TABLE"
        lines.append(f"GRANT SELECT ON {kind} {name.sql} TO {role};")
    if relation.row_security and not relation.is_parent:
        lines.append(f"ALTER ROLE {role} BYPASSRLS;")
    return " ".join(lines) or None
