"""Every awkward kind of object: brought into an empty database, then mended among other rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from tests.plugins.compare import assert_same_rows, extra_rows, rows_of, schema_of, spoil, stored
from tests.plugins.nodes import Node, TwoNodes

OBJECTS = (Path(__file__).with_name("sql") / "awkward" / "objects.sql").read_text()
NEVER_BROUGHT = ("LARGE OBJECT", "CREATE USER MAPPING")


def _plan(target: Node) -> Any:
    return target.run("pull", "server-a", "--dry-run", "--json").json["plan"]


def _pull(target: Node) -> Any:
    """The result of a pull that must have brought everything."""
    done = target.pull("server-a", check=False)
    assert done.code == 0, [
        (t["name"], t["note"], t["error"]) for t in done.json["tables"] if t["result"] != "done"
    ] or done.err
    return done.json


def _definitions(node: Node) -> list[str]:
    return [text for text in schema_of(node.database) if not any(n in text for n in NEVER_BROUGHT)]


def test_awkward_objects_are_brought_and_then_mended_among_other_rows(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    source.database.psql(OBJECTS)
    with psycopg.connect(source.database.conninfo()) as session:
        session.execute("CREATE TEMPORARY TABLE brief AS SELECT 1 AS id; COMMIT")
        planned = _plan(target)
        _pull(target)
    _says_what_does_not_come(planned)
    assert _definitions(target) == _definitions(source)
    assert_same_rows(source.database, target.database)
    here = target.database.psql
    assert here("SELECT n FROM counted UNION ALL SELECT n FROM of_counted") == "9\n18"
    assert here("SELECT relispopulated FROM pg_class WHERE relname = 'never'") == "f"
    for nowhere in ("pg_user_mapping", "pg_publication", "pg_event_trigger"):
        assert here(f"SELECT count(*) FROM {nowhere}") == "0"
    assert here("SELECT count(*) FROM heard") == "0"
    _mends(source, target)


def _says_what_does_not_come(planned: Any) -> None:
    names = {t["name"] for t in planned["tables"]}
    assert {"half_far_1", "hasty", "heir", "select", "sessions", "stage_0"} <= names
    assert {t["action"] for t in planned["tables"]} == {"create"}
    assert not names & {"brief", "Par ted", "parted_new", "far_away", "half_far_0", "member"}
    reasons = dict(planned["not_copied"])
    assert reasons.keys() == {"public.far_away", "public.half_far_0", "public.member"}
    assert "on another server" in reasons["public.half_far_0"]
    assert reasons["public.member"] == "part of an extension"


def _mends(source: Node, target: Node) -> None:
    here = target.database.psql
    spoil(target.database)
    here(
        "SELECT setval('shared', 5000), setval('down', -5), setval('free', 3);"
        "SELECT lo_unlink(70001), lo_from_bytea(70003, 'own');"
        "UPDATE uniques SET late = 4 - late, room = id + 9 WHERE id < 4;"
        "UPDATE hen SET egg = NULL; DELETE FROM egg WHERE id < 4; DELETE FROM tree WHERE id = 2;"
        "INSERT INTO fired VALUES (500, 'own', 1);"
    )
    plan = _plan(target)
    assert any("there are 2 large objects here" in warning for warning in plan["warnings"])
    reasons = dict(plan["not_copied"])
    for view in ("counted", "of_counted", "never"):
        assert f"REFRESH MATERIALIZED VIEW public.{view};" in reasons[f"public.{view}"]
    stale = here("SELECT n FROM counted")
    heard = here("SELECT count(*) FROM heard")
    _pull(target)
    extra_rows(source.database, target.database)
    assert here("SELECT n FROM counted") == stale  # as the plan said
    assert here("SELECT count(*) FROM heard") == heard  # nothing fired
    now = rows_of(target.database)
    assert (now.sequences["'public.shared'"], now.sequences["'public.down'"]) == (
        (5000, True),
        (-10, True),
    )
    assert now.sequences["'public.free'"] == (7, True)
    assert now.large_objects == {70001: b"there".hex(), 70002: "", 70003: b"own".hex()}
    kept, again = stored(target.database), _pull(target)
    assert (again["rows"]["inserted"], again["rows"]["updated"]) == (0, 0)
    assert stored(target.database) == kept
