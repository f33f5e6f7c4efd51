"""The key that a script upserts by comes from the definitions in the dump."""

from __future__ import annotations

import pytest

from peersync.core.errors import CorruptData, RefusedInput
from peersync.core.names import TableName
from peersync.dump.ddl import Definitions
from peersync.dump.lexer import split_statements
from peersync.dump.script import plan_tables, survey, write_script
from peersync.dump.upsert import TablePlan, merge_sql

T = TableName("public", "t")
TABLE = """CREATE TABLE public.t (
    id integer NOT NULL,
    "a ""b, c" character varying(10) DEFAULT 'x, (y'::character varying NOT NULL,
    loose numeric(10,2),
    tag public.citext CONSTRAINT tag_there NOT NULL,
    gen integer GENERATED ALWAYS AS ((id * 2)) STORED NOT NULL,
    CONSTRAINT positive CHECK ((id > 0))
);
"""
PRIMARY = "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (id);\n"
TRAILER = "--\n-- PostgreSQL database dump complete\n--\n"


def definitions(text: str) -> Definitions:
    found = Definitions()
    for statement in split_statements(text.encode()):
        found.read(statement)
    return found


def key(text: str) -> tuple[str, ...] | None:
    best = definitions(TABLE + text).tables[T].best_key()
    return best.columns if best else None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", None),
        (PRIMARY, ("id",)),
        ("ALTER TABLE ONLY public.t ADD CONSTRAINT u UNIQUE (tag);" + PRIMARY, ("id",)),
        ('ALTER TABLE ONLY public.t ADD CONSTRAINT u UNIQUE ("a ""b, c", id);', ('a "b, c', "id")),
        ("ALTER TABLE ONLY public.t ADD CONSTRAINT u UNIQUE (loose);", None),
        ("ALTER TABLE ONLY public.t ADD CONSTRAINT u UNIQUE (gen);", None),
        (
            "ALTER TABLE ONLY public.t ADD CONSTRAINT u UNIQUE NULLS NOT DISTINCT (loose);",
            ("loose",),
        ),
        ("CREATE UNIQUE INDEX u ON public.t USING btree (id DESC, tag);", ("id", "tag")),
        ("CREATE UNIQUE INDEX u ON public.t USING btree (id) INCLUDE (loose);", ("id",)),
        ("CREATE UNIQUE INDEX u ON public.t USING btree (id) WHERE (id > 5);", None),
        ("CREATE UNIQUE INDEX u ON public.t USING btree (lower(tag));", None),
        ("CREATE UNIQUE INDEX u ON public.t USING btree (((id + 1)));", None),
        ('CREATE UNIQUE INDEX u ON public.t USING btree (tag COLLATE "C");', None),
        ("CREATE INDEX u ON public.t USING btree (id);", None),
        ("ALTER TABLE ONLY public.other ADD CONSTRAINT u UNIQUE (id);", None),
        ("ALTER TABLE ONLY public.t ADD CONSTRAINT p PRIMARY KEY (id, v WITHOUT OVERLAPS);", None),
    ],
)
def test_the_key_is_the_primary_key_or_a_unique_one_that_settles_nulls(
    text: str, wanted: tuple[str, ...] | None
) -> None:
    assert key(text) == wanted


def test_columns_are_read_with_their_types() -> None:
    text = TABLE + (
        "ALTER TABLE public.t ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (\n"
        "    SEQUENCE NAME public.t_id_seq\n    START WITH 1\n);\n"
        "CREATE TABLE public.child (\n    extra text\n)\nINHERITS (public.t);\n"
        "CREATE TABLE public.parts (\n    id integer\n)\nPARTITION BY RANGE (id);\n"
        "CREATE RULE r AS\n    ON UPDATE TO public.child DO INSTEAD NOTHING;\n"
    )
    tables = definitions(text).tables
    columns = tables[T].columns
    assert list(columns) == ["id", 'a "b, c', "loose", "tag", "gen"]
    assert columns["id"].identity_always
    assert columns["gen"].generated
    assert columns["tag"].not_null
    assert not columns["tag"].built_in
    assert columns['a "b, c'].built_in
    child = tables[TableName("public", "child")]
    assert list(child.columns) == [*columns, "extra"]
    assert child.has_rules
    assert tables[TableName("public", "parts")].partitioned


def test_a_deferrable_key_is_not_left_to_on_conflict() -> None:
    rows = "COPY public.t (id, tag) FROM stdin;\n1\tx\n\\.\n"
    deferrable = PRIMARY.replace("(id)", "(id) DEFERRABLE INITIALLY DEFERRED")
    for text, method in ((PRIMARY, "upsert"), (deferrable, "update-insert"), ("", "whole-row")):
        found = survey([(TABLE + rows + text + TRAILER).encode()])
        assert plan_tables(found, {})[T].method == method


def test_a_given_key_goes_before_the_dumps_own_and_an_empty_one_means_none() -> None:
    rows = "COPY public.t (id, tag) FROM stdin;\n1\tx\n\\.\n"
    found = survey([(TABLE + rows + PRIMARY + TRAILER).encode()])
    assert plan_tables(found, {T: ("tag",)})[T].key == ("tag",)
    assert plan_tables(found, {T: ()})[T].method == "whole-row"
    found = survey([(rows + TRAILER).encode()])
    with pytest.raises(RefusedInput) as refusal:
        plan_tables(found, {})
    assert refusal.value.data["tables"] == ["public.t"]


def test_no_name_can_leave_its_quotes() -> None:
    plan = TablePlan(TableName('a";DROP', "b'\n\\."), key=('k";',))
    text = merge_sql(plan, ('k";', "v"))
    assert '"a"";DROP"."b\'\n\\."' in text
    assert text.replace('""', "").count('"') % 2 == 0
    with pytest.raises(RefusedInput):
        merge_sql(TablePlan(TableName("a", "b\0")), ())


@pytest.mark.parametrize(
    "text",
    ["INSERT INTO public.t VALUES (1);", "update public.t SET id = 1;", "TRUNCATE public.t;"],
)
def test_a_dump_whose_rows_are_statements_is_refused(text: str) -> None:
    with pytest.raises(RefusedInput):
        survey([(TABLE + text + TRAILER).encode()])


def test_a_dump_without_its_last_line_or_changed_between_readings_is_corrupt() -> None:
    rows = "COPY public.t (id) FROM stdin;\n1\n\\.\n"
    with pytest.raises(CorruptData):
        survey([(TABLE + rows + PRIMARY).encode()])
    found = survey([(TABLE + rows + PRIMARY + TRAILER).encode()])
    changed = (TABLE + rows.replace("1\n", "1\n2\n") + PRIMARY + TRAILER).encode()
    written: list[bytes] = []
    with pytest.raises(CorruptData):
        write_script([changed], found, plan_tables(found, {}), "", written.append)
    assert b"COMMIT;" not in b"".join(written)


def test_definitions_are_counted_and_not_repeated() -> None:
    header = "--\n-- Name: t; Type: TABLE; Schema: public; Owner: -\n--\n\n"
    data = (header + TABLE + PRIMARY + TRAILER).encode()
    found = survey([data])
    assert [(item.type, item.name) for item in found.left_out] == [("TABLE", "t")] * 2
    written: list[bytes] = []
    write_script([data], found, plan_tables(found, {}), "key", written.append)
    script = b"".join(written)
    assert script.startswith(b"\\set ON_ERROR_STOP on\n\\restrict key\nBEGIN;\n")
    assert script.endswith(b"COMMIT;\n\\unrestrict key\n")
    assert b"CREATE TABLE" not in script
