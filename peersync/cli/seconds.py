"""Seconds as an option: click takes "nan" and "inf" for numbers, and nobody can wait for those."""

from __future__ import annotations

import math
from typing import Any

import click


class Seconds(click.FloatRange):
    """For an option; the range is click's."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return found
