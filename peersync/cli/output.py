"""How results look: JSON, tables, sizes, durations, times.

Owns one rounding rule for each unit, that nothing from a database or a peer can move the
cursor of a terminal, and that a terminal without UTF-8 gets signs that it has. stdout has
data, stderr has talk. rich is imported only for a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msgspec import Struct

SCHEMA_VERSION = 1
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_PLAIN_SIGNS = str.maketrans(
    {
        "✔": "ok", "✘": "FAILED", "–": "-", "…": "...", "·": "|", "×": "x", "→": "->",
        "▕": "[", "▏": "]", "█": "#", "─": "-", "◀": "<", "▶": ">", "\u202f": " ",
        "✓": "ok", "✗": "FAILED", "○": "skipped",
    }
)  # fmt: skip


def emit_json(data: Mapping[str, Any] | Struct) -> None:
    """One JSON object on stdout, with its schema_version first."""
    import msgspec

    fields = msgspec.to_builtins(data) if isinstance(data, msgspec.Struct) else data
    print_out(json_text({"schema_version": SCHEMA_VERSION, **fields}))


def json_text(data: Any) -> str:
    """JSON on one line; dates, uuids and msgspec structures are fine.

    Where stdout can't say everything in UTF-8, all but ASCII is escaped.
    """
    import msgspec

    text = msgspec.json.encode(data).decode()
    return text if has_utf8(sys.stdout) else "".join(map(_json_escaped, text))


def _json_escaped(character: str) -> str:
    return character if character.isascii() else json.dumps(character)[1:-1]


def print_out(text: str) -> None:
    """A line of data."""
    sys.stdout.write(fitting(text, sys.stdout) + "\n")


def print_err(text: str) -> None:
    """A line of talk."""
    sys.stderr.write(fitting(text, sys.stderr) + "\n")


def has_utf8(stream: IO[str]) -> bool:
    """Whether more than ASCII may be written: Python writes UTF-8 in the C locale too."""
    if (getattr(stream, "encoding", None) or "").lower().replace("-", "") != "utf8":
        return False
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        if value := os.environ.get(name):
            return value not in ("C", "POSIX")
    return True


def fitting(text: str, stream: IO[str]) -> str:
    """The text in signs that the stream has."""
    if text.isascii() or has_utf8(stream):
        return text
    return text.translate(_PLAIN_SIGNS).encode("ascii", "backslashreplace").decode()


def clean(text: str, *, keep: str = "") -> str:
    """Text from elsewhere, its control characters shown as \\xNN."""
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def flat(text: str) -> str:
    """The same on one line."""
    return clean(" ".join(line for part in text.split("\n") if (line := part.strip())))


def indented(text: str, by: int = 4) -> str:
    """The same with its lines below each other, all but the first indented."""
    lines = [clean(line.rstrip()) for line in text.strip("\n").split("\n")]
    return ("\n" + " " * by).join(lines)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, color: bool = True
) -> None:
    """A table on stdout: through rich on a terminal, aligned plain text elsewhere.

    Columns of numbers are right-aligned; None is shown as a dash.
    """
    texts = [[_cell(value) for value in row] for row in rows]
    right = [
        bool(rows) and all(isinstance(row[i], int | float | None) for row in rows)
        for i in range(len(columns))
    ]
    if sys.stdout.isatty():
        _print_rich(columns, texts, right, color=color)
        return
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    for row in ([str(name).upper() for name in columns], *texts):
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        print_out("  ".join(cells).rstrip())


def _print_rich(
    columns: Sequence[str], texts: list[list[str]], right: list[bool], *, color: bool
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, is_right in zip(columns, right, strict=True):
        table.add_column(name.upper(), justify="right" if is_right else "left", overflow="fold")
    for row in texts:
        # Text: a name with [red] in it is a name
        table.add_row(*(Text(fitting(cell, sys.stdout)) for cell in row))
    Console(no_color=not color, highlight=False).print(table)


def _cell(value: object) -> str:
    return "–" if value is None else clean(str(value), keep="\u202f")  # that of `count`


def size(size_bytes: float) -> str:
    """ "1.4 GiB"; whole bytes below 1 KiB."""
    value = float(size_bytes)
    for unit in _UNITS:
        if round(abs(value), 1) < 1024 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit ends the loop")


def duration(seconds: float) -> str:
    """ "0.4 s", "12 s", "2 min 3 s", "5 h 2 min", "3 d 4 h": two units at most."""
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    for unit_s, unit, below_s, below in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit_s:
            rest = whole % unit_s // below_s
            return f"{whole // unit_s} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def ago(then: datetime | None, now: datetime) -> str:
    """ "4 s ago", "in 2 min", "now", "never" for None."""
    if then is None:
        return "never"
    seconds = (now - then).total_seconds()
    if abs(seconds) < 1:
        return "now"
    text = duration(int(abs(seconds))) if abs(seconds) < 3600 else _coarse(abs(seconds))
    return f"{text} ago" if seconds > 0 else f"in {text}"


def _coarse(seconds: float) -> str:
    """One unit is enough for what is hours away."""
    return duration(seconds).split(" ")[0] + " " + duration(seconds).split(" ")[1]


def stamp(at: str) -> str:
    """A time of the agent's (ISO 8601, UTC) to the second: "2026-03-01 12:00:00"."""
    return at[:19].replace("T", " ")


def count(number: int) -> str:
    """ "1 240": groups of three, by a narrow no-break space."""
    return f"{number:,}".replace(",", "\u202f")
