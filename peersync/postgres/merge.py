"""The SQL that makes a table hold what its staging table holds, and proves that it does.

Every statement here is built from catalog names through one quoting helper. A row that
is already equal, byte for byte, is not touched at all: MERGE with a guard neither writes
nor locks it, where a guarded ON CONFLICT would lock every row (189 MB of WAL for a no-op
on a million rows). `*<>` compares the stored images, so 1.0 and 1.00 differ, as they do
in a dump, and types without an equality (json, point) can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from peersync.core.names import TableName, quote_ident
from peersync.postgres.catalog import Key, Table


@dataclass(frozen=True)
class Merge:
    """How rows of `stage` reach `table`. `columns` are those that the dump brings."""

    table: Table
    stage: TableName
    columns: tuple[str, ...]
    key: Key | None

    @property
    def written(self) -> tuple[str, ...]:
        """The columns that can be written here: not the generated ones."""
        generated = {c.name for c in self.table.columns if c.generated}
        return tuple(c for c in self.columns if c not in generated)

    @property
    def replaces(self) -> bool:
        """A row that differs must be deleted and inserted anew.

        True when an identity column that is GENERATED ALWAYS is outside the key: no UPDATE
        can give it a value.
        """
        key = set(self.key.columns) if self.key else set()
        return any(
            c.identity == "always" and c.name not in key and c.name in self.columns
            for c in self.table.columns
        )

    @property
    def updated(self) -> tuple[str, ...]:
        """The columns of SET. The key is among them: 1.0 = 1.00, and yet they differ."""
        always = {c.name for c in self.table.columns if c.identity == "always"}
        return tuple(c for c in self.written if c not in always)

    # --- pieces -------------------------------------------------------------------------
    def _list(self, columns: tuple[str, ...], alias: str = "") -> str:
        prefix = f"{alias}." if alias else ""
        return ", ".join(prefix + quote_ident(c) for c in columns)

    def _row(self, alias: str) -> str:
        return f"ROW({self._list(self.written, alias)})::record"

    def _on(self) -> str:
        if self.key is None:
            raise AssertionError("a table without a key has no join condition")
        return " AND ".join(
            f"t.{quote_ident(c)} {op} s.{quote_ident(c)}"
            for c, op in zip(self.key.columns, self.key.operators, strict=True)
        )

    def _differs(self) -> str:
        return f"{self._row('t')} OPERATOR(pg_catalog.*<>) {self._row('s')}"

    # --- statements ---------------------------------------------------------------------
    def create_stage(self) -> str:
        """An unlogged table of the same types, without constraints or defaults."""
        return (
            f"CREATE UNLOGGED TABLE {self.stage.sql} WITH (autovacuum_enabled = off) AS "
            f"SELECT {self._list(self.columns)} FROM ONLY {self.table.name.sql} WITH NO DATA"
        )

    def merge(self) -> list[str]:
        """The statements of the upsert, the usual way first in mind: one guarded MERGE."""
        if self.key is None:
            return [self.insert_missing_copies()]
        if self.table.has_rules or self.replaces:  # MERGE refuses tables with rules
            return [self.delete_differing(), self.insert_missing()]
        update = (
            f"WHEN MATCHED AND {self._differs()} THEN UPDATE SET "
            + ", ".join(f"{quote_ident(c)} = s.{quote_ident(c)}" for c in self.updated)
            if self.updated
            else ""
        )
        return [
            f"MERGE INTO ONLY {self.table.name.sql} AS t USING {self.stage.sql} AS s "
            f"ON {self._on()} {update} "
            f"WHEN NOT MATCHED THEN INSERT ({self._list(self.written)}) "
            f"OVERRIDING SYSTEM VALUE VALUES ({self._list(self.written, 's')})"
        ]

    def replace(self) -> list[str]:
        """Delete what differs, then insert what is missing: for unique values that swap."""
        return [self.delete_differing(), self.insert_missing()]

    def delete_differing(self) -> str:
        return (
            f"DELETE FROM ONLY {self.table.name.sql} AS t USING {self.stage.sql} AS s "
            f"WHERE {self._on()} AND {self._differs()}"
        )

    def insert_missing(self, *, skip_conflicts: bool = False) -> str:
        return (
            f"INSERT INTO {self.table.name.sql} ({self._list(self.written)}) "
            f"OVERRIDING SYSTEM VALUE SELECT {self._list(self.written, 's')} "
            f"FROM {self.stage.sql} AS s WHERE NOT EXISTS "
            f"(SELECT FROM ONLY {self.table.name.sql} AS t WHERE {self._on()})"
            + (" ON CONFLICT DO NOTHING" if skip_conflicts else "")
        )

    def insert_missing_copies(self) -> str:
        """Without a key: as many equal rows here as there, and no row of ours less.

        Rows are compared by their text, so types without an equality work, and each copy
        counts: the n-th copy is inserted if there are fewer than n here.
        """
        text = f"{self._row('x').removesuffix('::record')}::text"
        return (
            f"INSERT INTO {self.table.name.sql} ({self._list(self.written)}) "
            f"OVERRIDING SYSTEM VALUE SELECT {self._list(self.written, 's')} "
            f"FROM (SELECT x.*, {text} AS peersync_text, "
            f"row_number() OVER (PARTITION BY {text}) AS peersync_copy "
            f"FROM {self.stage.sql} AS x) AS s "
            f"LEFT JOIN (SELECT {text} AS peersync_text, count(*) AS peersync_copies "
            f"FROM ONLY {self.table.name.sql} AS x GROUP BY 1) AS t USING (peersync_text) "
            f"WHERE s.peersync_copy > coalesce(t.peersync_copies, 0)"
        )

    def verify(self) -> str:
        """One pass: rows of the source that are missing or differ, and rows only here."""
        if self.key is None:
            return self._verify_copies()
        first = quote_ident(self.key.columns[0])
        return (
            f"SELECT count(*) FILTER (WHERE t.{first} IS NULL) AS missing, "
            f"count(*) FILTER (WHERE s.{first} IS NOT NULL AND t.{first} IS NOT NULL "
            f"AND {self._differs()}) AS differing, "
            f"count(*) FILTER (WHERE s.{first} IS NULL) AS target_only "
            f"FROM {self.stage.sql} AS s FULL JOIN ONLY {self.table.name.sql} AS t "
            f"ON {self._on()}"
        )

    def _verify_copies(self) -> str:
        text = f"{self._row('x').removesuffix('::record')}::text"
        return (
            "SELECT coalesce(sum(greatest(s_n - t_n, 0)), 0)::bigint AS missing, "
            "0::bigint AS differing, "
            "coalesce(sum(greatest(t_n - s_n, 0)), 0)::bigint AS target_only FROM "
            "(SELECT coalesce(s.n, 0) AS s_n, coalesce(t.n, 0) AS t_n FROM "
            f"(SELECT {text} AS r, count(*) AS n FROM {self.stage.sql} AS x GROUP BY 1) AS s "
            f"FULL JOIN (SELECT {text} AS r, count(*) AS n FROM ONLY {self.table.name.sql} AS x "
            "GROUP BY 1) AS t ON s.r = t.r) AS z"
        )

    def count_target(self) -> str:
        return f"SELECT count(*) FROM ONLY {self.table.name.sql}"


def copy_into(table: TableName, columns: tuple[str, ...]) -> str:
    """COPY with the very columns that the dump's own header names."""
    names = ", ".join(quote_ident(c) for c in columns)
    return f"COPY {table.sql} {f'({names}) ' if names else ''}FROM STDIN"
