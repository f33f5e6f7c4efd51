"""Notifications by mail, against real mail servers that also fail."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from peersync.core.errors import ConfigError, Undelivered
from tests.integration.channel_rig import (
    FAST,
    HOSTILE,
    a_message,
    a_notice,
    failure,
    private,
    say,
    sending,
    tries,
    words,
)
from tests.integration.notify_rig import certificate, http, mail_server, smtp
from tests.plugins.nodes import free_port
from tests.plugins.waiting import soon

MAIL: dict[str, Any] = {
    "kind": "mail", "host": "127.0.0.1", "sender": "peersync <p@example.org>",
    "to": ("a@example.org", "b@example.org"),
}  # fmt: skip


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
        await soon("all is sent", lambda: not incidents.memory.channels["c"].waiting)
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
        assert time.monotonic() - began < 10
