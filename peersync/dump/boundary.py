"""Finds where an SQL statement ends, the way psql does.

Everything in a dump hangs on this: a semicolon inside a string, a comment, a dollar
quote, a pair of parentheses or an SQL-standard function body ends nothing. The rules
are those of psql's lexer (psqlscan.l), its heuristic for `BEGIN ATOMIC … END` too:
a statement that starts with CREATE [OR REPLACE] FUNCTION or PROCEDURE counts BEGIN
and CASE against END, outside parentheses.

The finder keeps its place, so that a statement may come in parts of any size and
each byte is looked at about once.
"""

from __future__ import annotations

import re

from peersync.dump.refusal import refused

_IDENT = rb"[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*"
_TAG = rb"[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*"
_TOKEN = re.compile(
    rb"(?P<skip>[^A-Za-z_\x80-\xff'\"$();\\/\-]+)"
    rb"|(?P<line>--)|(?P<block>/\*)"
    rb"|(?P<escape>[eE]')|(?P<string>')|(?P<name>\")"
    rb"|(?P<word>" + _IDENT + rb")"
    rb"|(?P<dollar>\$(?:" + _TAG + rb")?\$)"
    rb"|(?P<open>\()|(?P<close>\))|(?P<end>;)|(?P<backslash>\\)"
    rb"|(?P<other>[$/\-])"
)
_HALF_TAG = re.compile(rb"\$(?:" + _TAG + rb")?\Z")
_NEWLINE = re.compile(rb"[\r\n]")
_IN_ESCAPE = re.compile(rb"['\\]")
_IN_BLOCK = re.compile(rb"/\*|\*/")
_HEADS = (
    (b"create", b"function"),
    (b"create", b"procedure"),
    (b"create", b"or", b"replace", b"function"),
    (b"create", b"or", b"replace", b"procedure"),
)


class StatementEnd:
    """Looks for the semicolon that ends the statement at offset `start` of a buffer.

    `find` is called until it returns the offset after the semicolon; then the next
    statement needs a new finder. Between calls the buffer may grow at its end, and
    lose bytes at its front, which `moved` must be told.
    """

    def __init__(self, start: int) -> None:
        self._at = start  # everything before it is done with
        self._inside = ""  # the kind of quote or comment that `_at` is inside of
        self._delimiter = b""  # of a dollar quote
        self._comments = 0  # depth of /* */
        self._parens = 0
        self._begins = 0  # depth of BEGIN … END in an SQL-standard body
        self._head: tuple[bytes, ...] = ()  # the first words, lower case

    def moved(self, dropped: int) -> None:
        """The buffer lost so many bytes at its front."""
        self._at -= dropped

    def find(self, data: bytes, position: int, final: bool = False) -> int | None:
        """Offset after the statement's semicolon in `data`, or None: more is needed.

        `position` is the place of `data[0]` in the stream; `final` says that nothing
        follows `data`. Raises RefusedInput for a psql command inside a statement.
        """
        while self._at < len(data):
            if self._inside:
                if not self._leave(data):
                    return None
                continue
            match = _TOKEN.match(data, self._at)
            if match is None:
                return None
            kind = str(match.lastgroup)
            if not final and self._may_continue(data, match, kind):
                return None
            if kind == "end" and self._parens == 0 and self._begins == 0:
                return match.end()  # and stay here: asked again, it says the same
            self._at = match.end()
            if kind == "backslash":
                at = match.start()
                raise refused("a psql command inside SQL", position + at, data[at : at + 200])
            self._enter(kind, match.group())
        return None

    @staticmethod
    def _may_continue(data: bytes, match: re.Match[bytes], kind: str) -> bool:
        """Could more bytes turn this token into another one?"""
        if kind == "other" and match.group() == b"$":
            return _HALF_TAG.match(data, match.start()) is not None
        return kind in ("word", "other") and match.end() == len(data)

    def _enter(self, kind: str, token: bytes) -> None:
        if kind in ("line", "block", "escape", "string", "name", "dollar"):
            self._inside = kind
            self._delimiter = token
            self._comments = 1
        elif kind == "open":
            self._parens += 1
        elif kind == "close":
            self._parens = max(0, self._parens - 1)
        elif kind == "word":
            self._count(token.lower())

    def _count(self, word: bytes) -> None:
        if len(self._head) < 4:
            self._head += (word,)
        if self._parens or word not in (b"begin", b"case", b"end"):
            return
        if not any(self._head[: len(head)] == head for head in _HEADS):
            return
        if word == b"end":
            self._begins = max(0, self._begins - 1)
        elif word == b"begin" or self._begins:
            self._begins += 1

    def _leave(self, data: bytes) -> bool:
        """Move behind the quote or comment. False: its end is not in `data` yet."""
        kind = self._inside
        if kind == "escape":
            return self._leave_escape(data)
        if kind == "block":
            return self._leave_block(data)
        if kind == "line":
            match = _NEWLINE.search(data, self._at)
            found, width = (match.start() if match else -1), 1
        else:
            mark = {"string": b"'", "name": b'"'}.get(kind, self._delimiter)
            found, width = data.find(mark, self._at), len(mark)
        if found < 0:
            self._at = max(self._at, len(data) - width + 1)
            return False
        self._at, self._inside = found + width, ""
        return True

    def _leave_escape(self, data: bytes) -> bool:
        while (match := _IN_ESCAPE.search(data, self._at)) is not None:
            at = match.start()
            if at + 1 == len(data):
                self._at = at
                return False
            if match.group() == b"'" and not data.startswith(b"'", at + 1):
                self._at, self._inside = at + 1, ""
                return True
            self._at = at + 2
        self._at = max(self._at, len(data))
        return False

    def _leave_block(self, data: bytes) -> bool:
        while (match := _IN_BLOCK.search(data, self._at)) is not None:
            self._at = match.end()
            self._comments += 1 if match.group() == b"/*" else -1
            if self._comments == 0:
                self._inside = ""
                return True
        self._at = max(self._at, len(data) - 1)
        return False
