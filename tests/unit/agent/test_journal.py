"""What the journal gets, over a real socket of its kind."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from peersync.agent import logs
from peersync.agent.journal import MAX_MESSAGE, JournalHandler, leads_to_journal

log = logging.getLogger("peersync.test")


class Journal:
    """The receiving end; reads entries as journald does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def entry(self) -> dict[str, str]:
        data, found = self._socket.recv(1 << 20), {}
        while data:
            name, separator, rest = data.partition(b"\n")
            if b"=" in name:
                name, _, value = name.partition(b"=")
                data = rest
            else:
                assert separator
                length = int.from_bytes(rest[:8], "little")
                value, data = rest[8 : 8 + length], rest[8 + length + 1 :]
            found[name.decode()] = value.decode()
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "socket")
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    with (tmp_path / "stderr").open("w+") as stream:
        found = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        logs.set_up("debug", "auto", environ, stream, journal.path)
        handlers = root.handlers[:]
        yield journal
        root.handlers[:], level = before
        root.setLevel(level)
        for handler in handlers:
            handler.close()
    journal.close()


def test_an_entry_has_fields_to_ask_for(journal: Journal) -> None:
    log.warning("peer %s is slow", "server-a")
    entry = journal.entry()
    line = entry.pop("CODE_LINE")
    assert line.isdigit()
    assert entry == {
        "MESSAGE": "peersync.test: peer server-a is slow",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "peersync",
        "SYSLOG_PID": str(os.getpid()),
        "PEERSYNC_LOGGER": "peersync.test",
        "CODE_FILE": __file__,
        "CODE_FUNC": "test_an_entry_has_fields_to_ask_for",
    }


async def test_an_entry_names_the_piece_of_work(journal: Journal) -> None:
    async def work() -> None:
        log.info("pulled")

    async with asyncio.TaskGroup() as group:
        group.create_task(work(), name="pull-shop-server-b")
    assert journal.entry()["PEERSYNC_TASK"] == "pull-shop-server-b"


def test_a_traceback_is_one_entry(journal: Journal) -> None:
    try:
        raise ValueError("a\nPRIORITY=0\nMESSAGE=forged")
    except ValueError:
        log.exception("it failed")
    entry = journal.entry()
    assert entry["PEERSYNC_EXCEPTION"] == "ValueError"
    assert entry["PRIORITY"] == "3"
    first, *rest = entry["MESSAGE"].split("\n")
    assert first == "peersync.test: it failed"
    assert all(line.startswith("    ") for line in rest)
    assert "ValueError: a" in entry["MESSAGE"]


@pytest.mark.parametrize(
    "name",
    ["a\nPRIORITY=0", "\udce4", "x" * 3 * MAX_MESSAGE, "naïve ✔"],
    ids=["a line", "half a character", "long", "letters"],
)
def test_no_name_of_a_database_can_break_or_forge_an_entry(journal: Journal, name: str) -> None:
    # straight to the handler: what else hears of it here can't pass on half a character
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, JournalHandler))
    handler.emit(log.makeRecord(log.name, logging.INFO, __file__, 1, "table %s", (name,), None))
    entry = journal.entry()
    assert entry["PRIORITY"] == "6"
    assert entry["MESSAGE"].startswith("peersync.test: table ")
    assert "\n" not in entry["MESSAGE"]
    with pytest.raises(BlockingIOError):
        journal.entry()


def test_what_the_journal_does_not_take_goes_to_stderr(tmp_path: Path) -> None:
    stream = io.StringIO()
    fallback = logging.StreamHandler(stream)
    handler = JournalHandler(fallback, tmp_path / "nobody")
    handler.handle(logging.LogRecord("peersync", logging.INFO, "f", 1, "hello", None, None))
    handler.close()
    assert stream.getvalue() == "hello\n"


def test_a_stderr_that_leads_elsewhere_is_not_the_journal(journal: Journal, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        found = os.fstat(stream.fileno())
        inherited = {"JOURNAL_STREAM": "8:1"}  # of the shell's own service
        assert not leads_to_journal(inherited, stream, journal.path)
        own = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert leads_to_journal(own, stream, journal.path)
        assert not leads_to_journal(own, stream, tmp_path / "nobody")
        assert not leads_to_journal(own, io.StringIO(), journal.path)
