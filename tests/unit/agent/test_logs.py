"""The agent's log: for people, for collectors, for the journal, and for nobody's forgeries."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
from aiohttp.http_exceptions import BadStatusLine

from peersync.agent import logs

FORGERY = "a\n2026-01-01T00:00:00Z error   peersync.jobs: forged\r\x1b[2Jb\u2028c\x85"
Writer = Callable[..., io.StringIO]


@pytest.fixture
def log_to() -> Iterator[Writer]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)

    def start(level: str = "info", form: str = "text", **environ: str) -> io.StringIO:
        stream = io.StringIO()
        logs.set_up(level, form, environ, stream)
        return stream

    yield start
    root.handlers[:], level = before
    root.setLevel(level)


log = logging.getLogger("peersync.test")


def fail() -> None:
    raise ValueError(FORGERY)


def test_text_has_time_level_and_place(log_to: Writer) -> None:
    stream = log_to()
    log.warning("peer %s is slow", "server-a")
    moment, level, rest = stream.getvalue().split(maxsplit=2)
    assert moment.endswith("Z")
    assert (level, rest) == ("warning", "peersync.test: peer server-a is slow\n")


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)],
)
def test_the_journal_gets_priorities_and_no_time_of_ours(
    log_to: Writer, level: str, priority: int
) -> None:
    stream = log_to("debug", "auto", JOURNAL_STREAM="8:1")
    getattr(log, level)("hello")
    assert stream.getvalue() == f"<{priority}>peersync.test: hello\n"


def test_each_line_of_a_traceback_keeps_its_priority_in_the_journal(log_to: Writer) -> None:
    stream = log_to("info", "auto", JOURNAL_STREAM="8:1")
    try:
        fail()
    except ValueError:
        log.exception("it broke")
    lines = stream.getvalue().splitlines()
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)


@pytest.mark.parametrize("journal", [False, True])
def test_a_message_is_one_line_whatever_is_in_it(log_to: Writer, journal: bool) -> None:
    stream = log_to("info", "auto", **({"JOURNAL_STREAM": "8:1"} if journal else {}))
    log.warning("table %s", FORGERY)
    (line,) = stream.getvalue().splitlines()
    assert "\x1b" not in line
    assert "\\n2026-01-01" in line


def test_a_name_in_an_exception_forges_no_line(log_to: Writer) -> None:
    stream = log_to()
    try:
        fail()
    except ValueError:
        log.exception("it broke")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("it broke")
    assert "Traceback" in rest[0]
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in stream.getvalue()


def test_json_is_one_object_a_line(log_to: Writer) -> None:
    stream = log_to("info", "json")
    log.info("a %s", FORGERY)
    try:
        fail()
    except ValueError:
        log.exception("it broke")
    first, second = map(json.loads, stream.getvalue().rstrip("\n").split("\n"))
    assert first["message"] == f"a {FORGERY}"
    assert (first["level"], first["logger"]) == ("info", "peersync.test")
    assert first["time"].endswith("Z")
    assert "ValueError" in second["exception"]


def test_the_level_can_be_changed_while_it_runs(log_to: Writer) -> None:
    stream = log_to("warning")
    log.info("not yet")
    logs.set_level("debug")
    log.debug("now")
    assert "not yet" not in stream.getvalue()
    assert "now" in stream.getvalue()


def test_libraries_that_talk_too_much_are_quiet_even_in_debug(log_to: Writer) -> None:
    stream = log_to("debug")
    logging.getLogger("asyncio").debug("using selector")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("level", ["info", "debug"])
def test_what_is_not_http_is_a_line_for_debugging_and_is_not_quoted(
    log_to: Writer, level: str
) -> None:
    stream = log_to(level)
    server = logging.getLogger("aiohttp.server")
    try:
        raise BadStatusLine("GET /canary")
    except BadStatusLine:
        server.exception("Error handling request from %s", "192.0.2.1")
    said = stream.getvalue()
    assert "canary" not in said
    assert "Traceback" not in said
    assert said.count("\n") == (1 if level == "debug" else 0)
    try:
        raise RuntimeError("a real one")
    except RuntimeError:
        server.exception("Unhandled exception")
    assert "a real one" in stream.getvalue()
