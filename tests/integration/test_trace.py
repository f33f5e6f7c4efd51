"""Two nodes, typed commands: a conflict is seen, traced, gone back on; new keys are kept apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.periodic_rig import make_group, wait_equal, wait_until
from tests.integration.shared_pair import running_pair
from tests.plugins import least
from tests.plugins.clusters import GetCluster
from tests.plugins.nodes import Node, TwoNodes

TABLES = """
CREATE TABLE t (id int PRIMARY KEY, v text, w int);
CREATE TABLE "Odd one" ("A" text, b int, v text, PRIMARY KEY ("A", b));
CREATE TABLE numbered (id serial PRIMARY KEY, v text);
CREATE TABLE keyless (v text);
CREATE TABLE coded (id int PRIMARY KEY, code text UNIQUE);
"""


@pytest.fixture(scope="module")
def pair(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    with running_pair(clusters, tmp_path_factory.mktemp("trace"), suffix="trace") as both:
        make_group(*both, table=TABLES)
        for node in both:  # all of them are captured, not only the first
            node.run("tables", "refresh")
        yield both


@contextmanager
def apart(pair: TwoNodes) -> Iterator[None]:
    """Nothing goes from one to the other meanwhile."""
    for node in pair:
        node.run("sync", "pause")
    yield
    for node in pair:
        node.run("sync", "resume")


def clash(pair: TwoNodes, number: int) -> None:
    """Both change the same row, and neither knows of the other; server-b later."""
    a, b = pair
    a.database.psql(f"INSERT INTO t VALUES ({number}, 'first', 1)")
    wait_equal(a, b)
    with apart(pair):
        a.database.psql(f"UPDATE t SET v = 'of a', w = 2 WHERE id = {number}")
        b.database.psql(f"UPDATE t SET v = 'of b', w = 2 WHERE id = {number}")
    wait_equal(a, b)


def conflicts(node: Node, *options: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = node.run("conflicts", "list", "--json", *options).json[
        "conflicts"
    ]
    return listed


def conflict_of(node: Node, number: int, **expected: Any) -> dict[str, Any]:
    wait_until("the conflict is recorded", lambda: of_key(node, number))
    (found,) = of_key(node, number)
    assert {name: found[name] for name in expected} == expected
    return found


def of_key(node: Node, number: int) -> list[dict[str, Any]]:
    return [one for one in conflicts(node) if one["key"] == f"({number})"]


def test_a_conflict_is_seen_and_gone_back_on_from_the_command_line(pair: TwoNodes) -> None:
    a, b = pair
    clash(pair, 1)
    assert a.database.psql("SELECT v FROM t WHERE id = 1") == "of b"
    found = conflict_of(a, 1, state="resolved", winner="incoming")
    shown = a.run("conflicts", "show", str(found["id"]))
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["≠", "v", "of", "a", "of", "b"] in lines
    assert ["w", "2", "2"] in lines
    assert "server-b" in shown.out
    a.run("conflicts", "restore", str(found["id"]))
    wait_until(
        "it is everywhere", lambda: b.database.psql("SELECT v FROM t WHERE id = 1") == "of a"
    )
    again = a.run("conflicts", "restore", str(found["id"]), "--json").json
    assert again["written"] is False
    b.database.psql("UPDATE t SET v = 'later' WHERE id = 1")
    wait_equal(a, b)
    refused = a.run("conflicts", "restore", str(found["id"]), "--json", check=False)
    assert refused.code == 1
    assert "changed since" in refused.json["error"]["message"]
    assert "--force" in refused.json["error"]["hint"]


def test_a_manual_conflict_waits_and_is_decided_for_both(pair: TwoNodes) -> None:
    a, b = pair
    for node in pair:
        warned = node.run("tables", "strategy", "public.t", "manual")
        assert "on all nodes" in warned.err
    clash(pair, 2)
    found = conflict_of(a, 2, state="open")
    assert [one["id"] for one in conflicts(a, "--open")] == [found["id"]]
    settled = a.run(
        "conflicts", "resolve", str(found["id"]), "--set", "v=agreed = yes", "--null", "w", "--json"
    ).json
    assert settled["after"] == {"id": "2", "v": "agreed = yes", "w": None}
    wait_until(
        "it is everywhere",
        lambda: b.database.psql("SELECT v FROM t WHERE id = 2") == "agreed = yes",
    )
    wait_until("it is closed on both", lambda: not conflicts(a, "--open") + conflicts(b, "--open"))
    there = conflict_of(b, 2, state="resolved")
    assert there["settled_by"].endswith(" on server-a")

    clash(pair, 3)  # what is kept as it is writes nothing, and is told all the same
    found = conflict_of(b, 3, state="open")
    choice = "--keep" if found["winner"] == "kept" else "--take"
    settled = b.run("conflicts", "resolve", str(found["id"]), choice, "--json").json
    assert settled["written"] is False
    wait_until("it is closed on both", lambda: not conflicts(a, "--open") + conflicts(b, "--open"))
    for node in pair:
        node.run("tables", "strategy", "public.t", "newer_wins")


def test_a_row_is_traced_over_both_nodes(pair: TwoNodes) -> None:
    a, b = pair
    a.database.psql("""INSERT INTO "Odd one" VALUES ('x, "y"', 7, 'one')""")
    wait_equal(a, b, table='"Odd one"')
    b.database.psql("""UPDATE "Odd one" SET v = 'two'""")
    wait_equal(a, b, table='"Odd one"')
    told = a.run("trace", '"Odd one"', 'x, "y"', "07", "--json").json
    assert told["key"] == {"A": 'x, "y"', "b": "7"}
    assert told["same"] is True
    here, there = told["nodes"]
    assert (there["node"], there["present"], there["origin_node"]) == ("server-b", True, "server-b")
    # with two nodes nobody needs to get it from here: this log does not have it
    assert (here["present"], here["origin"], here["digest"]) == (True, None, there["digest"])
    told = b.run("trace", '"Odd one"', 'x, "y"', "7", "--json").json
    assert (told["row"]["v"], told["entries"][-1]["row"]["v"]) == ("two", "two")
    text = b.run("trace", '"Odd one"', 'x, "y"', "7").out
    assert "not in its log" in text
    assert "server-b" in text


def test_a_row_that_differs_is_said_with_an_exit_code(pair: TwoNodes) -> None:
    a, b = pair
    a.database.psql("INSERT INTO t VALUES (50, 'same', 1)")
    wait_equal(a, b)
    b.database.psql(
        "SET session_replication_role = replica; UPDATE t SET v = 'not sent' WHERE id = 50"
    )
    assert a.run("trace", "t", "50", check=False).code == 4
    b.database.psql("SET session_replication_role = replica; DELETE FROM t WHERE id = 50")
    told = a.run("trace", "t", "50", "--json", check=False)
    assert (told.code, [n["present"] for n in told.json["nodes"]]) == (4, [True, False])
    b.database.psql("INSERT INTO t VALUES (50, 'same', 1)")
    wait_equal(a, b)


def test_a_peer_without_the_right_is_told_nothing(pair: TwoNodes) -> None:
    a, b = pair
    b.run("peer", "deny", "server-a", "--pull")
    try:
        told = a.run("trace", "t", "1", "--json").json
        assert told["nodes"][1]["present"] is None
        assert "may not pull" in told["nodes"][1]["problem"]
        checked = a.run("sequences", "check", "--json", check=False)
        assert "may not pull" in checked.json["silent"]["server-b"]
        assert checked.json["fine"] is False
    finally:
        b.run("peer", "allow", "server-a", "--pull")


@least.needs_more("a sequence is altered by its owner")
def test_new_keys_are_kept_apart(pair: TwoNodes) -> None:
    a, b = pair
    plan = a.run("sequences", "plan")
    assert 'ALTER SEQUENCE "public"."numbered_id_seq" INCREMENT BY 16' in plan.out
    assert a.run("sequences", "check", check=False).code == 1
    for node in pair:
        node.run("sequences", "apply")
    told = a.run("sequences", "check", "--json").json
    assert (told["fine"], told["slot"]) == (True, 0)
    with apart(pair):
        for node in pair:
            node.database.psql("INSERT INTO numbered (v) SELECT 'n' FROM generate_series(1, 5)")
    wait_equal(a, b, table="numbered")
    assert a.database.psql("SELECT count(*) FROM numbered") == "10"
    sql = b.run("sequences", "plan", "--sql", "--slot", "3").out
    b.database.psql(sql)  # as the owner of the tables would
    assert b.run("sequences", "apply", "--slot", "3", "--json").json["slot"] == 3
    taken = a.run("sequences", "apply", "--slot", "3", "--json", check=False)
    assert (taken.code, taken.json["error"]["message"]) == (2, "slot 3 belongs to server-b")


def test_rows_that_refuse_each_other_are_mended_from_the_command_line(pair: TwoNodes) -> None:
    a, b = pair
    with apart(pair):
        a.database.psql("INSERT INTO coded VALUES (1, 'X')")
        b.database.psql("INSERT INTO coded VALUES (2, 'X')")
    wait_until("both are put aside", lambda: quarantined(a) and quarantined(b))
    (ours,), (theirs,) = quarantined(b), quarantined(a)
    assert (ours["node"], ours["sqlstate"], ours["tries"] >= 1) == ("server-a", "23505", True)
    assert "coded_code_key" in b.run("quarantine", "show", str(ours["id"])).out
    refused = b.run("quarantine", "retry", str(ours["id"]), check=False)
    assert (refused.code, "refused" in refused.out) == (1, True)
    b.run("quarantine", "edit", str(ours["id"]), "code=Y")
    wait_until("it is sent", lambda: a.database.psql("SELECT code FROM coded WHERE id = 1") == "Y")
    if quarantined(a):  # perhaps the agent has tried it by itself
        a.run("quarantine", "retry", "--all")
    wait_equal(a, b, table="coded")
    assert a.database.psql("SELECT count(*) FROM coded") == "2"
    assert quarantined(a) == quarantined(b) == []
    gone = a.run("quarantine", "retry", str(theirs["id"]), "--json", check=False)
    assert (gone.code, "does not wait any more" in gone.json["error"]["message"]) == (2, True)


def quarantined(node: Node) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = node.run("quarantine", "list", "--json").json["changes"]
    return listed


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("conflicts", "show", "../x"), 2, "is no id"),
        (("conflicts", "show", "99999999999999999999"), 2, "is no id"),
        (("conflicts", "show", "999999"), 2, "there is no conflict"),
        (("conflicts", "list", "--table", "nosuch"), 2, "knows no table"),
        (("conflicts", "list", "--table", '"open'), 2, "not a pattern"),
        (("conflicts", "resolve", "1"), 2, "how is it to be decided"),
        (("conflicts", "resolve", "1", "--set", "noequals"), 2, "COLUMN=VALUE"),
        (("conflicts", "resolve", "1", "--keep", "--set", "v=1"), 2, "how is it to be decided"),
        (("quarantine", "show", "999999"), 2, "nothing in quarantine"),
        (("quarantine", "retry"), 2, "which ones"),
        (("quarantine", "retry", "1", "--all"), 2, "which ones"),
        (("quarantine", "skip", "1"), 2, "nobody is here"),
        (("quarantine", "edit", "1"), 2, "which column"),
        (("trace", "t", "1", "2"), 2, "2 values were given"),
        (("trace", "t", "one"), 2, "no key of public.t"),
        (("trace", "keyless", "1"), 2, "has no key"),
        (("trace", "*", "1"), 2, "means several tables"),
        (("trace", "nosuch", "1"), 2, "knows no table"),
        (("tables", "strategy", "t", "fastest"), 2, "no strategy"),
        (("tables", "remove", "nosuch"), 2, "knows no table"),
        (("sequences", "plan", "--step", "17"), 2, "no power of two"),
        (("sequences", "plan", "--slot", "16"), 2, "does not fit"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_is_typed_wrong_is_said(
    pair: TwoNodes, arguments: tuple[str, ...], code: int, words: str
) -> None:
    result = pair.source.run(*arguments, "--json", check=False)
    assert result.code == code, result.err
    error = result.json["error"]
    assert words in f"{error['message']} {error['hint']}"
    assert "Traceback" not in result.err


def test_the_quarantine_is_empty_and_says_so(pair: TwoNodes) -> None:
    assert pair.source.run("quarantine", "list").out == "Nothing is in quarantine.\n"
    assert pair.source.run("quarantine", "retry", "--all", "--json").json["results"] == []
