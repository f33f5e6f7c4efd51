"""A verification takes no more of an agent's memory for many rows, nor for long keys."""

from __future__ import annotations

import re
from pathlib import Path

from tests.plugins.nodes import Node, TwoNodes

MOST_KIB = 150 * 1000
# Keys that an index takes because they are easily compressed, 25 kB each. What is ordered by its
# text in another way than its type is ordered has to be sorted.
LONG_KEYS = """
CREATE TABLE long_keys (k text COLLATE "C" PRIMARY KEY, v int);
INSERT INTO long_keys SELECT lpad(g::text, 6, '0') || repeat('x', 25000), g
FROM generate_series(1, 2000) g;
CREATE DOMAIN word AS text;
CREATE TABLE sorted_keys (k word PRIMARY KEY, v int);
INSERT INTO sorted_keys SELECT * FROM long_keys;
"""


def _peak_kib(node: Node) -> int:
    assert node.process is not None
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{node.process.pid}/status").read_text())
    assert found is not None
    return int(found[1])


def test_keys_of_many_kilobytes_take_no_more_memory_than_short_ones(two_nodes: TwoNodes) -> None:
    for node in two_nodes:
        node.database.psql(LONG_KEYS)
    source, target = two_nodes
    assert target.run("verify", "server-a", "--json").json["result"] == "identical"
    source.database.psql("DELETE FROM long_keys WHERE v > 1000; DELETE FROM sorted_keys")
    target.database.psql("UPDATE long_keys SET v = -v WHERE v <= 1000")
    found = target.run("verify", "server-a", "--json", check=False).json
    tables = {table["name"]: table for table in found["tables"]}
    long, by_sorting = tables["long_keys"], tables["sorted_keys"]
    assert (long["different"], long["missing"], long["extra"]) == (1000, 0, 1000)
    assert (by_sorting["different"], by_sorting["extra"]) == (0, 2000)
    assert max(_peak_kib(source), _peak_kib(target)) < MOST_KIB
