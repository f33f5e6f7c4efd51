"""The final transaction of a delta ends just as that of a full stream does, in every respect."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from peersync.core.errors import DatabaseError, RowsChanged
from peersync.core.results import TableResult
from tests.integration import test_target_random as made
from tests.integration.target_rig import Rig, broken_foreign_keys
from tests.plugins.clusters import MakeDatabase

CASES = 12
_MOVED = "unique values moved between rows: rows were replaced"
ITEMS = "CREATE TABLE items (id int PRIMARY KEY, v int); INSERT INTO items SELECT i, 1 FROM "


def test_a_delta_ends_as_a_full_stream_does_whatever_is_left_out(
    make_database: MakeDatabase,
) -> None:
    """Circles of foreign keys, collisions, unsent changes, mirrors, at random."""
    rig = Rig(make_database(18), make_database(18, nth=1))
    rig.source.psql(made.SHAPE)
    rig.target.psql(made.SHAPE + made.OUTSIDE)
    seen: set[str] = set()
    for seed in range(CASES):
        ends = []
        for delta in (False, True):
            choice = random.Random(seed)
            made._fill(rig.source, choice)
            ids = made._fill(rig.target, choice)
            row = f"({choice.choice(ids['a'])}, {choice.choice(ids['b'])})"
            rig.target.psql(f"TRUNCATE outside; INSERT INTO outside VALUES {row}")
            options = made._options(choice)
            options["per_table"] = options["per_table"] and not options["mirror"]
            ends.append((_results(rig, delta=delta, **options), _rows(rig)))
        (whole, whole_rows), (delta_told, delta_rows) = ends
        assert delta_rows == whole_rows, (seed, options)
        for name, told in whole.items():
            assert delta_told[name] == told, (seed, options, name)
        assert broken_foreign_keys(rig.target) == ""
        seen |= {found["result"] for found in whole.values()}
    assert seen >= {"done", "partly", "blocked"}


def _results(rig: Rig, **options: Any) -> Mapping[str, Any]:
    """What is told of each table, but for the way."""
    try:
        done = rig.sync(**options)
    except DatabaseError as exc:
        return {"": {"result": exc.message}}
    return {name: _told(table) for name, table in done.items()}


def _told(table: TableResult) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(table)
    for name in ("way", "blocks", "differing_blocks", "raw_bytes"):
        del told[name]
    # which keys are named, and whether rows had to be replaced, depends on their order
    told["error"] = told["error"] is not None
    told["note"] = (told["note"] or "").removesuffix(_MOVED).removesuffix("; ")
    return told


def _rows(rig: Rig) -> list[str]:
    return [rig.target.psql(f"SELECT t::text FROM {t} AS t ORDER BY 1") for t in "abcd"]


# What somebody does between the comparison and the final transaction. Each change
# meets rows that were equal, that differed, and that only one side had.
MEANWHILE = {
    "inserted": "INSERT INTO items VALUES (0, 0), (-1, -1)",
    "updated": "UPDATE items SET v = 2 WHERE id BETWEEN 7 AND 40",
    "deleted": "DELETE FROM items WHERE id BETWEEN 7 AND 40",
    "replaced": "DELETE FROM items WHERE id = 8; INSERT INTO items VALUES (8, 9)",
    "written as it was": "UPDATE items SET v = v WHERE id < 50",
    "keys moved": "UPDATE items SET id = id + 1000 WHERE id BETWEEN 60 AND 80",
    "keys exchanged": "DELETE FROM items WHERE id IN (20, 22);"
    "INSERT INTO items VALUES (20, 22), (22, 20)",
    "again and again": "UPDATE items SET v = v + 1; UPDATE items SET v = v - 1;"
    "DELETE FROM items WHERE id % 4 = 0; INSERT INTO items SELECT i, 5 FROM"
    " generate_series(300, 330) i",
    "rolled back": "BEGIN; UPDATE items SET v = 3; DELETE FROM items WHERE id < 50; ROLLBACK",
    "in subtransactions": "BEGIN; SAVEPOINT a; UPDATE items SET v = 3 WHERE id < 30; SAVEPOINT b;"
    "DELETE FROM items WHERE id < 50; ROLLBACK TO b; INSERT INTO items VALUES (0, 0); COMMIT",
    "locked": "BEGIN; SELECT FROM items FOR KEY SHARE; DELETE FROM items WHERE id = 10; COMMIT",
    "vacuumed": "DELETE FROM items WHERE id % 4 = 0; VACUUM (FREEZE) items;"
    "INSERT INTO items VALUES (12, 12)",
}
FILLED = "TRUNCATE items; INSERT INTO items SELECT i, i % 7 / 6 FROM generate_series(2, 200, 2) i"


@pytest.mark.parametrize("mirror", [False, True])
def test_rows_written_meanwhile_end_as_if_they_had_been_compared(
    make_database: MakeDatabase, *, mirror: bool
) -> None:
    """As by a full stream: nothing is lost, passed over, or deleted that should stay."""
    rig = Rig(make_database(18), make_database(18, nth=1))
    for side, step in ((rig.source, 3), (rig.target, 2)):
        side.psql(ITEMS + f"generate_series(2, 200, {step}) i")
    for name, change in MEANWHILE.items():
        ends = []
        for delta in (True, False):
            rig.target.psql(FILLED)
            with rig.staged(delta=delta) as session:
                rig.target.psql(change)
                told = _told(session.commit(mirror=mirror)["items"])
            ends.append((told, rig.target.psql("SELECT * FROM items ORDER BY 1")))
        assert ends[0] == ends[1], name


def test_what_can_t_be_looked_back_at_is_sent_whole(make_database: MakeDatabase) -> None:
    rig = Rig(make_database(18), make_database(18, nth=1))
    for side in (rig.source, rig.target):
        side.psql(ITEMS + "generate_series(1, 100) i")
    changes = {
        "TRUNCATE items": "it was rewritten",
        "DELETE FROM items WHERE id = 7; VACUUM FULL items": "it was rewritten",
        "ALTER TABLE items RENAME v TO w; ALTER TABLE items RENAME w TO v": "it was altered",
    }
    for change, reason in changes.items():
        rig.target.psql(
            "TRUNCATE items; INSERT INTO items SELECT i, 1 FROM generate_series(1, 9) i"
        )
        with rig.staged(delta=True) as session:
            rig.target.psql(change)
            with pytest.raises(RowsChanged, match=rf"public\.items.*{reason}"):
                session.commit()
    with rig.staged(delta=True) as session:
        rig.target.psql("INSERT INTO items VALUES (0, 0)")
        with pytest.raises(RowsChanged, match=r"public\.items.*can not be looked at"):
            session.commit(look_back=None)
    with rig.staged(delta=True) as session:
        rig.target.psql("VACUUM (FREEZE) items; VACUUM FULL items")  # no row is another
        assert session.commit(look_back=None)["items"].result == "done"


def test_rows_that_were_asked_for_and_did_not_come_are_noticed(make_database: MakeDatabase) -> None:
    rig = Rig(make_database(18), make_database(18, nth=1))
    rig.source.psql(ITEMS + "generate_series(1, 100) i")
    rig.target.psql(ITEMS + "generate_series(1, 90) i")
    with rig.staged(delta=True) as session:
        (load,) = session.loading.tables.values()
        session.connection.execute(f"DELETE FROM {load.stage.sql} WHERE id = 95".encode())
        load.rows -= 1
        with pytest.raises(RowsChanged, match="other rows than those that were asked for"):
            session.commit()
    assert rig.target.psql("SELECT count(*) FROM items") == "90"
