"""Reads, from the definitions in a full dump, what an upsert must know of each table.

That is little: the columns with their types, the keys, which columns the server
computes, whether the table is partitioned or has rules. It reads the forms that
pg_dump prints and passes over everything else; what it does not understand makes
a table poorer (no key), never a key wrong. Nothing here is executed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from peersync.core.names import TableName
from peersync.dump.pieces import Statement

_TOKEN = re.compile(
    r"""\s+ | --[^\n]*
    | (?P<name> "(?:[^"]|"")+" )
    | (?P<word> [A-Za-z_\u0080-\U0010ffff][\w$]* )
    | (?P<text> [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' )
    | (?P<other> [^\s] )""",
    re.X | re.S,
)
_RELEVANT = re.compile(
    r"CREATE (?:(?:UNLOGGED |FOREIGN )?TABLE|UNIQUE INDEX|RULE) |ALTER (?:FOREIGN )?TABLE "
)
_CONSTRAINTS = frozenset({"CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN", "EXCLUDE", "LIKE"})
_AFTER_TYPE = frozenset(
    {
        "COLLATE",
        "COMPRESSION",
        "CONSTRAINT",
        "DEFAULT",
        "GENERATED",
        "NOT",
        "NULL",
        "OPTIONS",
        "STORAGE",
    }
)


@dataclass(slots=True)
class Column:
    type: str  # as pg_dump prints it: with its schema, unless that is pg_catalog
    not_null: bool = False
    generated: bool = False  # GENERATED ALWAYS AS (expression)
    identity_always: bool = False

    @property
    def built_in(self) -> bool:
        """Is the type one of PostgreSQL's own, whose operators are in pg_catalog?"""
        return "." not in self.type and (not self.type.startswith('"') or self.type == '"char"')


@dataclass(frozen=True, slots=True)
class Candidate:
    """A primary key, a unique constraint or a unique index over plain columns."""

    columns: tuple[str, ...]
    primary: bool = False
    deferrable: bool = False  # ON CONFLICT cannot use it
    nulls_equal: bool = False  # NULLS NOT DISTINCT


@dataclass(slots=True)
class TableFacts:
    columns: dict[str, Column] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)
    partitioned: bool = False
    has_rules: bool = False  # ON INSERT or ON UPDATE

    def best_key(self) -> Candidate | None:
        """The key to upsert by: the primary key, else a unique one in which NULLs are settled."""
        usable = [key for key in self.candidates if self._sent(key) and self._settled(key)]
        return min(usable, key=lambda key: (not key.primary, key.deferrable), default=None)

    def _sent(self, key: Candidate) -> bool:
        """Are the values of `key` in a dump? Generated columns are not."""
        known = [self.columns.get(name) for name in key.columns]
        return not any(column and column.generated for column in known)

    def _settled(self, key: Candidate) -> bool:
        known = [self.columns.get(name) for name in key.columns]
        not_null = all(column and column.not_null for column in known)
        return key.primary or key.nulls_equal or not_null


class Definitions:
    """Collects `TableFacts` from the statements of a dump, in their order."""

    def __init__(self) -> None:
        self.tables: dict[TableName, TableFacts] = {}

    def read(self, statement: Statement) -> None:
        """Take what `statement` says about tables; most statements say nothing."""
        if _RELEVANT.match(statement.text) is None:
            return
        words = _Words(statement.text)
        if words.skip("CREATE"):
            if words.skip("UNIQUE", "INDEX"):
                self._unique_index(words)
            elif words.skip("RULE"):
                self._rule(words)
            else:
                words.skip("UNLOGGED")
                words.skip("FOREIGN")
                words.skip("TABLE")
                self._create(words)
        elif words.skip("ALTER"):
            words.skip("FOREIGN")
            words.skip("TABLE")
            words.skip("ONLY")
            self._alter(words)

    def _facts(self, table: TableName) -> TableFacts:
        return self.tables.setdefault(table, TableFacts())

    def _create(self, words: _Words) -> None:
        table = words.table()
        if table is None:
            return
        facts = self._facts(table)
        for part in words.parenthesised():
            if part.peek() not in _CONSTRAINTS:
                _read_column(part, facts)
            elif part.skip("CONSTRAINT") and part.identifier() and part.skip("NOT", "NULL"):
                _column(facts, part).not_null = True
        facts.partitioned = words.find("PARTITION", "BY")
        if words.skip("INHERITS"):
            for part in words.parenthesised():
                parent = part.table()
                inherited = self.tables.get(parent) if parent is not None else None
                columns = inherited.columns if inherited else {}
                copied = {name: replace(column) for name, column in columns.items()}
                facts.columns = {**copied, **facts.columns}

    def _alter(self, words: _Words) -> None:
        table = words.table()
        if table is None:
            return
        if words.skip("ADD", "CONSTRAINT") and words.identifier():
            if words.skip("PRIMARY", "KEY"):
                self._key(table, words, primary=True)
            elif words.skip("UNIQUE"):
                self._key(table, words, primary=False)
        elif words.skip("ALTER", "COLUMN"):
            column = _column(self._facts(table), words)
            if words.skip("ADD", "GENERATED"):
                column.not_null = True
                column.identity_always = words.skip("ALWAYS")
            elif words.skip("SET", "NOT", "NULL"):
                column.not_null = True

    def _unique_index(self, words: _Words) -> None:
        if not (words.identifier() and words.skip("ON")):
            return
        words.skip("ONLY")
        table = words.table()
        if table is not None and words.skip("USING", "btree"):
            self._key(table, words, primary=False)

    def _key(self, table: TableName, words: _Words, primary: bool) -> None:
        nulls_equal = words.skip("NULLS", "NOT", "DISTINCT")
        columns = [_plain_column(part) for part in words.parenthesised()]
        nulls_equal = nulls_equal or words.find("NULLS", "NOT", "DISTINCT")
        if not columns or None in columns or words.find("WHERE"):
            return
        names = tuple(name for name in columns if name is not None)
        deferrable = words.find("DEFERRABLE")
        self._facts(table).candidates.append(Candidate(names, primary, deferrable, nulls_equal))

    def _rule(self, words: _Words) -> None:
        if words.identifier() and words.skip("AS", "ON"):
            writes = words.skip("INSERT") or words.skip("UPDATE")
            words.skip("DELETE")
            if words.skip("TO") and (table := words.table()) is not None and writes:
                self._facts(table).has_rules = True


def _column(facts: TableFacts, words: _Words) -> Column:
    """The column whose name comes next; one that nobody keeps, if it is not known."""
    return facts.columns.get(words.identifier() or "", Column(""))


def _read_column(words: _Words, facts: TableFacts) -> None:
    name = words.identifier()
    if name is None:
        return
    column = facts.columns[name] = Column(words.until(_AFTER_TYPE))
    column.not_null = words.find("NOT", "NULL")
    column.generated = words.find("GENERATED", "ALWAYS", "AS", "(")


def _plain_column(words: _Words) -> str | None:
    """The column of one part of a key; None for an expression, a collation or an operator class."""
    name = words.identifier()
    words.skip("DESC")
    if words.skip("NULLS"):
        words.skip("FIRST")
        words.skip("LAST")
    return name if words.peek() == "" else None


class _Words:
    """The tokens of a statement, or of a part of it, taken one after the other."""

    def __init__(self, text: str | list[str]) -> None:
        self._tokens = list(_tokens(text)) if isinstance(text, str) else text
        self._at = 0

    def peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def skip(self, *words: str) -> bool:
        """Pass over `words` if they come next."""
        matches = tuple(self._tokens[self._at : self._at + len(words)]) == words
        self._at += len(words) if matches else 0
        return matches

    def find(self, *words: str) -> bool:
        """Do `words` come somewhere, outside parentheses?"""
        depth = 0
        for at in range(self._at, len(self._tokens)):
            if depth == 0 and tuple(self._tokens[at : at + len(words)]) == words:
                return True
            depth += {"(": 1, ")": -1}.get(self._tokens[at], 0)
        return False

    def identifier(self) -> str | None:
        word = self.peek()
        if not word or not (word[0] in '"_' or word[0].isalpha()):
            return None
        self._at += 1
        return word[1:-1].replace('""', '"') if word[0] == '"' else word

    def table(self) -> TableName | None:
        schema = self.identifier()
        name = self.identifier() if self.skip(".") else None
        return TableName(schema, name) if schema is not None and name is not None else None

    def until(self, stops: frozenset[str]) -> str:
        start = self._at
        while self.peek() and self.peek() not in stops:
            self._at += 1
        return "".join(self._tokens[start : self._at])

    def parenthesised(self) -> list[_Words]:
        """The parts between the commas of the list in parentheses that comes next, if one does."""
        if not self.skip("("):
            return []
        parts: list[list[str]] = [[]]
        depth = 0
        while (word := self.peek()) and not (word == ")" and depth == 0):
            self._at += 1
            if word == "," and depth == 0:
                parts.append([])
            else:
                depth += {"(": 1, ")": -1}.get(word, 0)
                parts[-1].append(word)
        self.skip(")")
        return [_Words(part) for part in parts if part]


def _tokens(text: str) -> Iterator[str]:
    for match in _TOKEN.finditer(text.rstrip().removesuffix(";")):
        if match.lastgroup is not None:
            yield match.group()
