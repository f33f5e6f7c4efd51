"""How many wait for a password to be looked at, and what a killed agent leaves of its accounts."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from peersync.agent.people.passwords import AT_ONCE, MOST_WAITING, Passwords, make_hash
from peersync.agent.workers import Workers
from peersync.core.errors import TooManyTries
from peersync.transport.files import sweep_private, write_private

GOOD = "four words for tests"


async def test_who_comes_when_many_wait_is_told_to_come_again_and_is_let_in_then() -> None:
    workers = Workers(pumps=1)
    passwords = Passwords(workers)
    known = await asyncio.to_thread(make_hash, GOOD)
    refused: list[TooManyTries] = []

    async def guess() -> None:
        try:
            assert not await passwords.fits("a wrong one", None)
        except TooManyTries as error:
            refused.append(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE + MOST_WAITING + 5):
            group.create_task(guess())
        await asyncio.sleep(0)
        assert len(refused) == 5
        group.create_task(passwords.make(GOOD))  # who sets one is known, and waits
    assert refused[0].data["retry_after_s"] > 0
    assert len(refused) == 5
    assert await passwords.fits(GOOD, known)
    workers.close()


def test_what_a_killed_agent_left_beside_its_files_is_swept_and_nothing_else(
    tmp_path: Path,
) -> None:
    file = tmp_path / "people.json"
    write_private(file, b"{}")
    names = (".people.json.x1", ".people.json.x2", ".x")
    left, fresh, other = (tmp_path / name for name in names)
    hour_ago = time.time() - 3600
    for one in (left, fresh, other):
        one.write_bytes(b"half")
    for one in (file, left, other):
        os.utime(one, (hour_ago, hour_ago))
    sweep_private(file)
    assert {one.name for one in tmp_path.iterdir()} == {file.name, fresh.name, other.name}
