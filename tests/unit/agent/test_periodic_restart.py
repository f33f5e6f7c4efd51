"""What fails is tried again, alone, and says how often it had failed when it works again."""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec
import pytest

from peersync.agent.periodic.news import News
from peersync.agent.periodic.restart import Failures, explained, keep
from peersync.config.model import Config
from peersync.core.errors import Locked, PeersyncError


async def test_a_poke_ends_the_pause_and_success_tells_after_how_many_errors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures, poke, tries = Failures("shop from b", Config()), News(), 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise PeersyncError("not now")
        failures.over()
        await asyncio.Event().wait()

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(keep(work, failures, poke), name="keep")
        while tries < 4:
            poke.tell()
            await asyncio.sleep(0.01)
        task.cancel()
    assert time.monotonic() - began < 3  # the pauses alone would be 3.5 s
    assert (failures.count, failures.error) == (0, None)
    assert "shop from b works again after 3 errors" in caplog.text


async def test_a_bug_has_an_id_and_its_traceback_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    try:
        raise KeyError("missing")
    except KeyError as bug:
        error = explained(ExceptionGroup("tasks", [bug]), "shop from b")
    assert error.message.startswith("internal error ")
    assert error.message in caplog.text
    assert "KeyError" in caplog.text


def test_pauses_grow_to_their_maximum_and_a_lock_is_tried_more_often() -> None:
    network = msgspec.structs.replace(Config().network, retry_max_s=4.0)
    config = msgspec.structs.replace(Config(), network=network)
    failures = Failures("x", config)
    assert [failures.note(PeersyncError("no")) for _ in range(6)] == [0.5, 1, 2, 4, 4, 4]
    assert failures.note(Locked("a row is held")) == 2.0
    failures.over()
    assert failures.note(PeersyncError("no")) == 0.5


def test_the_same_error_again_is_not_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    failures = Failures("x", Config())
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            failures.note(PeersyncError("the same"))
    assert caplog.text.count("the same") == 1
