"""Groups of databases with a strategy, and the core's fold over all that was ever logged."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from peersync.core.order.chain import net
from peersync.core.order.change import Change, Columns, Version
from peersync.core.order.fold import Function, Strategy, causally_last, fold
from peersync.postgres.log.literal import parse_record
from peersync.postgres.log.members import decode_vector
from peersync.postgres.log.strategy import strategy_of
from tests.integration.apply_rig import Node, make_group, members_of
from tests.plugins.clusters import MakeDatabase

_LOGGED = """
SELECT e.origin, e.position, e.ordinal, e.hlc, e.op::text AS op, e.key, e.image, e.old,
       t.seen::text AS seen, s.columns
  FROM peersync.entry AS e JOIN peersync.transaction AS t USING (origin, position)
 CROSS JOIN LATERAL (SELECT columns FROM peersync.shape WHERE shape = e.shape LIMIT 1) AS s"""


async def group(
    stack: AsyncExitStack, make_database: MakeDatabase, size: int, strategy: str, sql: str
) -> list[Node]:
    databases = [make_database(18, nth=n, migrated=True) for n in range(size)]
    nodes = await make_group(stack, *databases, sql=sql)
    for node in nodes:
        await set_strategy(node, strategy)
    return nodes


async def set_strategy(node: Node, strategy: str) -> None:
    """As `peersync tables strategy` and the capture after it do."""
    await node.execute("UPDATE peersync.synced_table SET strategy = $1", strategy)
    old = strategy.startswith(("merge_columns", "delta"))
    await node.execute(
        "SELECT peersync.capture_install(relation, tbl, $1, false) FROM peersync.synced_table", old
    )


class Oracle:
    """Never prunes: remembers every change of one table, and says what its rows should be."""

    def __init__(self) -> None:
        self._logged: dict[Version, Change] = {}

    async def look(self, node: Node) -> None:
        """To be called before anything of a node's log is pruned."""
        for row in await node.conn.fetch(_LOGGED):
            version = Version(row["hlc"], row["origin"], row["position"], row["ordinal"])
            columns = row["columns"]
            self._logged[version] = Change(
                version,
                row["op"],
                row["key"],
                _image(columns, row["image"]),
                _image(columns, row["old"]),
                decode_vector(row["seen"]),
            )

    async def rows(self, text: str, node: Node) -> dict[str, Columns]:
        """By key, folded from nothing. The table was empty when it was first captured."""
        strategy = strategy_of(text, await members_of(node))
        keys = {change.key for change in self._logged.values() if change.key is not None}
        found = {}
        for key in keys:
            made: dict[tuple[int, int], list[Change]] = {}
            for version in sorted(self._logged, key=lambda v: (v.origin, v.position, v.ordinal)):
                change = self._logged[version]
                if change.key in (key, None):
                    made.setdefault((version.origin, version.position), []).append(change)
            changes = [net(each) for each in made.values()]
            image = fold(await _callable(strategy, node, text, changes), None, changes).image
            if image is not None:
                assert not isinstance(image, str)
                found[key] = image
        return found


async def _callable(strategy: Strategy, node: Node, text: str, changes: list[Change]) -> Strategy:
    """The test's function takes the row with the longest name, the last of those."""
    if not isinstance(strategy, Function):
        return strategy
    rows = [c.image for c in causally_last(changes) if isinstance(c.image, dict)]
    best = max(rows, key=lambda row: len(row["name"] or ""), default=None)
    if best is not None:
        longest = [r for r in rows if len(r["name"] or "") == len(best["name"] or "")]
        best = longest[-1]
    return Function(lambda _: best)


async def rows_by_key(node: Node, table: str) -> dict[str, Columns]:
    found: dict[str, Columns] = {}
    columns = await node.conn.fetchval(
        "SELECT columns FROM peersync.shape WHERE table_name = $1 ORDER BY since DESC LIMIT 1",
        table,
    )
    for key, image in await node.rows(f"SELECT ROW(id)::text, t::text FROM {table} AS t"):
        found[key] = _some(columns, image)
    return found


def _some(columns: list[str], literal: str) -> Columns:
    return dict(zip(columns, parse_record(literal), strict=True))


def _image(columns: Any, literal: str | None) -> Columns | None:
    return None if literal is None else _some(columns, literal)
