"""What PostgreSQL 18 writes of inherited columns, in words that older servers read."""

from __future__ import annotations

from peersync.dump.olderform import older_form


def test_not_null_of_an_inherited_column_becomes_a_statement_of_its_own() -> None:
    written = (
        'CREATE TABLE public."De rived" (\n    CONSTRAINT nn NOT NULL "I d" NO INHERIT,\n'
        "    w integer DEFAULT 5 NOT NULL,\n    NOT NULL id\n)\nINHERITS (public.base);"
    )
    assert older_form(written) == (
        'CREATE TABLE public."De rived" (\n    w integer DEFAULT 5 NOT NULL\n)\n'
        "INHERITS (public.base);\n"
        'ALTER TABLE ONLY public."De rived" ALTER COLUMN "I d" SET NOT NULL;\n'
        'ALTER TABLE ONLY public."De rived" ALTER COLUMN id SET NOT NULL;'
    )


def test_a_table_without_columns_of_its_own_stays_one() -> None:
    written = "CREATE TABLE app.c (\n    NOT NULL id\n)\nINHERITS (app.b);"
    assert older_form(written) == (
        "CREATE TABLE app.c (\n)\nINHERITS (app.b);\n"
        "ALTER TABLE ONLY app.c ALTER COLUMN id SET NOT NULL;"
    )


def test_what_needs_no_other_words_is_left_alone() -> None:
    assert older_form("CREATE TABLE app.t (\n    id integer NOT NULL,\n    v text\n);") is None
    assert older_form("CREATE VIEW app.v AS\n    NOT NULL id") is None
