"""Which filters a configuration may have, and what is said of one that it may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peersync.config.filters import Filter, no_expression, parse_name
from peersync.config.load import load_config
from peersync.core.errors import ConfigError
from peersync.core.names import TableName
from peersync.dump.boundary import StatementEnd

BASE = '[database.shop]\nconninfo = "postgresql:///shop"\n[[database.shop.filter]]\n'


def loaded(path: Path, filters: str) -> tuple[Filter, ...]:
    file = path / "peersync.toml"
    file.write_text(BASE + filters)
    return load_config(file, {}, uid=1000).config.database["shop"].filter


def test_filters_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        'table = "public.Orders"\nwhere = "NOT is_demo"\nexclude_columns = ["secret"]\n'
        '[[database.shop.filter]]\ntable = \'"Odd ""one""".t\'\ncolumns = ["a", "b"]\n',
    )
    assert [one.name for one in found] == [
        TableName("public", "orders"),
        TableName('Odd "one"', "t"),
    ]
    assert found[0].where == "NOT is_demo"
    assert found[1].columns == ("a", "b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('where = "true"', "table"),
        ('table = "orders"\nwhere = "true"', "does not name a table"),
        ('table = "public.*"\nwhere = "true"', "does not name a table"),
        ('table = "public.orders"', "needs where, columns or exclude_columns"),
        ('table = "public.orders"\ncolumns = ["a"]\nexclude_columns = ["b"]', "both columns"),
        ('table = "public.orders"\nwher = "true"', "wher"),
        ('table = "public.orders"\nwhere = "true; DROP TABLE x"', "no single expression"),
        ('table = "public.orders"\nwhere = " "', "it is empty"),
        (
            'table = "a.b"\nwhere = "x"\n[[database.shop.filter]]\ntable = "A.B"\nwhere = "y"',
            "names a.b twice",
        ),
    ],
)
def test_a_filter_that_can_not_be_one_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert words in f"{caught.value.message} {caught.value.detail}"
    assert "database.shop.filter" in caught.value.message


@pytest.mark.parametrize(
    "where",
    [
        "NOT is_demo",
        "a = ')'",
        "E'\\'' = x AND (b OR c)",
        "$$);$$ = a OR $x$ $y$ $x$ = a",
        "a$1$b$ = 1",
        "x = ANY (ARRAY[1, 2])",
        "U&'\\0061' = ne",
        "\"a)\"\"\" = 'it''s'",
        "id IN (SELECT id FROM public.kept)",
    ],
)
def test_an_expression_is_one(where: str) -> None:
    assert no_expression(where) is None


@pytest.mark.parametrize(
    "where",
    [
        "a) OR (b",
        "true) UNION SELECT (1",
        "a; b",
        "a -- b",
        "a /* b",
        "(a",
        "(a]",
        "'a",
        '"a',
        "$q$ a",
        "a = E'\\' OR b",
        "E'a'\n'b\\') OR (true'",
        "\\copy",
        "id = $1",
        "a\0",
        "",
    ],
)
def test_what_could_be_more_than_one_expression_is_not_one(where: str) -> None:
    assert no_expression(where) is not None


@settings(max_examples=1000)
@given(st.text("abE'\"$()[];-/*\\ \n1x", max_size=30))
def test_what_passes_can_not_leave_its_parentheses(where: str) -> None:
    if no_expression(where) is None:
        statement = f"SELECT (\n{where}\n);".encode()
        assert StatementEnd(0).find(statement + b"\nSELECT 1;", 0, True) == len(statement)


@given(st.text(min_size=1).filter(lambda t: "\0" not in t), st.text("abc_", min_size=1))
def test_any_name_can_be_written(schema: str, name: str) -> None:
    quoted = '"' + schema.replace('"', '""') + '"'
    assert parse_name(f"{quoted}.{name}") == TableName(schema, name)
