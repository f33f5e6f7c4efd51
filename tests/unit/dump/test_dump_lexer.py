"""Definitions are cut into statements where psql cuts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peersync.core.errors import CorruptData, RefusedInput
from peersync.dump.lexer import DumpLexer, split_statements
from peersync.dump.pieces import Item, Statement, Toc

STATEMENTS = [
    "SELECT 'a;b';",
    "SELECT 'it''s; -- no comment';",
    "SELECT 'back\\';",
    "SELECT E'it\\'s; \\\\';",
    "SELECT E'a'';\\';';",
    "SELECT U&'a;', N'b;', B'1', x'ff';",
    'SELECT "a;""b;" FROM "U&";',
    "SELECT $$;$$, $a$;$$;$b$;$a$, $1, a$b;",
    "SELECT $тег$;$тег$;",
    "SELECT 1 -- ; '\n;",
    "SELECT /* ; /* ; */ ' */ 2;",
    "SELECT 1 - 2 / 3 -- x\n;",
    "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END;",
    "CREATE OR REPLACE PROCEDURE f() BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END;",
    "create function f() begin atomic; select (case when b then 1 end); end;",
    "CREATE FUNCTION begin_it() RETURNS int AS 'x' LANGUAGE sql;",
    "CREATE TABLE function (a int);",
    "BEGIN;",
    "END;",
    "CREATE VIEW v AS SELECT CASE WHEN true THEN 1 END;",
    "SELECT '\\.\n\\restrict x\n';",
    ";",
]


def lex(data: bytes, cuts: list[int]) -> list[Item]:
    lexer, items, start = DumpLexer(), [], 0
    for stop in [*sorted(c % (len(data) + 1) for c in cuts), len(data)]:
        items += lexer.feed(data[start:stop])
        start = stop
    return items + lexer.finish()


@given(
    st.lists(st.sampled_from(STATEMENTS), max_size=6),
    st.sampled_from(["\n", " ", "\n\n-- comment; '\n\n", ""]),
    st.lists(st.integers(0, 10**6), max_size=12),
)
def test_statements_end_at_the_right_semicolon_wherever_the_text_is_cut(
    statements: list[str], between: str, cuts: list[int]
) -> None:
    data = between.join(statements).encode()
    assert [i.text for i in lex(data, cuts) if isinstance(i, Statement)] == statements
    every = lex(data, list(range(len(data))))
    assert every == lex(data, [])


def test_a_statement_knows_its_place_and_its_header() -> None:
    text = (
        "SELECT 1;\n--\n-- Name: a; b; Type: FK CONSTRAINT; Schema: public; Owner: -\n--\n\n"
        "ALTER TABLE x;\n"
    )
    first, second = split_statements(text.encode())
    assert (first.position, first.toc) == (0, None)
    assert second == Statement(
        "ALTER TABLE x;", text.index("ALTER"), Toc("a; b", "FK CONSTRAINT", "public")
    )


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "SELECT 'a;",
        'SELECT "a;',
        "SELECT $x$;$$;",
        "SELECT /* ;",
        "SELECT (1;",
        "CREATE FUNCTION f() BEGIN ATOMIC SELECT 1;",
        "\\restrict abc\nSELECT 1;",
    ],
)
def test_definitions_that_are_cut_off_are_not_taken_for_whole(text: str) -> None:
    with pytest.raises(CorruptData):
        list(split_statements(text.encode()))


def test_restrict_lines_are_dropped_and_other_commands_refused() -> None:
    text = b"\\restrict abc\nSELECT 1;\n\\unrestrict abc\n"
    assert [s.text for s in split_statements(text)] == ["SELECT 1;"]
    with pytest.raises(RefusedInput) as refusal:
        list(split_statements(b"\\connect other\n"))
    assert "--create" in (refusal.value.hint or "")
    with pytest.raises(RefusedInput):
        list(split_statements(b"COPY public.t (a) FROM stdin;\n1\n\\.\n"))
    with pytest.raises(RefusedInput):
        list(split_statements(b"SELECT '\xff';"))


def test_rows_go_by_without_being_held() -> None:
    lexer = DumpLexer()
    lexer.feed(b"COPY public.t (a) FROM stdin;\n")
    part = b"x" * 1_000_000
    for _ in range(5):
        (item,) = lexer.feed(part)
        assert not isinstance(item, Statement)
        assert getattr(item, "data", None) is part  # the very bytes: nothing was copied
