"""The base of every table of the configuration file."""

from __future__ import annotations

import msgspec


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key that does not exist is an error, not something to be passed over."""
