"""Notifications by HTTP, against real servers that also fail."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from pathlib import Path

import pytest

from peersync.agent.notify.sender import Beater
from peersync.core.errors import ConfigError
from tests.integration.channel_rig import (
    HOSTILE,
    a_message,
    a_notice,
    failure,
    private,
    tries,
    words,
)
from tests.integration.notify_rig import an_answer, certificate, http
from tests.plugins.nodes import free_port


async def test_a_webhook_is_signed_as_the_documents_say(tmp_path: Path) -> None:
    async with http() as server:
        secret = private(tmp_path / "key", "schlüssel")
        async with tries(kind="webhook", url=server.url + "/hook", secret_file=secret) as channel:
            await channel.send(a_message())
    (got,) = server.got
    assert (got.method, got.path) == ("POST", "/hook")
    stamp = got.headers["peersync-timestamp"]
    wanted = hmac.new("schlüssel".encode(), stamp.encode() + b"." + got.body, hashlib.sha256)
    assert got.headers["peersync-signature"] == "v1=" + wanted.hexdigest()
    assert abs(int(stamp) - time.time()) < 60
    body = json.loads(got.body)
    assert (body["schema_version"], body["id"], body["node"]) == (1, "m-1", "server-a")
    assert body["notices"][0]["peer"] == "server-b"
    assert body["notices"][0]["since"] == "2023-11-14T22:13:20.000+00:00"


async def test_a_hostile_name_is_no_markup_in_slack() -> None:
    async with (
        http() as server,
        tries(kind="slack", url=server.url + "/services/T0/B0/x") as channel,
    ):
        await channel.send(a_message(a_notice(HOSTILE)))
    body = json.loads(server.got[0].body)
    assert body["mrkdwn"] is False
    assert "<" not in body["text"] and "&lt;!channel&gt;" in body["text"]
    assert "\x1b" not in body["text"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (an_answer("500 Oops", "see /services/SECRET"), "answered 500"),
        (an_answer("404 Not Found", "no_service"), "answered 404"),
        (an_answer("302 Found", "", "Location: http://127.0.0.1:1/SECRET"), "answered 302"),
        ("die", "ended the connection"),
        ("", "ended the connection"),
        ("hang", "no answer within 0.3 s"),
    ],
    ids=["500", "404", "redirect", "dies in the middle", "closes", "hangs"],
)
async def test_a_url_is_never_shown_however_its_server_fails(
    answer: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with http(answer) as server:
        error = await failure(kind="slack", url=server.url + "/services/SECRET", timeout_s=0.3)
    assert said in error.message
    assert "SECRET" not in words(error) + caplog.text


async def test_a_server_that_refuses_connections_is_named_without_the_url() -> None:
    error = await failure(kind="webhook", url=f"http://127.0.0.1:{free_port()}/SECRET")
    assert "127.0.0.1 can't be reached" in error.message
    assert "SECRET" not in words(error)


async def test_a_certificate_that_nobody_trusts_gets_nothing(tmp_path: Path) -> None:
    context, _ = certificate(tmp_path)
    async with http(tls=context) as server:
        error = await failure(kind="webhook", url=f"https://127.0.0.1:{server.port}/x")
    assert server.got == []
    assert "certificate" in error.message


async def test_a_file_that_others_can_read_is_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("http://127.0.0.1:1/SECRET")
    file.chmod(0o644)
    error = await failure(kind="slack", url_file=str(file))
    assert "others" in error.message


async def test_a_heartbeat_beats_and_says_fail_below_its_url() -> None:
    async with (
        http() as server,
        tries(kind="heartbeat", url=server.url + "/ping/1?rid=2") as channel,
    ):
        await channel.beat(failing=False)
        await channel.beat(failing=True)
    assert [got.path for got in server.got] == ["/ping/1?rid=2", "/ping/1/fail?rid=2"]


async def test_a_heartbeat_is_sent_once_a_minute_and_at_once_when_it_changes() -> None:
    async with http() as server, tries(kind="heartbeat", url=server.url + "/p") as channel:
        beater = Beater(channel)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(beater.run(), name="beater")
            for second, failing in enumerate([False, False, True, True, False], start=100):
                beater.beat(failing=failing, now=second)
                await asyncio.sleep(0.1)
            beater.beat(failing=False, now=170)
            await server.wait_for(4)
            task.cancel()
    assert [got.path for got in server.got] == ["/p", "/p/fail", "/p", "/p"]


async def test_without_the_library_apprise_says_how_to_install_it() -> None:
    error = await failure(kind="apprise", url="json://127.0.0.1/")
    assert isinstance(error, ConfigError)
    assert error.hint is not None and "peersync[apprise]" in error.hint
