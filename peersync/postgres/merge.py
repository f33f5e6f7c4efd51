"""The SQL that makes a table hold what its staging table holds, and proves that it does.

Every statement here is built from catalog names through one quoting helper. A row that
is already equal, byte for byte, is not touched at all: MERGE with a guard neither writes
nor locks it, where a guarded ON CONFLICT would lock every row (189 MB of WAL for a no-op
on a million rows). `*<>` compares the stored images, so 1.0 and 1.00 differ, as they do
in a dump, and types without an equality (json, point) can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peersync.core.names import TableName, quote_ident
from peersync.postgres.catalog import Key, Table

_MOST_COLUMNS = 1500  # of 1,664 in PostgreSQL, which also counts what it adds itself


@dataclass(frozen=True)
class Merge:
    """How rows of `stage` reach `table`. `columns` are those that the dump brings.

    only_here: a table of the keys that only this side has, where not all rows are staged.
    """

    table: Table
    stage: TableName
    columns: tuple[str, ...]
    key: Key | None
    only_here: TableName | None = None

    @property
    def written(self) -> tuple[str, ...]:
        """The columns that can be written here: not the generated ones."""
        generated = {c.name for c in self.table.columns if c.generated}
        return tuple(c for c in self.columns if c not in generated)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Identity columns GENERATED ALWAYS outside the key: no UPDATE can give them a value."""
        key = set(self.key.columns) if self.key else set()
        return tuple(
            c.name
            for c in self.table.columns
            if c.identity == "always" and c.name not in key and c.name in self.columns
        )

    @property
    def updated(self) -> tuple[str, ...]:
        """The columns of SET. The key is among them: 1.0 = 1.00, and yet they differ."""
        always = {c.name for c in self.table.columns if c.identity == "always"}
        return tuple(c for c in self.written if c not in always)

    @property
    def deletes(self) -> bool:
        """Whether the usual way may have to delete a row in order to write it anew."""
        return bool(self.fixed)

    # --- pieces -------------------------------------------------------------------------
    def listed(self, columns: tuple[str, ...], alias: str = "") -> str:
        """Columns, quoted, with commas between them."""
        prefix = f"{alias}." if alias else ""
        return ", ".join(prefix + quote_ident(c) for c in columns)

    def row(self, alias: str, columns: tuple[str, ...] | None = None) -> str:
        """The columns that are written, or these, as one record."""
        return f"ROW({self.listed(self.written if columns is None else columns, alias)})::record"

    def on(self, t: str = "t") -> str:
        """A row of `t` has the key of a row of `s`."""
        if self.key is None:
            raise AssertionError("a table without a key has no join condition")
        return " AND ".join(
            f"{t}.{quote_ident(c)} {op} s.{quote_ident(c)}"
            for c, op in zip(self.key.columns, self.key.operators, strict=True)
        )

    def _differs(self, columns: tuple[str, ...] | None = None) -> str:
        return f"{self.row('t', columns)} OPERATOR(pg_catalog.*<>) {self.row('s', columns)}"

    @property
    def _wide(self) -> bool:
        """Too many columns for a plan that carries those of both sides (1,664 at most)."""
        return 2 * len(self.columns) > _MOST_COLUMNS

    # --- statements ---------------------------------------------------------------------
    def create_stage(self) -> str:
        """An unlogged table of the same types, without constraints or defaults."""
        return (
            f"CREATE UNLOGGED TABLE {self.stage.sql} WITH (autovacuum_enabled = off) AS "
            f"SELECT {self.listed(self.columns)} FROM ONLY {self.table.name.sql} WITH NO DATA"
        )

    @property
    def changed(self) -> TableName:
        """Where the places in the staging table are of rows that will be written."""
        return TableName(self.stage.schema, f"{self.stage.name}_changed")

    def merge_changed(self) -> list[str] | None:
        """`merge` of a few staged rows, which are known by their places; None: not this table."""
        if self.key is None or self._wide or self.deletes or self.table.has_rules:
            return None
        few = (
            f"(SELECT * FROM {self.stage.sql} AS x WHERE x.ctid = ANY "
            f"(ARRAY(SELECT place FROM {self.changed.sql})))"
        )
        return [self._merge_of(few)]

    def merge(self) -> list[str]:
        """The statements of the upsert, the usual way first in mind: one guarded MERGE."""
        if self.key is None:
            return [self.insert_missing_copies()]
        first = [self.delete_differing(self.fixed)] if self.deletes else []
        if self._wide:
            return self.replace()
        if self.table.has_rules:  # MERGE refuses such a table
            return [*first, *self._update(), self.insert_missing()]
        return [*first, self._merge_of(self.stage.sql)]

    def _merge_of(self, rows: str) -> str:
        assign = self._assignments()
        update = f"WHEN MATCHED AND {self._differs()} THEN UPDATE SET {assign} " if assign else ""
        return (
            f"MERGE INTO ONLY {self.table.name.sql} AS t USING {rows} AS s "
            f"ON {self.on()} {update}"
            f"WHEN NOT MATCHED THEN INSERT ({self.listed(self.written)}) "
            f"OVERRIDING SYSTEM VALUE VALUES ({self.listed(self.written, 's')})"
        )

    def _assignments(self) -> str:
        return ", ".join(f"{quote_ident(c)} = s.{quote_ident(c)}" for c in self.updated)

    def _update(self) -> list[str]:
        if not self.updated:
            return []
        return [
            f"UPDATE ONLY {self.table.name.sql} AS t SET {self._assignments()} "
            f"FROM {self.stage.sql} AS s WHERE {self.on()} AND {self._differs()}"
        ]

    def replace(self, *, skip_conflicts: bool = False) -> list[str]:
        """Delete what differs, then insert what is missing: for unique values that swap."""
        return [self.delete_differing(), self.insert_missing(skip_conflicts=skip_conflicts)]

    def delete_differing(self, columns: tuple[str, ...] | None = None) -> str:
        """Deletes the rows that differ from the source's, in these columns or in any."""
        return (
            f"DELETE FROM ONLY {self.table.name.sql} AS t USING {self.stage.sql} AS s "
            f"WHERE {self.on()} AND {self._differs(columns)}"
        )

    def insert_missing(self, *, skip_conflicts: bool = False) -> str:
        return (
            f"INSERT INTO {self.table.name.sql} ({self.listed(self.written)}) "
            f"OVERRIDING SYSTEM VALUE SELECT {self.listed(self.written, 's')} "
            f"FROM {self.stage.sql} AS s WHERE NOT EXISTS "
            f"(SELECT FROM ONLY {self.table.name.sql} AS t WHERE {self.on()})"
            + (" ON CONFLICT DO NOTHING" if skip_conflicts else "")
        )

    def refused(self) -> str:
        """The places in the staging table of rows whose key is not in the table."""
        return (
            f"SELECT s.ctid::text FROM {self.stage.sql} AS s WHERE NOT EXISTS "
            f"(SELECT FROM ONLY {self.table.name.sql} AS t WHERE {self.on()})"
        )

    def differing(self) -> str:
        """The places in the staging table of rows that are in the table with other values."""
        return (
            f"SELECT s.ctid::text FROM {self.stage.sql} AS s JOIN ONLY {self.table.name.sql} AS t "
            f"ON {self.on()} WHERE {self._differs()}"
        )

    def ambiguous(self) -> str:
        """The places in the staging table of rows that share their key with another row."""
        return (
            f"SELECT s.ctid::text FROM {self.stage.sql} AS s WHERE EXISTS "
            f"(SELECT FROM {self.stage.sql} AS o WHERE {self.on('o')} AND o.ctid <> s.ctid)"
        )

    def twice(self, columns: Sequence[str], *, nulls_equal: bool) -> str:
        """One value that these columns (quoted) have in several rows of the table, if any."""
        listed = ", ".join(columns)
        complete = " AND ".join(f"{column} IS NOT NULL" for column in columns)
        return (
            f"SELECT ROW({listed})::text FROM ONLY {self.table.name.sql} "
            f"WHERE {'true' if nulls_equal else complete} "
            f"GROUP BY {listed} HAVING count(*) > 1 LIMIT 1"
        )

    def excluded(
        self, compared: Sequence[str], operators: Sequence[str], predicate: str | None
    ) -> str:
        """One row of the table that an exclusion constraint does not want beside another.

        `compared` are columns or expressions as SQL; PostgreSQL can use the constraint's index.
        """
        columns = ", ".join(f"({c}) AS e{n}" for n, c in enumerate(compared))
        rows = (
            f"(SELECT ctid AS at, {columns} FROM ONLY {self.table.name.sql} "
            f"WHERE {predicate or 'true'})"
        )
        meets = " AND ".join(f"a.e{n} {operator} b.e{n}" for n, operator in enumerate(operators))
        values = ", ".join(f"a.e{n}" for n in range(len(compared)))
        return (
            f"SELECT ROW({values})::text FROM {rows} AS a JOIN {rows} AS b "
            f"ON a.at <> b.at AND {meets} LIMIT 1"
        )

    def holds_only_here(self, columns: Sequence[str]) -> str:
        """Whether a row that only this table has holds a staged row's value of these columns."""
        ours, staged = (f"ROW({self.listed(tuple(columns), a)})::text" for a in ("t", "o"))
        return (
            f"SELECT EXISTS (SELECT FROM ONLY {self.table.name.sql} AS t JOIN {self.stage.sql} "
            f"AS o ON {ours} = {staged} WHERE NOT EXISTS "
            f"(SELECT FROM {self.stage.sql} AS s WHERE {self.on()}))"
        )

    def places_here(self, condition: str) -> str:
        """The places in the staging table of rows whose row here (`t`) meets the condition."""
        return (
            f"SELECT s.ctid::text FROM {self.stage.sql} AS s JOIN ONLY {self.table.name.sql} AS t "
            f"ON {self.on()} WHERE {condition}"
        )

    # --- rows without a key ---------------------------------------------------------------
    def insert_missing_copies(self, *, skip_conflicts: bool = False) -> str:
        """Without a key: as many equal rows here as there, and no row of ours less.

        Rows are compared by their text, so types without an equality work, and each copy
        counts: the n-th copy is inserted if there are fewer than n here.
        """
        if not self.written:  # rows without columns differ in nothing but their number
            return f"INSERT INTO {self.table.name.sql} SELECT FROM {self._missing_copies()}"
        return (
            f"INSERT INTO {self.table.name.sql} ({self.listed(self.written)}) "
            f"OVERRIDING SYSTEM VALUE SELECT {self.listed(self.written, 's')} "
            f"FROM {self._missing_copies()}" + (" ON CONFLICT DO NOTHING" if skip_conflicts else "")
        )

    def _missing_copies(self) -> str:
        """The staged rows `s` that are too few here."""
        if not self.written:
            return f"{self.stage.sql} AS s OFFSET (SELECT count(*) FROM ONLY {self.table.name.sql})"
        text, copy = self._unused("peersync_text"), self._unused("peersync_copy")
        return (
            f"(SELECT x.*, {self.text} AS {text}, "
            f"row_number() OVER (PARTITION BY {self.text}) AS {copy} "
            f"FROM {self.stage.sql} AS x) AS s "
            f"LEFT JOIN {self.copies(self.table.name)} AS t ON t.r = s.{text} "
            f"WHERE s.{copy} > coalesce(t.n, 0)"
        )

    def _unused(self, name: str) -> str:
        """The name, made longer until no column of the table has it."""
        while name in self.columns:
            name += "_"
        return name

    @property
    def text(self) -> str:
        """The row `x` as text, by which rows without a key are compared."""
        return f'ROW({self.listed(self.written, "x")})::text COLLATE pg_catalog."C"'

    def copies(self, table: TableName) -> str:
        """How many there are of each row of a table: (r, n)."""
        return f"(SELECT {self.text} AS r, count(*) AS n FROM ONLY {table.sql} AS x GROUP BY 1)"

    def verify(self) -> str:
        """One pass: rows of the source that are missing or differ, and rows only here."""
        if self.key is None:
            return self._verify_copies()
        stage, table = self._sides(self.key)
        differs = f"{self._whole('t')} OPERATOR(pg_catalog.*<>) {self._whole('s')}"
        return (
            f"SELECT count(*) FILTER (WHERE {self._absent('t')}) AS missing, "
            f"count(*) FILTER (WHERE NOT ({self._absent('s')} OR {self._absent('t')}) "
            f"AND {differs}) AS differing, "
            f"count(*) FILTER (WHERE {self._absent('s')}) AS target_only "
            f"FROM {stage} AS s FULL JOIN {table} AS t ON {self.on()}"
        )

    def verify_staged(self) -> str:
        """Staged rows that are missing in the table, and that differ there."""
        absent, differs = self._absent("t"), f"{self._whole('t')} OPERATOR(pg_catalog.*<>) "
        assert self.key is not None
        stage, table = self._sides(self.key)
        return (
            f"SELECT count(*) FILTER (WHERE {absent}) AS missing, count(*) FILTER "
            f"(WHERE NOT {absent} AND {differs}{self._whole('s')}) AS differing "
            f"FROM {stage} AS s LEFT JOIN {table} AS t ON {self.on()}"
        )

    def rows_only_here(self) -> str:
        """The rows `t` of the table whose keys (`s`) only this side has, for FROM."""
        assert self.only_here is not None
        return f"{self.only_here.sql} AS s JOIN ONLY {self.table.name.sql} AS t ON {self.on()}"

    def _sides(self, key: Key) -> tuple[str, str]:
        """What is staged and what is here, to be joined as `s` and `t`."""
        stage, table = self.stage.sql, f"ONLY {self.table.name.sql}"
        if not self._wide:
            return stage, table
        # OFFSET 0 keeps the planner from taking the record apart again
        wide = (
            f"(SELECT {self.listed(key.columns, x)}, {x}.ctid AS peersync_at, "
            f"{self.row(x)} AS peersync_row "
            f"FROM {source} AS {x} OFFSET 0)"
            for source, x in ((stage, "s"), (table, "t"))
        )
        return next(wide), next(wide)

    def _absent(self, alias: str) -> str:
        """An outer join found no row of this side. A key can't say it: (NULL, NULL) is a value,
        and yet IS NULL.
        """
        return f"{alias}.{'peersync_at' if self._wide else 'ctid'} IS NULL"

    def _whole(self, alias: str) -> str:
        """The written columns of a row of `_sides`."""
        return f"{alias}.peersync_row" if self._wide else self.row(alias)

    def changes(self) -> str:
        """What an upsert will insert or change: (place, key, before, after).

        The place is that of the staged row, the others are records as text. `before` is NULL
        for a row that is not here. Without a key all of them are new, and have no place.
        """
        if self.key is None:
            row = f"{self.row('s')}::text"
            return (
                f"SELECT NULL::tid AS place, {row} AS key, NULL AS before, {row} AS after "
                f"FROM {self._missing_copies()}"
            )
        stage, table = self._sides(self.key)
        absent = self._absent("t")
        before, after = self._whole("t"), self._whole("s")
        return (
            f"SELECT s.{'peersync_at' if self._wide else 'ctid'} AS place, "
            f"{self.row('s', self.key.columns)}::text AS key, "
            f"CASE WHEN {absent} THEN NULL ELSE {before}::text END AS before, "
            f"{after}::text AS after FROM {stage} AS s LEFT JOIN {table} AS t ON {self.on()} "
            f"WHERE {absent} OR {before} OPERATOR(pg_catalog.*<>) {after}"
        )

    def _verify_copies(self) -> str:
        if not self.written:
            return (
                "SELECT greatest(s.n - t.n, 0), 0::bigint, greatest(t.n - s.n, 0) FROM "
                f"(SELECT count(*) AS n FROM {self.stage.sql}) AS s, "
                f"({self.count_target().replace('count(*)', 'count(*) AS n')}) AS t"
            )
        return (
            "SELECT coalesce(sum(greatest(s_n - t_n, 0)), 0)::bigint AS missing, "
            "0::bigint AS differing, "
            "coalesce(sum(greatest(t_n - s_n, 0)), 0)::bigint AS target_only FROM "
            "(SELECT coalesce(s.n, 0) AS s_n, coalesce(t.n, 0) AS t_n FROM "
            f"{self.copies(self.stage)} AS s FULL JOIN {self.copies(self.table.name)} AS t "
            "ON s.r = t.r) AS z"
        )

    def count_target(self) -> str:
        return f"SELECT count(*) FROM ONLY {self.table.name.sql}"


def copy_into(table: TableName, columns: tuple[str, ...]) -> str:
    """COPY with the very columns that the dump's own header names."""
    names = ", ".join(quote_ident(c) for c in columns)
    return f"COPY {table.sql} {f'({names}) ' if names else ''}FROM STDIN"
