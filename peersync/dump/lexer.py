"""Cuts a plain dump into statements and blocks of rows, in one pass, holding neither.

It knows where things begin and end, not what they mean: `grammar` says which
statements are data, `ddl` reads definitions. Rows of COPY blocks go by as bytes, a
statement is held until its semicolon (up to a limit). Of psql's commands only
`\\restrict` and its `\\unrestrict` may be there; a dump that asks for another
(`\\connect` comes from `pg_dump --create`, anything else from somebody with bad
intentions) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from peersync.dump.boundary import StatementEnd
from peersync.dump.copybody import CopyBody
from peersync.dump.grammar import parse_copy
from peersync.dump.pieces import CopyEnd, CopyRows, Item, Statement, Toc
from peersync.dump.refusal import cut_off, refused

STATEMENT_LIMIT = 64 * 1024 * 1024  # bytes; a view or a function may be long

_BLANK = re.compile(rb"[ \t\r\n\f\v]*")
_TOC = re.compile(r"-- (?:Data for )?Name: (.*); Type: ([A-Z ]+); Schema: (.*); Owner: .*", re.S)
_RESTRICT = re.compile(rb"\\(restrict|unrestrict) ([A-Za-z0-9]+)")
_TRAILER = b"-- PostgreSQL database dump complete"


class DumpLexer:
    """Push parser: `feed` bytes of any size, take items; `finish` when there are no more.

    `complete` tells whether pg_dump's last line has been seen.
    """

    def __init__(self, statement_limit: int = STATEMENT_LIMIT) -> None:
        self.complete = False
        self._limit = statement_limit
        self._buffer = b""
        self._start = 0  # what is before it in the buffer is done with
        self._base = 0  # place of the buffer's first byte in the stream
        self._end: StatementEnd | None = None
        self._body: CopyBody | None = None
        self._toc: Toc | None = None
        self._key: bytes | None = None  # of the \restrict that is open

    @property
    def position(self) -> int:
        """How many bytes of the stream have become items."""
        return self._base + self._start

    def feed(self, data: bytes) -> list[Item]:
        """The items that `data` completes. Raises RefusedInput."""
        rest = self._buffer[self._start :]
        self._base += self._start
        if self._end is not None:
            self._end.moved(self._start)
        self._buffer, self._start = (rest + data if rest else data), 0
        items: list[Item] = []
        while self._rows(items) if self._body else self._sql(items, final=False):
            pass
        return items

    def finish(self) -> list[Item]:
        """The items that the end of the stream completes. Raises CorruptData, RefusedInput."""
        items: list[Item] = []
        while self._body is None and self._sql(items, final=True):
            pass
        end = self._base + len(self._buffer)
        if self._body is not None:
            raise cut_off("the rows of a COPY block", end)
        if self._start < len(self._buffer):
            raise cut_off("a statement", end)
        if self._key is not None:
            raise cut_off(r"its \restrict … \unrestrict brackets", end)
        return items

    # --- rows -------------------------------------------------------------------------
    def _rows(self, items: list[Item]) -> bool:
        assert self._body is not None
        start = self._start
        end, self._start, finished = self._body.take(self._buffer, start, self._base)
        if end > start:
            whole = start == 0 and end == len(self._buffer)
            items.append(CopyRows(self._buffer if whole else self._buffer[start:end]))
        if finished:
            items.append(CopyEnd(self._body.rows))
            self._body = None
        return finished

    # --- statements -------------------------------------------------------------------
    def _sql(self, items: list[Item], final: bool) -> bool:
        """One step outside rows. False: more bytes are needed."""
        buffer = self._buffer
        if self._end is None:
            blank = _BLANK.match(buffer, self._start)
            self._start = blank.end() if blank else self._start
            if self._start >= len(buffer):
                return False
            if buffer.startswith((b"--", b"\\"), self._start):
                return self._line(final)
            if buffer[self._start :] == b"-" and not final:
                return False
            self._end = StatementEnd(self._start)
        return self._statement(items, final)

    def _statement(self, items: list[Item], final: bool) -> bool:
        assert self._end is not None
        buffer, start = self._buffer, self._start
        stop = self._end.find(buffer, self._base, final)
        self._check_length(len(buffer) if stop is None else stop)
        if stop is None:
            return False
        text = buffer[start:stop]
        if text.startswith(b"COPY "):
            if stop == len(buffer):
                if final:
                    raise cut_off("a COPY statement", self.position)
                return False  # the line's end is needed too; the finder stays at the semicolon
            begin = parse_copy(text)
            if begin is None or not buffer.startswith(b"\n", stop):
                raise refused("a COPY that pg_dump does not write", self.position, text)
            items.append(begin)
            self._body = CopyBody()
            stop += 1
        else:
            items.append(Statement(_decode(text, self.position), self.position, self._toc))
        self._start, self._end = stop, None
        return True

    def _line(self, final: bool) -> bool:
        newline = self._buffer.find(b"\n", self._start)
        if newline < 0 and not final:
            self._check_length(len(self._buffer))
            return False
        stop = newline + 1 if newline >= 0 else len(self._buffer)
        line = self._buffer[self._start : stop].rstrip(b"\n")
        if line.startswith(b"\\"):
            if newline < 0:
                raise cut_off("a psql command", self._base + stop)
            self._command(line)
        elif line == _TRAILER:
            self.complete = True
        elif (match := _TOC.fullmatch(line.decode("utf-8", "replace"))) is not None:
            self._toc = Toc(*match.groups())
        self._start = stop
        return True

    def _command(self, line: bytes) -> None:
        match = _RESTRICT.fullmatch(line)
        opens = match is not None and match[1] == b"restrict"
        if match is not None and (self._key is None if opens else self._key == match[2]):
            self._key = match[2] if opens else None
            return
        hint = None
        if line.startswith(b"\\connect"):
            hint = "Make the dump without --create."
        raise refused("a psql command in the dump", self.position, line, hint)

    def _check_length(self, stop: int) -> None:
        if stop - self._start > self._limit:
            why = f"a statement longer than {self._limit} bytes"
            raise refused(why, self.position, self._buffer[self._start : self._start + 200])


def _decode(text: bytes, position: int) -> str:
    if b"\0" in text:
        raise refused("a NUL in a statement", position, text)
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        hint = "Make the dump with --encoding=UTF8."
        raise refused("a statement that is not UTF-8", position, text, hint) from error


def split_statements(sql: bytes) -> Iterator[Statement]:
    """The statements of a dump without rows (`pg_dump --schema-only`), in order.

    Raises RefusedInput (a psql command, rows) and CorruptData (cut off).
    """
    lexer = DumpLexer()
    for item in [*lexer.feed(sql), *lexer.finish()]:
        if not isinstance(item, Statement):
            raise refused("rows in a dump that is to hold definitions only", lexer.position, b"")
        yield item
