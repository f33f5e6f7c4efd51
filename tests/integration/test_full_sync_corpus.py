"""Databases that others wrote: after a full sync the target is what pg_dump | psql makes."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.plugins import least
from tests.plugins.clusters import Database, Majors, MakeDatabase
from tests.plugins.compare import (
    assert_same_rows,
    assert_same_schema,
    extra_rows,
    rows_of,
    spoil,
    stored,
)
from tests.plugins.corpus import ROLES, Corpus
from tests.plugins.nodes import MakeNode, TwoNodes


def test_pagila_arrives_whole_and_is_mended_whole(
    majors: Majors, corpus: Corpus, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    _arrives_and_is_mended("pagila", majors, corpus, make_database, make_node)


@pytest.mark.parametrize(
    ("name", "majors_of"),
    [
        ("sakila", (15, 18)),
        ("chinook_ai", (15, 17)),
        ("northwind", (17, 18)),
        ("iso3166", (18, 18)),
        ("kitchensink", (15, 15)),  # 18 refuses a parameter named json
    ],
)
def test_a_database_of_the_corpus_arrives_whole_and_is_mended_whole(
    name: str,
    majors_of: tuple[int, int],
    corpus: Corpus,
    make_database: MakeDatabase,
    make_node: MakeNode,
) -> None:
    _arrives_and_is_mended(name, Majors(*majors_of), corpus, make_database, make_node)


def _arrives_and_is_mended(
    name: str, majors: Majors, corpus: Corpus, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    if least.ASKED and name == "sakila":
        pytest.skip("its dump comments schema public, which only the owner of the schema may")
    target_db = make_database(majors.target, nth=1 if majors.source == majors.target else 0)
    template = corpus.template(name, make_database(majors.source).cluster)
    source_db = make_database(majors.source, template=template)
    if role := ROLES.get(name):
        target_db.cluster.createrole(role, "NOLOGIN")
    nodes = TwoNodes(make_node("server-a", source_db), make_node("server-b", target_db))
    nodes.target.pair_with(nodes.source)

    assert nodes.target.pull("server-a").json["result"] == "done"
    assert_same_schema(source_db, target_db)
    assert_same_rows(source_db, target_db)

    _spoil_and_mend(nodes, source_db, target_db)


def _spoil_and_mend(nodes: TwoNodes, source_db: Database, target_db: Database) -> None:
    spoil(target_db)
    before = rows_of(target_db)
    mended = nodes.target.pull("server-a").json
    assert mended["result"] == "done"
    assert mended["rows"]["inserted"] > 0
    only_here = extra_rows(source_db, target_db)
    told = {f"{t['schema']}.{t['name']}": t["target_only"] for t in mended["tables"]}
    for table, lines in only_here.items():
        assert not lines - before.tables[table], f"{table} has rows that nobody wrote"
        assert told[table.replace('"', "")] == lines.total()
    assert rows_of(target_db).sequences == rows_of(source_db).sequences

    kept, again = stored(target_db), nodes.target.pull("server-a").json
    assert (again["rows"]["inserted"], again["rows"]["updated"]) == (0, 0)
    assert Counter(t["result"] for t in again["tables"]).keys() == {"done"}
    assert stored(target_db) == kept
