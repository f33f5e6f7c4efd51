"""How this package says no: with the byte where it stopped and a look at what was there."""

from __future__ import annotations

from peersync.core.errors import CorruptData, RefusedInput

EXCERPT_CHARS = 80


def excerpt(data: bytes) -> str:
    """The beginning of `data`, printable on one line, at most 80 characters."""
    text = data[:EXCERPT_CHARS].decode("utf-8", "backslashreplace")
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    cut = len(shown) > EXCERPT_CHARS or len(data) > EXCERPT_CHARS
    return shown[: EXCERPT_CHARS - 1] + "…" if cut else shown


def refused(why: str, position: int, data: bytes, hint: str | None = None) -> RefusedInput:
    """The error for something at byte `position` that may not be there."""
    return RefusedInput(
        f"{why} (byte {position})", detail=excerpt(data), hint=hint, position=position
    )


def cut_off(where: str, position: int) -> CorruptData:
    """The error for a stream that ends at byte `position`, inside something."""
    return CorruptData(
        f"the dump ends inside {where} (byte {position})",
        hint="The dump is incomplete: make it again, or transfer it again.",
        position=position,
    )
