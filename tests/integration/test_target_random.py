"""Databases made at random, with circles, collisions and all options: no foreign key breaks."""

from __future__ import annotations

import random
from typing import Any

from peersync.core.errors import DatabaseError
from peersync.core.names import TableName
from tests.integration.target_rig import Rig, broken_foreign_keys
from tests.plugins.clusters import Database, MakeDatabase

CASES = 30
SHAPE = """
CREATE TABLE a (id int PRIMARY KEY, u int UNIQUE, b int, up int);
CREATE TABLE b (id int PRIMARY KEY, u int UNIQUE, c int, k int);
CREATE TABLE c (id int PRIMARY KEY, u int UNIQUE, a int);
CREATE TABLE d (a int, b int, v int);
ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b ON DELETE CASCADE,
              ADD FOREIGN KEY (up) REFERENCES a;
ALTER TABLE b ADD FOREIGN KEY (c) REFERENCES c, ADD FOREIGN KEY (k) REFERENCES a (u);
ALTER TABLE c ADD FOREIGN KEY (a) REFERENCES a;
ALTER TABLE d ADD FOREIGN KEY (a) REFERENCES a, ADD FOREIGN KEY (b) REFERENCES b;
"""
OUTSIDE = "CREATE TABLE outside (a int REFERENCES a, b int REFERENCES b ON DELETE SET NULL)"


def test_whatever_is_left_out_no_foreign_key_is_broken(make_database: MakeDatabase) -> None:
    rig = Rig(make_database(18), make_database(15))
    rig.source.psql(SHAPE)
    rig.target.psql(SHAPE + OUTSIDE)
    seen = set()
    for seed in range(CASES):
        choice = random.Random(seed)
        _fill(rig.source, choice)
        ids = _fill(rig.target, choice)
        row = f"({choice.choice(ids['a'])}, {choice.choice(ids['b'])})"
        rig.target.psql(f"TRUNCATE outside; INSERT INTO outside VALUES {row}")
        outside = rig.target.psql("SELECT * FROM outside")
        options = _options(choice)
        try:
            seen |= {table.result for table in rig.sync(**options).values()}
        except DatabaseError as exc:
            assert exc.message.startswith("no table could be written"), (seed, options)
        assert broken_foreign_keys(rig.target) == "", (seed, options)
        assert rig.target.psql("SELECT * FROM outside") == outside, (seed, options)
    assert seen == {"done", "partly", "failed", "blocked"}


def _options(choice: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {
        "mirror": choice.random() < 0.5,
        "per_table": choice.random() < 0.3,
    }
    if choice.random() < 0.5:
        keys = [(str(choice.randint(1, 14)),) for _ in range(3)]
        options["keep"] = {TableName("public", "a"): keys}
    if choice.random() < 0.3:
        options["blocked"] = [choice.choice("abcd")]
    return options


def _fill(database: Database, choice: random.Random) -> dict[str, list[int]]:
    """Rows that fit together; gives their ids."""
    ids = {t: choice.sample(range(1, 14), choice.randint(2, 9)) for t in "abc"}
    us = {t: choice.sample(range(1, 18), len(ids[t])) for t in "abc"}

    def some(values: list[int]) -> str:
        return str(choice.choice([*values, "NULL"]))

    refers = {"a": (ids["b"], ids["a"]), "b": (ids["c"], us["a"]), "c": (ids["a"],)}
    rows = [
        f"INSERT INTO {t} VALUES ({number}, {u}, {', '.join(some(x) for x in refers[t])});"
        for t in "abc"
        for number, u in zip(ids[t], us[t], strict=True)
    ]
    rows += [
        f"INSERT INTO d VALUES ({some(ids['a'])}, {some(ids['b'])}, {choice.randint(1, 2)});"
        for _ in range(5)
    ]
    database.psql(
        "SET session_replication_role = replica; TRUNCATE a, b, c, d CASCADE;" + "".join(rows)
    )
    return ids
