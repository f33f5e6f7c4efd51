"""What must hold when the faults are over, and what is told where it does not.

Nothing here looks at how peersync decides: the databases are compared with each other, and with
what people were told when they wrote. Only `one_history` reads the log.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.fault.nemesis import Cluster
from tests.fault.nemesis_load import HOT, KEYS, NAMES, History, look

_DIGESTS = "; ".join(
    f"SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {name} AS t"
    for name in NAMES
)
_TOKEN = re.compile(r"\(\d+,([\w.]+),")
_KEPT = """
SELECT origin, position, hlc, ordinal, op, key, image FROM peersync.entry
  JOIN peersync.synced_table USING (tbl) WHERE table_name = %s AND key = %s ORDER BY hlc, origin"""
_CONFLICTS = """
SELECT kind, winner, kept_origin, kept_position, kept_image, in_origin, in_position, in_image
  FROM peersync.conflict WHERE table_name = %s AND key = %s ORDER BY id"""
_VECTOR = "SELECT origin, applied, state FROM peersync.member ORDER BY origin"
_LOG = """
SELECT t.origin, t.position, t.hlc, t.kind, t.changes
  FROM peersync.transaction AS t JOIN peersync.member AS m ON m.origin = t.origin
 WHERE t.position > m.floor"""
_HEARTBEAT_S = 25.0  # two of them, at most
_WAITING = "SELECT id, table_name, key, op, sqlstate, reason FROM peersync.quarantine"
_WRONG_WINNER = """
SELECT id, key, winner FROM peersync.conflict
 WHERE (winner = 'kept') <> ((kept_hlc, kept_origin) > (in_hlc, in_origin))"""


def check(cluster: Cluster, history: History) -> list[str]:
    """Everything that is wrong, in words."""
    wrong = [*_few(history.wrong), *same_rows(cluster), *one_history(cluster)]
    wrong += _few(unique_rows(cluster, history))
    wrong += _few(no_write_lost(cluster, history, "hot"))
    wrong += _few(no_write_lost(cluster, history, "mix"))
    wrong += _few(raised(cluster, history))
    for number, node in enumerate(cluster.nodes):
        with cluster.connect(number) as conn:
            wrong += look(conn, node.name)
        wrong += [f"{node.name}: in quarantine: {row}" for row in cluster.rows(number, _WAITING)]
        wrong += [f"{node.name}: winner? {row}" for row in cluster.rows(number, _WRONG_WINNER)]
        wrong += _few(f"{node.name}: {line}" for line in bugs(node.log))
        periodic = node.home / "periodic.log"
        if periodic.exists():
            wrong += _few(f"{node.name}, periodic: {line}" for line in bugs(periodic.read_text()))
    return wrong


def bugs(log: str) -> list[str]:
    """Lines of a log that no fault excuses."""
    signs = ("internal error", "Traceback", "is held", "never awaited", "was never retrieved")
    return [line for line in log.splitlines() if any(sign in line for sign in signs)]


def same_rows(cluster: Cluster) -> list[str]:
    """All databases are equal, table by table; else which rows differ, with all that is known."""
    wrong = []
    for name, query in zip(NAMES, _DIGESTS.split("; "), strict=True):
        digests = [cluster.rows(node, query)[0] for node in cluster.members]
        if len(set(digests)) > 1:
            wrong.append(f"{name} differs: {digests}")
            wrong += differences(cluster, name)
    return wrong + same_vectors(cluster)


def same_vectors(cluster: Cluster) -> list[str]:
    """Soon all have applied the same: a last heartbeat may be under way when all rows are there."""
    deadline = time.monotonic() + _HEARTBEAT_S
    while True:
        vectors = [cluster.rows(node, _VECTOR) for node in cluster.members]
        if all(vector == vectors[0] for vector in vectors):
            return []
        if time.monotonic() > deadline:
            return [f"not all have applied the same: {vectors}"]
        time.sleep(0.2)


def differences(cluster: Cluster, table: str, most: int = 3) -> list[str]:
    """Rows that not all have, with the log's and the conflicts' word on them on every node."""
    rows = [Counter(r[0] for r in cluster.rows(node, f"SELECT t::text FROM {table} AS t"))
            for node in cluster.members]  # fmt: skip
    everywhere = rows[0]
    for other in rows[1:]:
        everywhere = everywhere & other
    told: list[str] = []
    keys = set()
    for node, have in zip(cluster.nodes, rows, strict=True):
        extra = have - everywhere
        told.append(f"  only {node.name}: {sorted(extra.elements())[:10]}")
        keys |= {f"{re.split('[,)]', row)[0]})" for row in extra}
    for key in sorted(keys)[:most]:
        for number, node in enumerate(cluster.nodes):
            kept = cluster.rows(number, _KEPT, table, key)
            told += [f"  {node.name} {key} kept {row}" for row in kept[-12:]]
            lost = cluster.rows(number, _CONFLICTS, table, key)
            told += [f"  {node.name} {key} conflict {row}" for row in lost[-6:]]
    return told


def one_history(cluster: Cluster) -> list[str]:
    """No two nodes tell a position of an origin differently, and time goes up with positions."""
    wrong: list[str] = []
    known: dict[tuple[int, int], list[Any]] = {}
    for number, node in enumerate(cluster.nodes):
        last: dict[int, tuple[int, int]] = {}
        for origin, position, *rest in sorted(cluster.rows(number, _LOG)):
            there = known.setdefault((origin, position), rest)
            if there != rest:
                wrong.append(f"{node.name}: ({origin}, {position}) is {rest}, elsewhere {there}")
            before, hlc = last.get(origin, (position - 1, 0))
            if position != before + 1 or rest[0] <= hlc:
                wrong.append(f"{node.name}: {origin} goes from {before, hlc} to {position, rest}")
            last[origin] = (position, rest[0])
    return wrong


# --- what people were told ------------------------------------------------------------------
def unique_rows(cluster: Cluster, history: History) -> list[str]:
    """What was inserted is there once, unless it was deleted; what was deleted stays away."""
    wrong = []
    for table, column in (("item", "id"), ("bag", "v"), ("fact", "id")):
        there = Counter(row[0] for row in cluster.rows(0, f"SELECT {column} FROM {table}"))
        writes = [w for w in history.writes if w.table == table]
        new = [w for w in writes if w.value is not None and (table != "fact" or w.prev is None)]
        gone = [w for w in writes if w.value is None]
        sure = {w.value for w in new if w.sure}
        deleted = {w.prev for w in gone if w.sure}
        maybe_deleted = {w.prev for w in gone}
        wrong += [f"{table}: {v} was inserted and is lost" for v in sure - maybe_deleted - {*there}]
        wrong += [f"{table}: {v} was deleted and is back" for v in deleted & {*there}]
        wrong += [f"{table}: {v} was never written" for v in {*there} - {w.value for w in new}]
        wrong += [f"{table}: {v} is there {n} times" for v, n in there.items() if n > 1]
    return wrong


def no_write_lost(cluster: Cluster, history: History, table: str) -> list[str]:
    """Every value is in the table, or somebody overwrote it knowing it, or it lost a conflict."""
    there = {row[0] for row in cluster.rows(0, f"SELECT v FROM {table}")}
    writes = [w for w in history.writes if w.table == table]
    written = {w.value for w in writes if w.value is not None}
    first = {f"{table}{i}" for i in range(1, (HOT if table == "hot" else KEYS) + 1)}
    wrong = [f"{table}: {v} was never written" for v in there - written - first]
    overwritten = {w.prev for w in writes}
    lost = {w.value for w in writes if w.sure and w.value} - there - overwritten
    told = recorded(cluster, table) if lost else set()
    return wrong + [f"{table}: {value} is lost, and no conflict tells" for value in lost - told]


def recorded(cluster: Cluster, table: str) -> set[str]:
    """The values of both sides of all conflicts, of any node."""
    query = "SELECT kept_image, in_image FROM peersync.conflict WHERE table_name = %s"
    rows = [row for node in cluster.members for row in cluster.rows(node, query, table)]
    images = [image for row in rows for image in row if image]
    return {match[1] for image in images if (match := _TOKEN.match(image))}


def raised(cluster: Cluster, history: History) -> list[str]:
    """A number that only one node raises has been raised as often as that node was told."""
    writes = [w for w in history.writes if w.table == "fact" and w.prev is not None]
    sure = Counter(w.value for w in writes if w.sure)
    all_ = Counter(w.value for w in writes)
    there = dict(cluster.rows(0, "SELECT id, n FROM fact"))
    return [
        f"fact {name}: raised {sure[name]} to {times} times, and is {there.get(name)}"
        for name, times in all_.items()
        if name in there and not sure[name] <= there[name] <= times
    ]


def _few(lines: Iterable[Any], most: int = 12) -> list[str]:
    found = sorted({str(line) for line in lines})
    more = [f"… and {len(found) - most} more"] if len(found) > most else []
    return found[:most] + more
