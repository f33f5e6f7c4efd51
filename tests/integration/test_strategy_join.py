"""Who joins is given what a strategy needs: its name, and what lies beneath rows in conflict."""

from __future__ import annotations

from tests.integration.test_join import join, shows
from tests.plugins.nodes import TwoNodes

STOCK = "CREATE TABLE stock (id int PRIMARY KEY, n int); INSERT INTO stock VALUES (1, 100)"
BASE = (
    "INSERT INTO peersync.row_base (tbl, key, shape, image) SELECT tbl, '(1)', shape, '(1,90)' "
    "FROM peersync.synced_table WHERE table_name = 'stock'"
)


def test_who_joins_folds_from_the_same_base_by_the_same_strategy(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(STOCK)
    join(target, source)
    target.run("leave", "--yes")
    source.run("tables", "strategy", "public.stock", "delta:n")
    source.database.psql(BASE)
    source.database.psql("UPDATE stock SET n = n + 1")
    join(target, source)
    shows(target.database, "SELECT strategy FROM peersync.synced_table", "delta:n")
    shows(target.database, "SELECT key || image FROM peersync.row_base", "(1)(1,90)")
