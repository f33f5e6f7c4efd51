"""Options that several commands take, worded once."""

from __future__ import annotations

import click

database_option = click.option(
    "--database", metavar="NAME", help="Which; needed when there are several."
)
limit_option = click.option(
    "--limit", metavar="N", type=click.IntRange(1, 1000), default=50, show_default=True
)
null_option = click.option(
    "--null", "nulls", metavar="COLUMN", multiple=True, help="Set this column to NULL."
)
