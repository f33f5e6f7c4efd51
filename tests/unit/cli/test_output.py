"""How numbers and tables look."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peersync.cli.output import (
    ago,
    clean,
    count,
    duration,
    emit_json,
    flat,
    indented,
    print_err,
    print_table,
    size,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (1_503_238_553, "1.4 GiB"),
        (5 * 2**60, "5120.0 PiB"),
    ],
)
def test_sizes_are_iec(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text


@given(st.integers(min_value=0, max_value=2**59))
def test_a_size_never_shows_more_than_four_digits_before_the_point(size_bytes: int) -> None:
    number = size(size_bytes).split(" ")[0]
    assert float(number) <= 1024
    assert number != "1024.0"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (123, "2 min 3 s"),
        (3599.9, "1 h"),
        (18_120, "5 h 2 min"),
        (273_600, "3 d 4 h"),
        (-5, "-5 s"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "now"), (4, "4 s ago"), (-120, "in 2 min"), (7300, "2 h ago"), (172_800, "2 d ago")],
)
def test_times_are_relative(seconds: float, text: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == text


def test_what_never_happened_is_never() -> None:
    assert ago(None, NOW) == "never"


def test_long_numbers_are_grouped() -> None:
    assert count(1_240) == "1\u202f240"
    assert count(999) == "999"


def test_a_table_in_a_pipe_is_aligned_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["peer", "rows"], [["hq", 7], ["branch\x1b[31m", 1240], [None, None]])
    assert capsys.readouterr().out.splitlines() == [
        "PEER            ROWS",
        r"hq                 7",
        r"branch\x1b[31m  1240",
        "–                  –",
    ]


def test_json_has_its_version_first(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"at": NOW, "name": "☃"})
    text = capsys.readouterr().out
    assert text.startswith('{"schema_version":1,')
    assert json.loads(text)["name"] == "☃"


@given(st.text())
def test_clean_text_has_no_control_character(text: str) -> None:
    assert clean(text).isprintable()


@given(st.text())
def test_text_on_one_line_has_no_control_character(text: str) -> None:
    assert flat(text).isprintable()


@given(st.text())
def test_only_the_line_breaks_of_a_longer_text_are_kept(text: str) -> None:
    lines = indented(text).split("\n")
    assert all(line.isprintable() for line in lines)
    assert all(line.startswith("    ") for line in lines[1:])


def test_an_error_of_several_lines_is_indented_and_can_not_move_the_cursor() -> None:
    assert indented("broken\n\x1b[2Jhint: mend it\n") == "broken\n    \\x1b[2Jhint: mend it"


@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        ({"LC_ALL": "C"}, "ok ### 12 000 Z\\xfcrich"),
        ({"LANG": "POSIX"}, "ok ### 12 000 Z\\xfcrich"),
        ({"LANG": "C", "LC_ALL": "C.UTF-8"}, "✔ ███ 12\u202f000 Zürich"),
        ({"LC_ALL": "", "LANG": "de_DE.UTF-8"}, "✔ ███ 12\u202f000 Zürich"),
        ({}, "✔ ███ 12\u202f000 Zürich"),
    ],
)
def test_a_terminal_without_utf8_gets_signs_that_it_has(
    environ: dict[str, str],
    shown: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    print_err(f"✔ ███ {count(12_000)} Zürich")
    assert capsys.readouterr().err == shown + "\n"


def test_json_is_whole_where_there_is_no_utf8(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    emit_json({"name": "☃ 𝄞 ü"})
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text)["name"] == "☃ 𝄞 ü"
