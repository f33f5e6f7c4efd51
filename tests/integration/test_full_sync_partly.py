"""What could not be written is said: rows without their parents, and a sync in which all failed."""

from __future__ import annotations

from tests.integration.target_rig import broken_foreign_keys
from tests.plugins.nodes import TwoNodes

PARENT = "CREATE TABLE shops (id int PRIMARY KEY, {more} town text);"
CHILD = "CREATE TABLE orders (id int PRIMARY KEY, shop int REFERENCES shops);"


def test_rows_whose_parents_were_left_out_are_left_out_too(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    source.database.psql(
        PARENT.format(more="size int,")
        + CHILD
        + "INSERT INTO shops VALUES (1, 5, 'Ulm'), (2, 6, 'Graz');"
        "INSERT INTO orders VALUES (10, 1), (11, 2), (12, 2), (13, NULL);"
        "CREATE TABLE items (id int PRIMARY KEY, n int REFERENCES orders);"
        "CREATE TABLE bills (id int PRIMARY KEY, shop int REFERENCES shops);"
        "CREATE TABLE dues (id int PRIMARY KEY, bill int REFERENCES bills ON DELETE CASCADE);"
        "INSERT INTO items VALUES (1, 10), (2, 11);"
        "INSERT INTO bills VALUES (1, 1), (2, 2); INSERT INTO dues VALUES (1, 1), (2, 2);"
    )
    target.database.psql(PARENT.format(more="") + CHILD + "INSERT INTO shops VALUES (1, 'Ulm')")
    done = target.pull("server-a", check=False)
    assert (done.code, done.json["result"]) == (3, "partly")
    tables = {t["name"]: t for t in done.json["tables"]}
    orders = tables["orders"]
    assert (orders["result"], orders["inserted"], orders["skipped"]) == ("partly", 2, 2)
    assert "2 rows refer to rows of public.shops that are not here" in orders["note"]
    assert target.database.psql("SELECT id FROM orders ORDER BY 1") == "10\n13"
    for name in ("items", "bills", "dues"):  # created by this sync, with their foreign keys
        assert (tables[name]["result"], tables[name]["inserted"]) == ("partly", 1), name
        assert tables[name]["skipped"] == 1
        assert target.database.psql(f"SELECT id FROM {name}") == "1"
    assert target.database.psql("SELECT count(*) FROM pg_constraint WHERE contype = 'f'"
        " AND connamespace = 'public'::regnamespace AND convalidated") == "4"  # fmt: skip
    assert broken_foreign_keys(target.database) == ""
    shops = tables["shops"]
    assert shops["result"] == "blocked" and "column size is missing here" in shops["error"]
    shown = target.run("jobs", "show", done.json["session"][:8])
    assert "column size is missing here" in shown.out + shown.err


def test_a_sync_in_which_every_table_failed_has_failed(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    table = "CREATE TABLE words (id int PRIMARY KEY, word text {check});"
    source.database.psql(table.format(check="") + "INSERT INTO words VALUES (1, 'bad')")
    target.database.psql(table.format(check="CHECK (word <> 'bad')"))
    done = target.pull("server-a", check=False)
    assert (done.code, done.json["result"]) == (1, "failed")
    assert "public.words" in done.json["error"]["message"]
    assert "words_word_check" in done.json["error"]["detail"]
    assert target.database.psql("SELECT count(*) FROM words") == "0"
    assert target.run("status", check=False).code == 1
