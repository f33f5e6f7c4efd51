"""Rows with unsent changes of ours are left as they are."""

from __future__ import annotations

import time

import pytest

from peersync.core.names import TableName
from tests.integration.target_rig import Rig, broken_foreign_keys
from tests.plugins.clusters import MakeDatabase

ITEMS = TableName("public", "items")
PARTS = TableName("public", "parts")
SHAPE = (
    "CREATE TABLE items (region text, id int, name text, PRIMARY KEY (region, id));"
    "CREATE TABLE parts (id int PRIMARY KEY, region text, item int,"
    " FOREIGN KEY (region, item) REFERENCES items);"
)


@pytest.fixture(params=[15, 18])
def rig(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Rig:
    rig = Rig(make_database(18), make_database(request.param, nth=1, migrated=True))
    for side in (rig.source, rig.target):
        side.psql(SHAPE)
    rig.source.psql(
        "INSERT INTO items SELECT 'a\\b', i, 'theirs' FROM generate_series(1, 5) i;"
        "INSERT INTO parts VALUES (1, 'a\\b', 1), (2, 'a\\b', 4)"
    )
    rig.target.psql(
        "INSERT INTO items VALUES ('a\\b', 1, 'changed'), ('a\\b', 2, 'old'), ('a\\b', 7, 'own'),"
        " ('a\\b', 8, 'own')"
    )
    return rig


# changed here, deleted here, inserted here; and one that neither side has, and one twice
KEYS = [("a\\b", "1"), ("a\\b", "4"), ("a\\b", "7"), ("x", "99"), ("a\\b", "1")]


@pytest.mark.parametrize("mirror", [False, True])
def test_changed_deleted_and_inserted_rows_stay_so(rig: Rig, mirror: bool) -> None:
    done = rig.sync(keep={ITEMS: KEYS}, mirror=mirror)
    items = done["items"]
    assert rig.target.psql("SELECT id, name FROM items ORDER BY 1").split() == [
        "1|changed", "2|theirs", "3|theirs", "5|theirs", "7|own", *([] if mirror else ["8|own"]),
    ]  # fmt: skip
    assert (items.kept_local, items.inserted, items.updated, items.unchanged) == (3, 2, 1, 0)
    assert (items.result, items.skipped) == ("done", 0)
    assert (items.deleted, items.target_only) == ((1, 0) if mirror else (0, 1))
    assert broken_foreign_keys(rig.target) == ""
    assert done["parts"].skipped == 1  # its item was deleted here


def test_without_keys_the_source_wins(rig: Rig) -> None:
    done = rig.sync(mirror=True, keep={ITEMS: [], PARTS: []})
    assert (done["items"].kept_local, done["items"].deleted) == (0, 2)
    assert rig.target.psql("SELECT count(*) FROM items WHERE name = 'theirs'") == "5"


def test_many_keys_are_kept_in_reasonable_time(rig: Rig) -> None:
    rig.source.psql("INSERT INTO items SELECT 'b', i, 'theirs' FROM generate_series(1, 60000) i")
    rig.target.psql("INSERT INTO items SELECT 'b', i, 'ours' FROM generate_series(1, 50000) i")
    keys = [("b", str(number)) for number in range(1, 40001)]
    started = time.monotonic()
    items = rig.sync(keep={ITEMS: keys})["items"]
    assert time.monotonic() - started < 30
    assert (items.kept_local, items.inserted, items.updated) == (40000, 10003, 10002)
    assert rig.target.psql("SELECT count(*) FROM items WHERE name = 'ours'") == "40000"


@pytest.mark.parametrize(
    ("keys", "words"),
    [([("a", "x")], "invalid input syntax"), ([("a",)], "1 values for a key of 2")],
)
def test_keys_that_do_not_fit_leave_the_table_alone(
    rig: Rig, keys: list[tuple[str, ...]], words: str
) -> None:
    done = rig.sync(keep={ITEMS: keys})
    assert (done["items"].result, done["parts"].skipped) == ("failed", 1)
    assert words in (done["items"].error or "")
    assert rig.target.psql("SELECT name FROM items WHERE id = 1") == "changed"
