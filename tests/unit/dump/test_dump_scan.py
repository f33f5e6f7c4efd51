"""A dump of data is read exactly, however it is cut; anything else in it is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peersync.core.errors import CorruptData, RefusedInput
from peersync.core.names import TableName, quote_ident
from peersync.dump.pieces import (
    CopyBegin,
    CopyEnd,
    CopyRows,
    LargeObject,
    LargeObjectData,
    Piece,
    SequenceValue,
)
from peersync.dump.scan import DataScanner

HEAD = b"""--
-- PostgreSQL database dump
--

\\restrict q4qeUi5qX7RgV1r7wNJ7eSgztzIsU1WG

-- Dumped from database version 18.6

SET statement_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET row_security = off;

"""
TAIL = b"""
--
-- PostgreSQL database dump complete
--

\\unrestrict q4qeUi5qX7RgV1r7wNJ7eSgztzIsU1WG

"""
OBJECTS = b"""SELECT pg_catalog.lo_create('70000');

ALTER LARGE OBJECT 70000 OWNER TO "the owner";

BEGIN;

SELECT pg_catalog.lo_open('70000', 131072);
SELECT pg_catalog.lowrite(0, '\\x00ff41');
SELECT pg_catalog.lowrite(0, '\\x42');
SELECT pg_catalog.lo_close(0);

COMMIT;
"""

names = st.one_of(
    st.sampled_from(
        ["t", "Order", "таблица", "期间", 'a"b', "a.b", "a\nb", "; COPY x FROM stdin;", "'", "\\."]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
)
values = st.one_of(
    st.none(),
    st.sampled_from(["\\.", "\n\\.\n", "\\", "\\\\.", ".", "\r\n\\.\r\n", "\\N", "", "\t"]),
    st.text(st.sampled_from("\\.\n\r\tN;a"), max_size=12),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
)
tables = st.tuples(
    names,
    names,
    st.lists(names, max_size=4),
    st.lists(st.lists(values, min_size=4, max_size=4), max_size=6),
)
ESCAPES = str.maketrans(
    {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f", "\v": "\\v"}
)


def copy_line(row: list[str | None]) -> str:
    """A row as COPY TO writes it."""
    return "\t".join("\\N" if v is None else v.translate(ESCAPES) for v in row) + "\n"


def copy_block(schema: str, name: str, columns: list[str], rows: list[list[str | None]]) -> bytes:
    listed = f"({', '.join(map(quote_ident, columns))})" if columns else ""
    lines = "".join(copy_line(row[: len(columns)]) for row in rows)
    begin = f"COPY {quote_ident(schema)}.{quote_ident(name)} {listed} FROM stdin;\n"
    return (begin + lines + "\\.\n\n\n").encode()


def scan(data: bytes, cuts: list[int] | None = None, whole: bool = False) -> list[Piece]:
    """The pieces, with the rows of each block joined."""
    scanner, pieces, start = DataScanner(), [], 0
    for stop in [*sorted(c % (len(data) + 1) for c in cuts or []), len(data)]:
        pieces += scanner.feed(data[start:stop])
        start = stop
    pieces += scanner.finish()
    assert scanner.complete or not whole
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, CopyRows) and joined and isinstance(joined[-1], CopyRows):
            joined[-1] = CopyRows(joined[-1].data + piece.data)
        else:
            joined.append(piece)
    return joined


@given(st.lists(tables, max_size=3), st.lists(st.integers(0, 10**6), max_size=20))
def test_tables_and_rows_arrive_whole_wherever_the_stream_is_cut(
    content: list[tuple[str, str, list[str], list[list[str | None]]]], cuts: list[int]
) -> None:
    wanted: list[Piece] = []
    for schema, name, columns, rows in content:
        wanted.append(CopyBegin(TableName(schema, name), tuple(columns)))
        if rows:
            lines = "".join(copy_line(row[: len(columns)]) for row in rows)
            wanted.append(CopyRows(lines.encode()))
        wanted.append(CopyEnd(len(rows)))
    data = HEAD + b"".join(copy_block(*table) for table in content) + TAIL
    assert scan(data, cuts, whole=True) == wanted
    if len(data) < 2000:
        assert scan(data, list(range(len(data))), whole=True) == wanted


@given(st.lists(st.integers(0, 10**6), max_size=10))
def test_large_objects_arrive_in_order_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    assert scan(HEAD + OBJECTS + TAIL, cuts, whole=True) == [
        LargeObject(70000),
        LargeObject(70000),
        LargeObjectData(70000, b"\x00\xffA"),
        LargeObjectData(70000, b"B"),
    ]


@pytest.mark.parametrize(
    ("literal", "name"),
    [
        ("'public.t_id_seq'", TableName("public", "t_id_seq")),
        ("'public.\"o''b\\r\"'", TableName("public", "o'b\\r")),
        ("E'public.\"o\\'b\\\\r\"'", TableName("public", "o'b\\r")),
        ('\'"sp ace.""q"."таб\nлица"\'', TableName('sp ace."q', "таб\nлица")),
    ],
)
def test_a_sequence_gets_its_name_and_value(literal: str, name: TableName) -> None:
    text = f"SELECT pg_catalog.setval({literal}, -9223372036854775808, false);\n"
    assert scan(text.encode()) == [SequenceValue(name, -(2**63), False)]


def test_the_widest_table_is_read() -> None:
    columns = [f"{n:04}" + '"' * 59 for n in range(1600)]
    begin = scan(copy_block("public", "wide", columns, []))[0]
    assert isinstance(begin, CopyBegin)
    assert begin.columns == tuple(columns)


HOSTILE = [
    b"DROP TABLE x;",
    b"\\! touch /tmp/x\n",
    b"\\connect other\n",
    b"\\restrict abc\n\\restrict def\n",
    b"\\unrestrict abc\n",
    b"\\restrict abc\n\\unrestrict abd\n",
    b"\\restrict a`id`\n",
    b"COPY public.t (a) FROM PROGRAM 'id';\n",
    b"COPY public.t (a) FROM '/etc/passwd';\n",
    b"COPY public.t (a) TO stdout;\n",
    b"COPY public.t (a) FROM stdin WITH (FORMAT csv);\n",
    b"COPY public.t (a) FROM stdin; SELECT 1;\n",
    b"COPY t (a) FROM stdin;\n",
    b"copy public.t (a) FROM stdin;\n",
    b"COPY public.t (a, (SELECT 1)) FROM stdin;\n",
    b"COPY public.\xff (a) FROM stdin;\n",
    b"COMMIT;\n",
    b"BEGIN;\nBEGIN;\n",
    b"BEGIN;\nCOPY public.t (a) FROM stdin;\n\\.\n",
    b"ROLLBACK;\n",
    b"SET ROLE postgres;\n",
    b"SET SESSION AUTHORIZATION postgres;\n",
    b"SET client_encoding = 'LATIN1';\n",
    b"SET standard_conforming_strings = off;\n",
    b"SET session_replication_role = replica;\n",
    b"SELECT pg_catalog.set_config('search_path', 'evil', false);\n",
    b"SELECT pg_catalog.set_config('role', 'postgres', false);\n",
    b"SELECT pg_catalog.setval('public.s', (SELECT 1), true);\n",
    b"SELECT pg_catalog.setval('s', 1, true);\n",
    b"SELECT pg_catalog.setval('public.s', 9223372036854775808, true);\n",
    b"SELECT pg_catalog.setval('public.s', 1, true), pg_catalog.pg_sleep(1);\n",
    b"SELECT pg_catalog.setval(E'public.\\x73', 1, true);\n",
    b"SELECT public.setval('public.s', 1, true);\n",
    b"SELECT pg_catalog.lo_export(70000, '/tmp/x');\n",
    b"SELECT pg_catalog.lo_import('/etc/passwd');\n",
    b"SELECT pg_catalog.lo_create('4294967296');\n",
    b"SELECT pg_catalog.lowrite(0, '\\x00');\n",
    b"SELECT pg_catalog.lo_open('1', 131072);\n",
    b"BEGIN;\nSELECT pg_catalog.lo_open('1', 131072);\nCOMMIT;\n",
    b"BEGIN;\nSELECT pg_catalog.lo_open('1', 131072);\nSELECT pg_catalog.lo_create('2');\n",
    b"ALTER LARGE OBJECT 1 OWNER TO a; DROP TABLE x;\n",
    b"ALTER SYSTEM SET archive_command = 'x';\n",
    b"INSERT INTO public.t VALUES (1);\n",
    b"DO $$ BEGIN END $$;\n",
    b"SELECT 1 \\! id\n;",
    b"SET lock_timeout = 0; \\! id\n",
    b"/* x */ SET lock_timeout = 0;\n",
    b"\0;\n",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_not_data_is_refused(text: bytes, at_once: bool) -> None:
    data = HEAD.replace(b"\\restrict q4qeUi5qX7RgV1r7wNJ7eSgztzIsU1WG\n", b"") + text
    with pytest.raises(RefusedInput) as refusal:
        scan(data, [] if at_once else list(range(len(data))))
    assert refusal.value.data["position"] <= len(data)
    assert len(refusal.value.detail or "") <= 80
    assert (refusal.value.detail or "").isprintable()


@pytest.mark.parametrize(
    "rows",
    [
        b"1\n\\.x\n",
        b"1\n\\. \n",
        b"1\\.\n",
        b"1\t\\.\n",
        b"1\n\\\\\\.\n",
        b"1\n\\.\r\n\\! id\n",
        b"1\r\n",
        b"a\0b\n",
        b"\\\\.\n" * 20 + b"x\\.\n",
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_rows_that_some_reader_would_take_for_their_end_are_refused(
    rows: bytes, at_once: bool
) -> None:
    data = b"COPY public.t (a) FROM stdin;\n" + rows + b"\\.\n"
    with pytest.raises(RefusedInput):
        scan(data, [] if at_once else list(range(len(data))))


def test_a_statement_without_end_is_refused_before_it_fills_the_memory() -> None:
    scanner = DataScanner()
    with pytest.raises(RefusedInput, match="longer than"):
        for _ in range(40):
            scanner.feed(b"SELECT '" + b"x" * 65536)


WHOLE = HEAD + copy_block("public", "t", ["a", "b"], [["1", "\\."], ["2", None]] * 2) + OBJECTS
WHOLE += b"SELECT pg_catalog.setval('public.s', 5, true);\n" + TAIL


@given(st.integers(0, len(WHOLE.rstrip()) - 1), st.integers(1, 50))
def test_a_dump_that_is_cut_off_never_looks_whole(end: int, step: int) -> None:
    scanner = DataScanner()
    with pytest.raises(CorruptData):
        for start in range(0, end, step):
            scanner.feed(WHOLE[start : min(start + step, end)])
        scanner.finish()
        if not scanner.complete:
            raise CorruptData("no last line")


def test_the_whole_dump_is_complete() -> None:
    assert len(scan(WHOLE, whole=True)) == 8
