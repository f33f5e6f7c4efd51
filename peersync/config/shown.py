"""The configuration as it may be shown: plain values, every secret masked."""

from __future__ import annotations

from typing import Any

import msgspec

from peersync.config.model import Config
from peersync.config.secret import MASK, mask_conninfo


def effective(config: Config) -> dict[str, Any]:
    """The values by table and key, without any password."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    for database in values["database"].values():
        database["conninfo"] = mask_conninfo(database["conninfo"])
    for channel in values["channel"]:
        channel["url"] = MASK if channel["url"] else ""  # of most services it is a password
    return values
