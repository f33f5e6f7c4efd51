"""Reads what a peer's `pg_dump --data-only` sends: data, never a script.

A dump from elsewhere is a program that a stranger wrote; psql would run it. The
scanner instead recognises the few forms in which pg_dump (15 to 18, plain format)
writes data, hands them on as typed pieces and refuses everything else with its
place and a look at it. It holds no rows: they go by in the parts in which they came.
"""

from __future__ import annotations

from peersync.dump.grammar import DataGrammar
from peersync.dump.lexer import DumpLexer
from peersync.dump.pieces import CopyBegin, Item, Piece, Statement
from peersync.dump.refusal import cut_off, refused

STATEMENT_LIMIT = 1024 * 1024  # bytes; 1,600 columns with the longest names need 0.4 MB


class DataScanner:
    """Push parser: `feed` bytes of any size (256 KiB to 1 MiB is best), take pieces.

    `complete` tells whether pg_dump's last line has been seen: without it, a dump
    that was cut off between two statements looks whole.
    """

    def __init__(self) -> None:
        self._lexer = DumpLexer(STATEMENT_LIMIT)
        self._grammar = DataGrammar()

    @property
    def complete(self) -> bool:
        return self._lexer.complete

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes, in order. Raises RefusedInput."""
        return self._pieces(self._lexer.feed(data))

    def finish(self) -> list[Piece]:
        """The pieces that the end of the stream completes.

        Raises CorruptData if it ends inside a statement, a block of rows or a large object.
        """
        pieces = self._pieces(self._lexer.finish())
        if not self._grammar.idle:
            raise cut_off("a large object", self._lexer.position)
        return pieces

    def _pieces(self, items: list[Item]) -> list[Piece]:
        pieces: list[Piece] = []
        for item in items:
            if isinstance(item, Statement):
                found = self._grammar.read(item)
                if found is None:
                    why = "something other than data in a dump of data"
                    raise refused(why, item.position, item.text.encode())
                pieces += found
            else:
                if isinstance(item, CopyBegin) and not self._grammar.idle:
                    raise refused("rows among large objects", self._lexer.position, b"COPY")
                pieces.append(item)
        return pieces
