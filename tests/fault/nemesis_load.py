"""What people do on every node at once, and a record of what they were told.

A write is *sure* when its commit was acknowledged, and *perhaps* there when the connection broke
while it committed. Every value is written once in a run, and every row says which value it took
the place of, so that a lost write can be told from an overwritten one (`nemesis_checks`).

hot: at any time two rows that all nodes change, and soon leave alone, so that they keep how it
ended. mix: 200 keys, inserted, changed, deleted, moved to other
keys. item: rows that are inserted, and perhaps deleted, once. bag: the same without a key, where
a change that is applied twice shows. bank and safe: money that a node moves between its own rows,
in both tables. fact: a row names another one that its writer had just read.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import errors

from tests.fault.nemesis import Cluster

HOT, KEYS, ACCOUNTS, AMOUNT = 2000, 200, 5, 1000
_HOT_S = 0.7  # each pair of them
_LOOK_S = 0.15
_NODES = "abcde"
TABLES = f"""
CREATE TABLE hot (id int PRIMARY KEY, v text NOT NULL, prev text);
INSERT INTO hot SELECT i, 'hot' || i FROM generate_series(1, {HOT}) AS i;
CREATE TABLE mix (id int PRIMARY KEY, v text NOT NULL, prev text);
INSERT INTO mix SELECT i, 'mix' || i FROM generate_series(1, {KEYS}, 2) AS i;
CREATE TABLE item (id text PRIMARY KEY, note text);
CREATE TABLE bag (v text NOT NULL);
CREATE TABLE fact (id text PRIMARY KEY, n int NOT NULL, cause text, cause_n int);
CREATE TABLE bank (node text, id int, amount bigint NOT NULL, PRIMARY KEY (node, id));
INSERT INTO bank SELECT n, i, {AMOUNT} FROM unnest(string_to_array('{_NODES}', NULL)) AS n,
    generate_series(1, {ACCOUNTS}) AS i;
CREATE TABLE safe (LIKE bank INCLUDING ALL);
INSERT INTO safe SELECT * FROM bank;
"""
NAMES = ("hot", "mix", "item", "bag", "fact", "bank", "safe")
_SUMS = """
SELECT node, sum(amount) FROM (SELECT * FROM bank UNION ALL SELECT * FROM safe) AS money
 GROUP BY node HAVING sum(amount) <> %s"""
_EFFECTS = """
SELECT b.id, b.cause, b.cause_n, a.n FROM fact AS b LEFT JOIN fact AS a ON a.id = b.cause
 WHERE b.cause IS NOT NULL AND (a.id IS NULL OR a.n < b.cause_n)"""


@dataclass(frozen=True)
class Write:
    """`value` took the place of `prev`; None: no row."""

    node: int
    table: str
    value: str | None
    prev: str | None
    sure: bool


@dataclass
class History:
    """What all sessions did. Lists are only appended to."""

    writes: list[Write] = field(default_factory=list)
    known: dict[str, list[str]] = field(default_factory=lambda: {"item": [], "bag": [], "fact": []})
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    looks: int = 0
    slowest_s: float = 0.0


class _Session:
    """One writer. Its connection is made anew whenever it breaks."""

    def __init__(self, load: Load, node: int, nth: int) -> None:
        self.load, self.node, self.nth = load, node, nth
        self.name = f"{_NODES[node]}{nth}"
        self.chance = random.Random(f"{load.seed} {self.name}")
        self.count = 0
        self.conn: psycopg.Connection[Any] | None = None
        self.pending: list[tuple[str, str | None, str | None]] = []

    def run(self) -> None:
        kinds: dict[Callable[[], None], int] = {
            self.mix: 4, self.item: 3, self.bag: 2, self.bank: 4, self.fact: 4
        } if self.nth else {self.hot: 1}  # fmt: skip
        while not self.load.over.is_set():
            began = time.monotonic()
            try:
                self.transact(self.chance.choices(list(kinds), list(kinds.values()))[0])
            except Exception as error:  # a bug of the test must not end as silence
                self.load.history.wrong.append(f"{self.name}: {error!r}")
                raise
            slowest = max(self.load.history.slowest_s, time.monotonic() - began)
            self.load.history.slowest_s = slowest
            self.load.over.wait(self.chance.uniform(0, 2 * self.load.pause_s))
        if self.conn is not None:
            self.conn.close()

    def transact(self, work: Callable[[], None]) -> None:
        """One transaction, and what is known of it afterwards."""
        self.pending, committing = [], False
        try:
            if self.conn is None:
                self.conn = self.load.cluster.connect(self.node)
            self.sql("BEGIN")
            work()
            if self.chance.random() < 0.04:  # one that commits late
                time.sleep(self.chance.uniform(0.05, 1.5) ** 2)
            committing = True
            self.sql("COMMIT")
            self.note(sure=True)
        except errors.UniqueViolation:  # the key is taken: nothing was done
            self.sql("ROLLBACK")
        except psycopg.Error as error:
            self.load.history.refused[error.sqlstate or "connection"] += 1
            if committing:
                self.note(sure=False)
            if self.conn is not None:
                self.conn.close()  # whatever state it is in
            self.conn = None
            self.load.over.wait(0.1)

    def sql(self, query: str, *arguments: Any) -> psycopg.Cursor[Any]:
        assert self.conn is not None
        return self.conn.execute(query, arguments or None)

    def note(self, *, sure: bool) -> None:
        history = self.load.history
        for table, value, prev in self.pending:
            history.writes.append(Write(self.node, table, value, prev, sure))
            if sure and value is not None and prev is None and table in history.known:
                history.known[table].append(value)

    def wrote(self, table: str, value: str | None, prev: str | None) -> None:
        self.pending.append((table, value, prev))

    def token(self) -> str:
        self.count += 1
        return f"{self.name}.{self.count}"

    def known(self, table: str) -> str | None:
        """A row that somebody, somewhere, was told is there; a young one as a rule."""
        known = self.load.history.known[table]
        some = known[-20:] if self.chance.random() < 0.8 else known
        return self.chance.choice(some) if some else None

    # --- transactions ---------------------------------------------------------------------
    def hot(self) -> None:
        now = int((time.monotonic() - self.load.began) / _HOT_S)
        self.change("hot", (2 * now + self.chance.randrange(2)) % HOT + 1)

    def change(self, table: str, key: int, moved: int | None = None) -> None:
        value = self.token()
        query = f"UPDATE {table} SET id = %s, prev = v, v = %s WHERE id = %s RETURNING prev"
        for (prev,) in self.sql(query, key if moved is None else moved, value, key).fetchall():
            self.wrote(table, value, prev)

    def mix(self) -> None:
        keys = sorted(self.chance.sample(range(1, KEYS), self.chance.choice((1, 1, 1, 2, 5))))
        for key in keys:
            what = self.chance.random()
            if what < 0.1:
                self.undone(key)
            if what < 0.4:
                self.change("mix", key)
            elif what < 0.7:
                value = self.token()
                query = "INSERT INTO mix (id, v) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING v"
                for (new,) in self.sql(query, key, value).fetchall():
                    self.wrote("mix", new, None)
            elif what < 0.85:
                gone = self.sql("DELETE FROM mix WHERE id = %s RETURNING v", key)
                for (prev,) in gone.fetchall():
                    self.wrote("mix", None, prev)
            elif len(keys) == 1:
                self.change("mix", key, self.chance.randrange(1, KEYS))

    def undone(self, key: int) -> None:
        """A change that is rolled back alone: nobody may ever see it."""
        self.sql("SAVEPOINT s")
        self.sql("UPDATE mix SET prev = v, v = 'undone' WHERE id = %s", key)
        self.sql("ROLLBACK TO SAVEPOINT s")

    def item(self) -> None:
        self.once("item", "id")

    def bag(self) -> None:
        self.once("bag", "v")

    def once(self, table: str, column: str) -> None:
        old = self.known(table) if self.chance.random() < 0.4 else None
        if old is None:
            for _ in range(self.chance.choice((1, 1, 3, 20))):
                value = self.token()
                self.sql(f"INSERT INTO {table} ({column}) VALUES (%s)", value)
                self.wrote(table, value, None)
            return
        for _ in self.sql(f"DELETE FROM {table} WHERE {column} = %s RETURNING 1", old).fetchall():
            self.wrote(table, None, old)

    def bank(self) -> None:
        amount, name = self.chance.randint(1, 90), _NODES[self.node]
        one, other = self.chance.sample(range(1, ACCOUNTS + 1), 2)
        query = "UPDATE {} SET amount = amount + %s WHERE node = %s AND id = %s"
        steps = [("bank", one, -amount), (self.chance.choice(("bank", "safe")), other, amount)]
        if self.chance.random() < 0.5:
            steps = [(table, key, -change) for table, key, change in steps]
        for table, key, change in sorted(steps):
            self.sql(query.format(table), change, name, key)

    def fact(self) -> None:
        """A row about one that is here; or one's own node's row is raised."""
        cause = self.known("fact")
        found = self.sql("SELECT n FROM fact WHERE id = %s", cause).fetchone() if cause else None
        if cause and found and cause[0] == _NODES[self.node] and self.chance.random() < 0.5:
            raised = self.sql("UPDATE fact SET n = n + 1 WHERE id = %s RETURNING n", cause)
            self.wrote("fact", cause, str(raised.fetchall()[0][0]))
            return
        value = self.token()
        arguments = (value, cause, found[0]) if found else (value, None, None)
        self.sql("INSERT INTO fact VALUES (%s, 0, %s, %s)", *arguments)
        self.wrote("fact", value, None)


class Load:
    """`with Load(…) as load:` people write and look on every node that is let in."""

    def __init__(self, cluster: Cluster, seed: str, *, writers: int = 3, pause_s: float = 0.02):
        self.cluster, self.seed, self.pause_s = cluster, seed, pause_s
        self.over = threading.Event()
        self.history = History()
        self.began = time.monotonic()
        self._writers = writers
        self._threads: list[threading.Thread] = []

    def admit(self, node: int) -> None:
        """From now on people work on this node, too."""
        sessions = [_Session(self, node, nth) for nth in range(self._writers)]
        new = [threading.Thread(target=s.run, name=s.name) for s in sessions]
        new.append(threading.Thread(target=self._look, args=(node,), name=f"look-{node}"))
        for thread in new:
            thread.start()
        self._threads += new

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(60)

    def _look(self, node: int) -> None:
        """What may never be seen, at no moment."""
        conn = None
        while not self.over.wait(_LOOK_S):
            try:
                conn = conn or self.cluster.connect(node)
                self.history.wrong += look(conn, self.cluster.nodes[node].name)
                self.history.looks += 1
            except psycopg.Error:
                if conn is not None:
                    conn.close()
                conn = None
        if conn is not None:
            conn.close()


def look(conn: psycopg.Connection[Any], name: str) -> list[str]:
    """Money that is missing or too much, and effects that are shown without their cause."""
    sums = conn.execute(_SUMS, (2 * ACCOUNTS * AMOUNT,)).fetchall()
    effects = conn.execute(_EFFECTS).fetchall()
    found = [f"{name} shows a part of a transaction of {row[0]}: sum {row[1]}" for row in sums]
    return found + [f"{name} shows {b} (n = {n}), of {a} only n = {m}" for b, a, n, m in effects]
