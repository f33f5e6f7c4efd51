"""A look ahead in a table whose first blocks nearly all differ: is it so everywhere?

Where it is, the rest of the comparison would only find that all rows are wanted. So some blocks of
a few places, spread over the table, are compared before the next ones in turn. A wrong guess costs
time and nothing else: the table is sent whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

import asyncpg

from peersync.postgres.digest import Block, Key, Shape, Tally, compare_blocks
from peersync.postgres.rangetotals import spread_keys

FIRST_BLOCKS: Final = 512  # that are compared before it is worth a thought
PAYS_BLOCKS: Final = (
    4096  # of a table; a smaller one is compared as quickly as places are asked for
)
_PLACES: Final = 5
_LEAST: Final = 3  # places
_LONG_S: Final = 2.0  # for the blocks of one
_NEARLY_ALL: Final = 0.9

Ask = Callable[[Key], AsyncGenerator[list[Block], None]]


def is_worth_it(tally: Tally, blocks: int) -> bool:
    """`blocks`: how many the table is thought to have."""
    return tally.blocks >= FIRST_BLOCKS and blocks >= PAYS_BLOCKS and _nearly_all(tally)


async def differs_everywhere(conn: asyncpg.Connection, shape: Shape, ask: Ask) -> bool:
    """Whether nearly all blocks differ wherever one looks; `ask` gives the peer's from a key on.

    False where that takes long: the peer may have to sort its rows for each place.
    """
    places = await spread_keys(conn, shape, _PLACES)
    for key in places:
        try:
            async with asyncio.timeout(_LONG_S), aclosing(ask(key)) as there:
                some: list[Block] = await anext(there, [])
        except TimeoutError:
            return False
        if not _nearly_all(await _compare(conn, shape, some)):
            return False
    return len(places) >= _LEAST


async def _compare(conn: asyncpg.Connection, shape: Shape, some: Sequence[Block]) -> Tally:
    """All but the last of them, which only tells where the one before it ends."""
    tally = Tally()
    if len(some) < 2:
        return tally

    async def there() -> AsyncGenerator[list[Block], None]:
        yield list(some[:-1])

    async with aclosing(
        compare_blocks(conn, shape, there(), upper=lambda: some[-1].low, tally=tally)
    ) as ranges:
        async for _ in ranges:
            pass
    return tally


def _nearly_all(tally: Tally) -> bool:
    return tally.blocks > 0 and tally.differing >= _NEARLY_ALL * tally.blocks
