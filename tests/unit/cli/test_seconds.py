"""Seconds as people type them."""

from __future__ import annotations

import click
import pytest

from peersync.cli.seconds import Seconds


def test_seconds_are_numbers_in_the_range() -> None:
    assert Seconds(0.1, 240).convert("1.5", None, None) == 1.5
    with pytest.raises(click.BadParameter, match="range"):
        Seconds(0.1, 240).convert("500", None, None)


@pytest.mark.parametrize("text", ["nan", "inf", "Infinity"])
def test_what_nobody_can_wait_for_is_said_to_be_no_number(text: str) -> None:
    with pytest.raises(click.BadParameter, match=f"'{text}' is not a number of seconds"):
        Seconds(1).convert(text, None, None)
