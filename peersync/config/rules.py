"""What a value must be, in words: nobody should have to read a type or a pattern.

Owns the sentences about wrong values, and the rules that a type of `model` cannot say: a
port that exists, a pattern of tables, an amount of memory that PostgreSQL takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from peersync.config.model import Config
from peersync.config.orchestration import (
    trouble_of_channels,
    trouble_of_schedules,
    trouble_of_sets,
)
from peersync.config.people import trouble_of_people
from peersync.config.secret import mask_conninfo
from peersync.core.errors import BadRequest
from peersync.core.patterns import compile_pattern

MAX_PORT = 65535
MIN_WORK_MEM_KB, MAX_WORK_MEM_KB = 64, 2**31 - 1  # what PostgreSQL allows
SHOWN_CHARS = 80
CHECK_AGAIN = "correct it, then: peersync config check"

_KB = {"kB": 1, "MB": 1 << 10, "GB": 1 << 20, "TB": 1 << 30}
_HOST = re.compile(r"\[[0-9a-fA-F:.]+\]|\*|[A-Za-z0-9_.-]*")
_PLAIN = {str: "a text in quotes", int: "a whole number", float: "a number", bool: "true or false"}


def expected(kind: Any) -> str | None:
    """What a value of this type of `model` looks like: "a whole number from 1 to 64".

    None for a structure, whose errors say more than its type could.
    """
    if get_origin(kind) is Annotated:
        plain, *notes = get_args(kind)
        meta = next(note for note in notes if isinstance(note, msgspec.Meta))
        return meta.description or _PLAIN[plain] + _limits(meta)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_args(kind)[:1] == (str,):
        return 'a list of texts in quotes, for example ["a", "b"]'
    return _PLAIN.get(kind)


def wrong_value(kind: Any, raw: Any, error: msgspec.ValidationError) -> str:
    """One sentence about a value that is not of its type."""
    wanted = expected(kind)
    return f"it must be {wanted}; got {shown(raw)}" if wanted else str(error)


def shown(raw: Any) -> str:
    """A wrong value, short and without passwords, as a file or a variable may have it."""
    text = mask_conninfo(str(raw).lower() if isinstance(raw, bool) else str(raw))
    text = text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
    return f'"{text}"' if isinstance(raw, str) else text


def violations(config: Config) -> Iterator[tuple[str, str]]:
    """The path of each value that has the right form and is wrong all the same, and why."""
    for key in ("listen", "advertise", "admin"):
        if (why := _address_trouble(getattr(config.node, key))) is not None:
            yield f"node.{key}", why
    for name, database in config.database.items():
        for key in ("include", "exclude"):
            for pattern in getattr(database, key):
                if (why := _pattern_trouble(pattern)) is not None:
                    yield f"database.{name}.{key}", why
    if not MIN_WORK_MEM_KB <= _kilobytes(config.full_sync.work_mem) <= MAX_WORK_MEM_KB:
        got = shown(config.full_sync.work_mem)
        yield "full_sync.work_mem", f"it must be from 64kB to 2047GB; got {got}"
    databases = set(config.database)
    yield from trouble_of_sets(config.table_set, databases)
    yield from trouble_of_schedules(config.schedule, databases)
    yield from trouble_of_channels(config.channel)
    if (trouble := trouble_of_people(config.people)) is not None:
        yield f"people.{trouble[0]}", trouble[1]


def _limits(meta: msgspec.Meta) -> str:
    if meta.le is None:
        return ""
    if meta.gt is not None:
        return f" above {meta.gt} and up to {meta.le}"
    return f" from {meta.ge} to {meta.le}"


def _address_trouble(text: str) -> str | None:
    host, _, port = text.rpartition(":")
    if not 1 <= int(port) <= MAX_PORT:
        return f"the port must be from 1 to {MAX_PORT}; got {shown(text)}"
    if not _HOST.fullmatch(host):
        return f"the host is no name and no address; got {shown(text)}"
    return None


def _pattern_trouble(text: str) -> str | None:
    try:
        compile_pattern(text)
    except BadRequest as error:
        return f"{error.message}; {error.hint}"
    return None


def _kilobytes(memory: str) -> int:
    return int(memory[:-2]) * _KB[memory[-2:]]  # int() takes the space, too
