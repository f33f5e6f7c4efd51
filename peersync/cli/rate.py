"""A rate as people write it: 10MB is a second's worth of bytes, 80Mbit of bits."""

from __future__ import annotations

import re
from typing import Any

import click

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b|byte|bytes|bit)?(?:/s|ps)?", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_MOST = 1 << 50


def parse_rate(text: str) -> int:
    """Bytes a second; 0 is no limit. ValueError for what is no rate."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    number, prefix, binary, unit = match.groups()
    bytes_s = float(number) * (1024 if binary else 1000) ** _POWER[prefix.lower()]
    if (unit or "").lower() == "bit":
        bytes_s /= 8
    if bytes_s > _MOST or (bytes_s < 1024 and bytes_s != 0):
        raise ValueError(text)
    return int(bytes_s)


class Rate(click.ParamType[int]):
    """For an option."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_rate(str(value))
        except ValueError:
            self.fail(
                f"{value!r} is not a rate: write 10MB or 80Mbit (a second), at least 1KiB",
                param,
                ctx,
            )
