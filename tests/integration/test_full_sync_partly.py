"""What could not be written is said: rows without their parents, and a sync in which all failed."""

from __future__ import annotations

from tests.plugins.nodes import TwoNodes

PARENT = "CREATE TABLE shops (id int PRIMARY KEY, {more} town text);"
CHILD = "CREATE TABLE orders (id int PRIMARY KEY, shop int REFERENCES shops);"


def test_rows_whose_parents_were_left_out_are_counted(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    source.database.psql(
        PARENT.format(more="size int,")
        + CHILD
        + "INSERT INTO shops VALUES (1, 5, 'Ulm'), (2, 6, 'Graz');"
        "INSERT INTO orders VALUES (10, 1), (11, 2), (12, 2), (13, NULL);"
    )
    target.database.psql(PARENT.format(more="") + CHILD + "INSERT INTO shops VALUES (1, 'Ulm')")
    done = target.pull("server-a", check=False)
    assert (done.code, done.json["result"]) == (3, "partly")
    orders = next(t for t in done.json["tables"] if t["name"] == "orders")
    assert orders["result"] == "partly"
    assert "2 rows refer to rows of public.shops" in orders["note"]
    assert target.database.psql("SELECT count(*) FROM orders") == "4"
    shops = next(t for t in done.json["tables"] if t["name"] == "shops")
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
