"""A channel of notifications and its queue: order, tries, and what holds up whom."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from peersync.agent.notify.channels import make_tries
from peersync.agent.notify.sender import Tries
from peersync.config.orchestration import Channel
from tests.integration.channel_rig import (
    FAST,
    failure,
    private,
    say,
    sending,
    tries,
)
from tests.integration.notify_rig import OK, an_answer, http
from tests.plugins.waiting import soon


async def test_what_a_server_refuses_for_a_while_arrives_in_order_and_says_recovered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "peersync.notify")
    async with (
        http(an_answer("500 Oops"), "die", an_answer("503 Busy"), OK) as server,
        tries(kind="webhook", url=server.url) as channel,
        sending(channel, pauses=FAST) as incidents,
    ):
        say(incidents, "first")
        say(incidents, "second")
        await server.wait_for(5)
        await soon("all is sent", lambda: not incidents.memory.channels["c"].waiting)
    titles = [json.loads(got.body)["notices"][0]["title"] for got in server.got]
    assert titles == ["first"] * 4 + ["second"]
    assert len({got.headers["peersync-message"] for got in server.got}) == 2
    assert channel.health.sent == 2
    assert "works again after 3 errors" in caplog.text


async def test_retry_after_is_kept_to() -> None:
    busy = an_answer("429 Too Many Requests", "", "Retry-After: 1")
    async with (
        http(busy, OK) as server,
        tries(kind="webhook", url=server.url) as channel,
        sending(channel, pauses=FAST) as incidents,
    ):
        began = time.monotonic()
        say(incidents, "k")
        await server.wait_for(2)
    assert time.monotonic() - began >= 1.0


async def test_a_message_that_a_server_will_not_have_makes_room_for_the_next() -> None:
    bad = an_answer("400 Bad Request", "invalid_payload")
    async with (
        http(bad, bad, bad, OK) as server,
        tries(kind="webhook", url=server.url) as channel,
        sending(channel, pauses=FAST) as incidents,
    ):
        say(incidents, "bad")
        say(incidents, "good")
        await server.wait_for(4)
        await soon("all is sent", lambda: not incidents.memory.channels["c"].waiting)
        assert incidents.memory.channels["c"].held_back == 1
    assert channel.health.dropped == 1


async def test_a_channel_that_hangs_delays_no_other() -> None:
    async with http("hang") as slow, http() as quick:
        channels = [
            make_tries(Channel(name=name, kind="webhook", url=url), "server-a", {})
            for name, url in (("slow", slow.url), ("quick", quick.url))
        ]
        async with sending(*channels, pauses=FAST) as incidents:
            say(incidents, "one")
            say(incidents, "two")
            await quick.wait_for(2, within_s=channels[0].settings.timeout_s / 2)
            assert len(incidents.memory.channels["slow"].waiting) == 2


async def test_a_mended_file_of_a_secret_is_taken_up_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "url"
    async with (
        http() as server,
        tries(kind="slack", url_file=str(file)) as channel,
        sending(channel, pauses=FAST) as incidents,
    ):
        say(incidents, "k")
        await soon("a failure", lambda: channel.health.failures)
        private(file, server.url)
        await server.wait_for(1)


async def test_an_answer_that_never_ends_is_a_receipt_if_its_status_is_one() -> None:
    async with (
        http("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf") as server,
        tries(kind="webhook", url=server.url, timeout_s=1) as channel,
        sending(channel, pauses=FAST) as incidents,
    ):
        say(incidents, "k")
        await soon("all is sent", lambda: not incidents.memory.channels["c"].waiting)
        assert len(server.got) == 1


async def test_a_file_of_a_secret_that_never_opens_holds_up_no_other_channel(
    tmp_path: Path,
) -> None:
    """A pipe is refused; what hangs for ever hangs once, however often it is tried."""
    pipe = tmp_path / "url"
    os.mkfifo(pipe, 0o600)
    error = await failure(kind="slack", url_file=str(pipe))
    assert "no ordinary file" in error.message
    stuck, made = threading.Event(), list[int]()

    def make() -> Any:
        made.append(1)
        stuck.wait(30)

    hangs = Tries(Channel(name="hangs", kind="slack", url="http://x", timeout_s=0.1), make)
    async with (
        http() as server,
        tries(kind="webhook", url=server.url) as channel,
        sending(hangs, channel, pauses=FAST) as incidents,
    ):
        say(incidents, "k")
        await server.wait_for(1)
        await soon("three failures", lambda: hangs.health.failures >= 3)
    assert len(made) == 1
    stuck.set()
