"""Counted things in words, the same everywhere: "1 table", "2 tables"."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """The number and its noun, with an s where there is not exactly one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
