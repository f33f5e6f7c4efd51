"""What two nodes say to each other to prove that a table is the same on both.

A question is one message with bounds; the answer is a stream of lines, each a message of its
own, and an empty line now and then while nothing is known yet. A stream that does not end with
`End` is not an answer: what was said before it must not be used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

from peersync.core.errors import ProtocolError
from peersync.wire.messages import Count, Message, Name, TableRef

MEDIA_TYPE = "application/x-ndjson"
PATH = "/api/sync/digests"
MAX_LINE_BYTES = 32 * 1024 * 1024  # 4096 keys of some kilobytes
MAX_QUESTION_BYTES = 32 * 1024 * 1024
CUT_CHARACTERS = 2 * 1024 * 1024  # of keys and values in one message: up to 12 MB with escapes
MAX_RANGES = 20_000
MAX_KEYS = 2_000
SHOWN_CHARACTERS = 2_000  # of a value

Part = Annotated[str, msgspec.Meta(max_length=1 << 20)]
KeyText = Annotated[tuple[Part, ...], msgspec.Meta(min_length=1, max_length=64)]
Names = Annotated[tuple[Name, ...], msgspec.Meta(max_length=1700)]
Wanted = Literal[
    "probe", "kept total", "kept", "cuts", "totals", "blocks", "rows", "keys", "values", "kept back"
]


class DigestRequest(Message, frozen=True, kw_only=True):
    """Asks for digests of one table, of the columns and by the key that both sides have.

    cuts: where the table is cut into ranges, and the total of all of it where that is read at
    once. totals: of each of `ranges`, (low, high), null is
    open. blocks: of the keys from `lower` on, below `upper`. rows: of `ranges`. keys, values: of
    the rows with these keys. probe: no table, only how this server hashes. kept, kept total: blocks
    of the whole table, or all of it as one, as known without reading it; nothing where it is not.
    kept back: those of these keys whose rows the one asked has changed, and gives to nobody.
    """

    database: Name
    what: Wanted
    table: TableRef | None = None
    columns: Names = ()
    types: Annotated[tuple[str, ...], msgspec.Meta(max_length=1700)] = ()  # of the one asked
    key: Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)] = ()
    as_text: Names = ()
    numbers: Names = ()
    only: bool = True
    wide: bool = False
    portable: bool = False
    lower: KeyText | None = None
    upper: KeyText | None = None
    ranges: Annotated[
        tuple[tuple[KeyText | None, KeyText | None], ...], msgspec.Meta(max_length=MAX_RANGES)
    ] = ()
    keys: Annotated[tuple[KeyText, ...], msgspec.Meta(max_length=MAX_KEYS)] = ()


class _Line(Message, frozen=True, kw_only=True, tag_field="is", tag=str.lower):
    """Base of the lines of an answer. Digests are hexadecimal digits, all of the same length."""


class Probe(_Line, frozen=True, kw_only=True):
    text: str


class Cuts(_Line, frozen=True, kw_only=True):
    """Where ranges begin; what the flags mean: `postgres.rangetotals.Cuts`."""

    bounds: tuple[KeyText, ...] = ()
    ordered: bool = False
    large: bool = False
    brief: bool = False


class Totals(_Line, frozen=True, kw_only=True):
    """All rows of the next one of the ranges."""

    rows: Count
    digest: Annotated[str, msgspec.Meta(max_length=200)]


class Blocks(_Line, frozen=True, kw_only=True):
    """Blocks in order: where each begins, its rows, its digest."""

    lows: tuple[KeyText | None, ...]
    rows: tuple[Count, ...]
    digests: tuple[str, ...]


class Rows(_Line, frozen=True, kw_only=True):
    """Rows by key. place: of the range. versions: change with every write of a row."""

    keys: tuple[KeyText, ...]
    digests: tuple[str, ...]
    copies: tuple[Count, ...]
    places: tuple[Count, ...] = ()
    versions: tuple[str, ...] = ()


class Values(_Line, frozen=True, kw_only=True):
    """Rows by key: of each column a digest of its value, and the beginning of its text."""

    keys: tuple[KeyText, ...]
    digests: tuple[tuple[str | None, ...], ...]
    texts: tuple[tuple[str | None, ...], ...]


class Keys(_Line, frozen=True, kw_only=True):
    """Some of the keys that were asked for."""

    keys: tuple[KeyText, ...]


class Broken(_Line, frozen=True, kw_only=True):
    """The database refused, after the answer had begun."""

    code: str
    message: str
    hint: str | None = None
    retryable: bool = False


class End(_Line, frozen=True, kw_only=True):
    """`next`: where to go on; the view of the database was let go of.

    kept: when the oldest of the blocks that were told without reading them was read.
    """

    next: KeyText | None = None
    kept: Annotated[str, msgspec.Meta(max_length=40)] | None = None


Line = Probe | Cuts | Totals | Blocks | Rows | Values | Keys | Broken | End


def cut(sizes: Iterable[int]) -> list[slice]:
    """Things of these sizes, in characters, as runs that fit into one message."""
    begins: list[int] = []
    total = count = 0
    for count, size in enumerate(sizes, 1):
        if not begins or total + size > CUT_CHARACTERS:
            begins.append(count - 1)
            total = 0
        total += size
    ends = [*begins[1:], count]
    return [slice(low, high) for low, high in zip(begins, ends, strict=False)]


def key_size(key: Iterable[str | None] | None) -> int:
    return sum(len(part or "") + 4 for part in key or ()) + 40


_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_encoder = msgspec.json.Encoder()


def encode_line(line: Line) -> bytes:
    return _encoder.encode(line) + b"\n"


def decode_line(data: bytes) -> Line:
    """ProtocolError for anything else than a line of an answer."""
    try:
        found = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("the peer's digests can't be read", detail=str(error)) from error
    for names in (("lows", "rows", "digests"), ("keys", "digests", "copies"), ("keys", "texts")):
        _same_length(found, names)
    return found


def _same_length(line: Any, names: tuple[str, ...]) -> None:
    lists = [getattr(line, name) for name in names if hasattr(line, name)]
    if len(lists) == len(names) and len({len(one) for one in lists}) > 1:
        raise ProtocolError("the peer's digests have lists of different lengths")


def hexadecimal(digest: int) -> str:
    return f"{digest:x}"


def from_hexadecimal(text: str) -> int:
    """ProtocolError for what is none of up to 128 bits."""
    try:
        found = int(text, 16)
    except ValueError as error:
        raise ProtocolError("the peer's digests are no hexadecimal numbers") from error
    if not 0 <= found < 1 << 128:
        raise ProtocolError("a digest of the peer has more than 128 bits")
    return found
