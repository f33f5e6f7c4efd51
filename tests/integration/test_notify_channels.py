"""The channels of notifications, against real mail and HTTP servers that also fail."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from peersync.agent.notify.channels import make_tries
from peersync.agent.notify.sender import Beater, Pauses, Sender, Tries
from peersync.config.orchestration import Channel
from peersync.core.errors import ConfigError, PeersyncError, Undelivered
from peersync.core.incidents import Fact, Incidents, Memory, Message, Notice, Rules
from tests.integration.notify_rig import OK, an_answer, certificate, http, mail_server, smtp
from tests.plugins.nodes import free_port

HOSTILE = 'shop\r\nBcc: x@evil.example\r\n\r\n<img src=x onerror="1"> <!channel> \x1b[31m'
T0 = 1_700_000_000.0


def a_notice(title: str = "shop does not sync with server-b", **more: Any) -> Notice:
    values: dict[str, Any] = {
        "kind": "opened",
        "event": "failed",
        "key": "k",
        "title": title,
        "impact": "changes of server-b do not arrive here",
        "since": T0,
        "lasted_s": 60.0,
        "database": "shop",
        "peer": "server-b",
        "problem": "connection refused",
        "hint": "peersync status",
    }
    return Notice(**{**values, **more})


def a_message(*notices: Notice, held_back: int = 0) -> Message:
    return Message(id="m-1", at=T0, notices=notices or (a_notice(),), held_back=held_back)


@asynccontextmanager
async def tries(**settings: Any) -> AsyncIterator[Tries]:
    yield make_tries(Channel(name="c", **settings), "server-a", {})


async def failure(**settings: Any) -> PeersyncError:
    async with tries(**settings) as channel:
        with pytest.raises(PeersyncError) as caught:
            await channel.send(a_message())
        assert channel.health.error is caught.value
    return caught.value


def words(error: PeersyncError) -> str:
    """All that is shown of it."""
    return f"{error.message} {error.detail} {error.hint}"


def private(path: Path, text: str) -> str:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return str(path)


MAIL: dict[str, Any] = {
    "kind": "mail", "host": "127.0.0.1", "sender": "peersync <p@example.org>",
    "to": ("a@example.org", "b@example.org"),
}  # fmt: skip


# --- mail -----------------------------------------------------------------------------------
async def test_a_mail_says_node_peer_database_impact_since_problem_and_next_command() -> None:
    with mail_server() as post:
        async with tries(**MAIL, port=post.port, tls="none") as channel:
            await channel.send(a_message(held_back=3))
    (mail,) = post.mails
    assert mail["Subject"] == "[peersync] server-a: shop does not sync with server-b, and 3 more"
    assert post.recipients == [["a@example.org", "b@example.org"]]
    plain, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None and html is not None
    for part in (plain, html):
        text = part.get_content()
        for wanted in ("server-a", "server-b", "shop", "do not arrive here", "connection refused",
                       "peersync status", "2023-11-14", "3 more held back"):  # fmt: skip
            assert wanted in text


async def test_a_hostile_name_makes_neither_a_header_nor_markup_in_a_mail() -> None:
    notice = a_notice(HOSTILE, peer=HOSTILE, problem=HOSTILE, impact=HOSTILE, hint=HOSTILE)
    with mail_server() as post:
        async with tries(**MAIL, port=post.port, tls="none") as channel:
            await channel.send(a_message(notice))
    (mail,) = post.mails
    assert mail["Bcc"] is None
    assert post.recipients == [["a@example.org", "b@example.org"]]
    assert "\n" not in mail["Subject"] and "\x1b" not in mail["Subject"]
    plain, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None and html is not None
    assert "<img" not in html.get_content()
    assert "&lt;img src=x" in html.get_content()
    assert "\x1b" not in plain.get_content()
    assert not any(line.startswith("Bcc") for line in plain.get_content().splitlines())


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "tls"])
async def test_mail_goes_out_encrypted_and_with_a_login(
    implicit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, trusted = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    password = "geheim" if not implicit else ""  # aiosmtpd takes no login over implicit TLS
    login = {"username": "me", "password_file": private(tmp_path / "pw", password)}
    with mail_server(tls=context, password=password, implicit=implicit) as post:
        tls = "tls" if implicit else "starttls"
        more = {} if implicit else login
        async with tries(**MAIL, port=post.port, tls=tls, **more) as channel:
            await channel.send(a_message())
    assert len(post.mails) == 1
    if not implicit:
        assert post.logins[0].endswith(" me")
        assert post.encrypted == [True]


async def test_a_mail_server_with_a_certificate_that_nobody_trusts_gets_nothing(
    tmp_path: Path,
) -> None:
    context, _ = certificate(tmp_path)
    with mail_server(tls=context) as post:
        error = await failure(**MAIL, port=post.port, tls="starttls")
    assert post.mails == []
    assert "certificate" in words(error).lower()


async def test_a_mail_server_that_lacks_starttls_gets_no_password(tmp_path: Path) -> None:
    login = {"username": "me", "password_file": private(tmp_path / "pw", "geheim")}
    with mail_server() as post:
        error = await failure(**MAIL, port=post.port, tls="starttls", **login)
    assert (post.mails, post.logins) == ([], [])
    assert "STARTTLS" in words(error)


async def test_a_refused_login_says_so_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    context, trusted = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    login = {"username": "me", "password_file": private(tmp_path / "pw", "geheim-1")}
    with mail_server(tls=context, password="another") as post:
        error = await failure(**MAIL, port=post.port, tls="starttls", **login)
    assert "refused the login" in error.message
    assert "geheim" not in words(error) + caplog.text


async def test_a_password_never_travels_unencrypted_to_another_machine(tmp_path: Path) -> None:
    login = {"username": "me", "password_file": private(tmp_path / "pw", "geheim")}
    error = await failure(**{**MAIL, "host": "mail.example.org"}, tls="none", **login)
    assert isinstance(error, ConfigError)
    assert "unencrypted" in error.message


async def test_a_mail_that_is_refused_gives_the_servers_words() -> None:
    with mail_server() as post:
        post.refuse = "554 5.7.1 looks like spam"
        error = await failure(**MAIL, port=post.port, tls="none")
    assert isinstance(error, Undelivered)
    assert error.data["refused"]
    assert "looks like spam" in words(error)


async def test_a_mail_server_that_hangs_up_has_the_mail_all_the_same() -> None:
    async with (
        smtp(hangs_up=True) as post,
        tries(**MAIL, port=post.port, tls="none") as channel,
        sending(channel, pauses=FAST) as incidents,
    ):
        say(incidents, "k")
        async with asyncio.timeout(5):
            while incidents.memory.channels["c"].waiting:
                await asyncio.sleep(0.01)
        assert (post.mails, channel.health.error) == (1, None)


async def test_a_recipient_that_is_refused_is_named_and_the_others_get_no_second_mail() -> None:
    to = ["a@example.org", "b@example.org"]
    async with (
        smtp(refused="b@example.org") as post,
        tries(**{**MAIL, "to": to}, port=post.port, tls="none") as channel,
    ):
        await channel.send(a_message())
    error = channel.health.error
    assert error is not None and "b@example.org: no such user" in error.message
    assert (post.mails, channel.health.failures) == (1, 0)


async def test_a_mail_server_that_is_not_there_or_hangs_is_named() -> None:
    port = free_port()
    error = await failure(**MAIL, port=port, tls="none")
    assert f"127.0.0.1:{port}" in error.message
    async with http("hang") as server:  # it waits for a request, and says nothing
        began = time.monotonic()
        await failure(**MAIL, port=server.port, tls="none", timeout_s=0.3)
        assert time.monotonic() - began < 2


# --- HTTP -----------------------------------------------------------------------------------
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


# --- a channel and its queue ----------------------------------------------------------------
@asynccontextmanager
async def sending(*channels: Tries, pauses: Pauses) -> AsyncIterator[Incidents]:
    names = [channel.settings.name for channel in channels]
    events = frozenset({"failed"})
    rules = Rules(repeat_s=1e6, group_s=0, per_hour=1000)
    incidents = Incidents(rules, dict.fromkeys(names, events), Memory())
    senders = [Sender(channel, incidents, lambda: None, pauses) for channel in channels]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(s.run(), name=f"sender-{i}") for i, s in enumerate(senders)]
        try:
            yield incidents
        finally:
            for task in tasks:
                task.cancel()


def say(incidents: Incidents, key: str) -> None:
    fact = Fact(key=key, event="failed", title=key, impact="none", since=time.time())
    incidents.add(fact, time.time())
    incidents.say(time.time())


FAST = Pauses(first_s=0.02, longest_s=0.1)


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
        async with asyncio.timeout(5):
            while incidents.memory.channels["c"].waiting:
                await asyncio.sleep(0.01)
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
        async with asyncio.timeout(5):
            while incidents.memory.channels["c"].waiting:
                await asyncio.sleep(0.01)
        assert incidents.memory.channels["c"].held_back == 1
    assert channel.health.dropped == 1


async def test_a_channel_that_hangs_delays_no_other() -> None:
    async with http("hang") as slow, http() as quick:
        channels = [
            make_tries(Channel(name=name, kind="webhook", url=url), "server-a", {})
            for name, url in (("slow", slow.url), ("quick", quick.url))
        ]
        async with sending(*channels, pauses=FAST) as incidents:
            began = time.monotonic()
            say(incidents, "one")
            say(incidents, "two")
            await quick.wait_for(2)
            assert time.monotonic() - began < 2
            assert len(incidents.memory.channels["slow"].waiting) == 2


async def test_a_mended_file_of_a_secret_is_taken_up_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "url"
    async with (
        http() as server,
        tries(kind="slack", url_file=str(file)) as channel,
        sending(channel, pauses=FAST) as incidents,
    ):
        say(incidents, "k")
        async with asyncio.timeout(5):
            while not channel.health.failures:
                await asyncio.sleep(0.01)
        private(file, server.url)
        await server.wait_for(1)


async def test_an_answer_that_never_ends_is_a_receipt_if_its_status_is_one() -> None:
    async with (
        http("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf") as server,
        tries(kind="webhook", url=server.url, timeout_s=1) as channel,
        sending(channel, pauses=FAST) as incidents,
    ):
        say(incidents, "k")
        async with asyncio.timeout(5):
            while incidents.memory.channels["c"].waiting:
                await asyncio.sleep(0.01)
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
        async with asyncio.timeout(5):
            while hangs.health.failures < 3:
                await asyncio.sleep(0.01)
    assert len(made) == 1
    stuck.set()
