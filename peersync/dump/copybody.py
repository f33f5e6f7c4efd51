r"""Finds the end of a COPY block, and refuses rows that pg_dump does not write.

The rows pass through untouched and, where a feed has no end of block in it, without
being copied. Three forms are legal to no writer but dangerous to some reader, so
they stop the stream:

* a `\.` that is not alone on its line: an older server takes it for the end of the
  data and drops the rest in silence;
* a carriage return (COPY writes it as `\r`): psql takes `\.` CR LF for the end of
  the rows, and what follows for commands;
* a NUL: psql reads lines as C strings and loses the rest of the line.
"""

from __future__ import annotations

import re

from peersync.dump.refusal import refused

_MARK = b"\\."
_ESCAPES = re.compile(rb"[^\\]*+(?:\\[^.][^\\]*+)*+", re.S)  # up to a mark that nothing escapes
_PATIENCE = 8  # escaped marks in one feed, before the slower but steady search
_FORBIDDEN = ((b"\r", "a carriage return"), (b"\0", "a NUL"))
_BACKSLASH, _DOT, _NEWLINE = b"\\", b".", b"\n"


class CopyBody:
    """The rows of one COPY block, fed in parts of any size.

    `rows` counts the complete lines so far. `begins` says whether the next byte
    begins a line, which is also the only place where the end of the block may be.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.begins = True
        self._odd = False  # the last byte seen is a backslash that escapes the next one

    def take(self, data: bytes, start: int, position: int) -> tuple[int, int, bool]:
        """Look at `data[start:]`; `position` is the place of `data[0]` in the stream.

        Returns (end of the rows, where to go on, whether the block is finished). While
        it is not, the bytes from "where to go on" (at most two, the possible beginning
        of the end) must come again in front of the next feed.
        """
        end, resume, finished = self._find_end(data, start, position)
        if end > start:
            self._check(data, start, end, position)
            self.rows += data.count(_NEWLINE, start, end)
            self.begins = data.endswith(_NEWLINE, start, end)
            self._odd = self._escapes(data, start, end)
        return end, resume, finished

    def _find_end(self, data: bytes, start: int, position: int) -> tuple[int, int, bool]:
        if self._odd and data.startswith(_DOT, start):
            raise self._stray(data, start, position)
        if data.find(_BACKSLASH, start) < 0:  # ten times faster than looking for two bytes
            return len(data), len(data), False
        at = data.find(_MARK, start)
        tries = 0
        while at >= 0:
            if self._line_begins(data, start, at):
                if data.startswith(_NEWLINE, at + 2):
                    return at, at + 3, True
                if at + 2 == len(data):
                    return at, at, False
                raise self._stray(data, at, position)
            if not self._escapes(data, start, at):
                raise self._stray(data, at, position)
            tries += 1
            at = self._next_mark(data, at + 2, tries > _PATIENCE)
        last = len(data) - 1
        if last >= start and data.endswith(_BACKSLASH) and self._line_begins(data, start, last):
            return last, last, False
        return len(data), len(data), False

    @staticmethod
    def _next_mark(data: bytes, start: int, steady: bool) -> int:
        if not steady:
            return data.find(_MARK, start)
        match = _ESCAPES.match(data, start)
        at = match.end() if match else start
        return at if data.startswith(_MARK, at) else -1

    def _line_begins(self, data: bytes, start: int, at: int) -> bool:
        return data.startswith(_NEWLINE, at - 1) if at > start else self.begins

    def _escapes(self, data: bytes, start: int, end: int) -> bool:
        """Is the byte at `end` escaped, by an odd run of backslashes that ends there?"""
        if not data.endswith(_BACKSLASH, start, end):
            return self._odd if end == start else False
        run_from = end - 1
        while run_from > start and data[run_from - 1] == _BACKSLASH[0]:
            run_from -= 1
        odd = (end - run_from) % 2 == 1
        return odd != self._odd if run_from == start else odd

    @staticmethod
    def _check(data: bytes, start: int, end: int, position: int) -> None:
        for byte, name in _FORBIDDEN:
            at = data.find(byte, start, end)
            if at >= 0:
                why = f"{name} among the rows of a COPY block"
                raise refused(why, position + at, data[at : at + 200])

    @staticmethod
    def _stray(data: bytes, at: int, position: int) -> Exception:
        why = r"an end-of-data mark \. inside a row of a COPY block"
        return refused(why, position + at, data[at : at + 200])
