"""Keeps passwords out of everything that is printed.

Owns the wrapper that a password travels in, and the masking of connection strings.
It does not read password files and does not know where a secret came from.
"""

from __future__ import annotations

import re

MASK = "***"

# Up to the last "@": a password with an unescaped "@" or "/" is wrong, but must not show either.
_URI_PASSWORD = re.compile(r"(://[^:/?#@]*):.*@", re.DOTALL)
_KEYWORD_PASSWORD = re.compile(
    r"\b((?:ssl)?password|oauth_client_secret)(\s*=\s*)('(?:[^'\\]|\\.)*'?|(?:\\.|[^\s\\&])*)",
    re.IGNORECASE,
)


class Secret:
    """A string that shows itself only to `reveal()`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


def mask_conninfo(text: str) -> str:
    """A libpq connection string or URI with its passwords replaced by `***`."""
    masked = _URI_PASSWORD.sub(rf"\1:{MASK}@", text)
    return _KEYWORD_PASSWORD.sub(rf"\1\2{MASK}", masked)
