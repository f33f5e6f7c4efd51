"""A role that may not read or write everything: what is missing is named before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.nodes import MakeNode, Node

ROLE = "Peer's sync"
ODD = "o\"d\\d 'name'"
ITEMS = (
    "CREATE TABLE items (id int PRIMARY KEY);"
    "INSERT INTO items SELECT generate_series(1, 9);"
    f'GRANT SELECT ON TABLE items TO "{ROLE}"; GRANT CREATE ON DATABASE "{{0}}" TO "{ROLE}";'
)

MakePair = Callable[[str], tuple[Node, Node]]


@pytest.fixture
def make_pair(make_database: MakeDatabase, make_node: MakeNode) -> MakePair:
    """server-a's role has what the SQL gives it; server-b's is a superuser and pulls."""

    def make(sql: str) -> tuple[Node, Node]:
        source_db, target_db = make_database(), make_database()
        source_db.cluster.createrole(ROLE, "LOGIN NOBYPASSRLS")
        source_db.psql(ITEMS.format(source_db.name) + sql)
        source = make_node("server-a", source_db, conninfo=source_db.conninfo(user=ROLE))
        target = make_node("server-b", target_db)
        target.pair_with(source)
        return source, target

    return make


def plan_of(target: Node) -> dict[str, Any]:
    plan: dict[str, Any] = target.run("pull", "server-a", "--dry-run", "--json").json["plan"]
    return {t["name"]: t for t in plan["tables"]}


class TestTables:
    @pytest.mark.parametrize(
        ("made", "grant"),
        [
            ("CREATE TABLE {} (id int PRIMARY KEY)", 'GRANT SELECT ON TABLE {} TO "{}";'),
            (
                "CREATE TABLE {0} (id int PRIMARY KEY); ALTER TABLE {0} ENABLE ROW LEVEL SECURITY;"
                "GRANT SELECT ON {0} TO PUBLIC",
                'ALTER ROLE "{1}" BYPASSRLS;',
            ),
            (
                "CREATE TABLE {0} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);"
                "CREATE TABLE public.sold (n bigserial PRIMARY KEY);"
                "GRANT SELECT ON {0}, public.sold TO PUBLIC",
                None,
            ),
        ],
        ids=["no right", "row security", "its sequence"],
    )
    def test_one_that_cannot_be_read_is_blocked_with_the_statement_that_mends_it(
        self, make_pair: MakePair, made: str, grant: str | None
    ) -> None:
        table = '"public"."or""ders"'
        source, target = make_pair(made.format(table))
        role = ROLE.replace('"', '""')
        expected = (
            grant or 'GRANT SELECT ON SEQUENCE "public"."or""ders_id_seq" TO "{1}";'
        ).format(table, role)
        plan = plan_of(target)
        assert plan["items"]["action"] == "create"
        assert plan['or"ders']["action"] == "blocked"
        assert expected in plan['or"ders']["reason"]
        done = target.pull("server-a", check=False)
        assert (done.code, done.json["result"]) == (3, "partly")
        assert target.database.psql("SELECT count(*) FROM items") == "9"
        source.database.psql(expected)
        if grant is None:
            source.database.psql(f'GRANT SELECT ON sold_n_seq TO "{ROLE}"')
        source.database.psql(f"INSERT INTO {table} DEFAULT VALUES" if not grant else "SELECT 1")
        assert target.pull("server-a").json["result"] == "done"
        source.database.psql(f'ALTER ROLE "{ROLE}" NOBYPASSRLS')

    def test_one_in_a_schema_that_is_closed_is_blocked(self, make_pair: MakePair) -> None:
        _, target = make_pair(
            "CREATE SCHEMA shut; CREATE TABLE shut.t (id int PRIMARY KEY);"
            "GRANT SELECT ON shut.t TO PUBLIC"
        )
        reason = plan_of(target)["t"]["reason"]
        assert f'GRANT USAGE ON SCHEMA "shut" TO "{ROLE}";' in reason
        assert target.pull("server-a", check=False).json["result"] == "partly"

    def test_one_that_is_left_out_by_the_configuration_needs_no_right(
        self, make_pair: MakePair
    ) -> None:
        source, target = make_pair("CREATE TABLE private (id bigserial PRIMARY KEY)")
        source.stop()
        text = source.config.read_text()
        source.config.write_text(
            text.replace("[database.shop]", '[database.shop]\nexclude = ["private"]')
        )
        source.start()
        assert target.pull("server-a").json["result"] == "done"
        assert target.database.psql("SELECT count(*) FROM items") == "9"

    @pytest.mark.parametrize(
        ("made", "grant"),
        [
            ("CREATE SEQUENCE tickets", 'GRANT SELECT ON SEQUENCE "public"."tickets" TO'),
            ("SELECT lo_from_bytea(4711, 'x')", "GRANT SELECT ON LARGE OBJECT 4711 TO"),
        ],
        ids=["sequence", "large object"],
    )
    def test_what_no_table_stands_for_refuses_the_sync(
        self, make_pair: MakePair, made: str, grant: str
    ) -> None:
        source, target = make_pair(made)
        refused = target.pull("server-a", check=False)
        assert refused.code != 0
        assert f'{grant} "{ROLE}";' in refused.err
        source.database.psql(f'{grant} "{ROLE}";')
        assert target.pull("server-a").json["result"] == "done"


@pytest.mark.parametrize("mode", ["push", "pull", "both"])
def test_what_grants_prints_is_enough_for_check_and_harmless_to_repeat(
    mode: str, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    database = make_database()
    node = odd_node(database, make_node)
    name = "rights in shop"
    before = {c["name"]: c for c in node.run("check", "--json", check=False).json["checks"]}
    assert before[name]["state"] == "failed"
    for _ in range(2):
        database.psql(node.run("grants", "--mode", mode, "--sql").out)
    after = {c["name"]: c for c in node.run("check", "--json", check=False).json["checks"]}
    assert after[name]["state"] == ("warning" if mode == "push" else "ok"), after[name]
    left = node.run("grants", "--mode", mode, "--missing", "--json").json["databases"]
    assert [r for d in left for r in d["rights"]] == []
    told = node.run("grants", "--mode", mode).out
    assert "lacks 0 of" in told and "MISSING" not in told
    database.psql(f'ALTER ROLE "{ROLE}" NOBYPASSRLS')


def odd_node(database: Database, make_node: MakeNode) -> Node:
    """A node whose role has nothing yet, in a database whose names need all the quoting."""
    database.cluster.createrole(ROLE, "LOGIN NOBYPASSRLS")
    quoted = ODD.replace('"', '""')
    database.psql(
        f'CREATE SCHEMA "{quoted}"; CREATE TABLE "{quoted}"."{quoted}" (id bigserial PRIMARY KEY);'
        f'ALTER TABLE "{quoted}"."{quoted}" ENABLE ROW LEVEL SECURITY;'
        "CREATE TABLE parted (id int) PARTITION BY RANGE (id);"
        "CREATE TABLE part PARTITION OF parted DEFAULT; SELECT lo_from_bytea(0, 'x');"
        f'REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT CREATE ON DATABASE "{database.name}"'
        f' TO "{ROLE}"'
    )
    return make_node("server-a", database, start=False, conninfo=database.conninfo(user=ROLE))


def test_grants_of_a_role_that_is_not_there_are_refused_with_the_line_that_makes_it(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    node = make_node("server-a", make_database(), start=False)
    refused = node.run("grants", "--role", 'no"body', check=False)
    assert refused.code == 2
    assert 'CREATE ROLE "no""body" LOGIN;' in refused.err
