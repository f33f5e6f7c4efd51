"""Mail: text and HTML, over STARTTLS, TLS, or to a server on this machine without either.

A subject can't get a second line, whatever a peer or a table is called. Certificates are
verified. A password never travels unencrypted to another machine.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from email.message import EmailMessage
from email.policy import SMTP, EmailPolicy
from email.utils import format_datetime, localtime, make_msgid
from typing import Final

import aiosmtplib

from peersync.agent.notify.outlet import masked, read_secret
from peersync.agent.notify.text import Templates, subject
from peersync.config.orchestration import Channel
from peersync.config.secret import Secret
from peersync.core.errors import ConfigError, Undelivered
from peersync.core.incidents import Message

PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}
QUIT_S: Final = 1.0
MAX_LINE: Final = 998  # of RFC 5322: what fits is not folded, for not all unfold well
_HERE: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Mail:
    """Made in a thread: files are read. ConfigError."""

    def __init__(self, channel: Channel, node: str, environ: Mapping[str, str]) -> None:
        self._channel = channel
        self._node = node
        self._port = channel.port or PORTS[channel.tls]
        self._templates = Templates.load()
        self._context = ssl.create_default_context()
        file = channel.password_file
        self._password = read_secret(file, environ) if file else None
        if self._password and channel.tls == "none" and channel.host not in _HERE:
            raise ConfigError(
                f"the password for {channel.host} would travel unencrypted",
                hint='set tls = "starttls" or "tls"',
            )
        self._envelope()

    def compose(self, message: Message) -> EmailMessage:
        about = subject(self._node, message)
        mail = self._envelope(SMTP.clone(max_line_length=MAX_LINE) if about.isascii() else SMTP)
        mail["Subject"] = about
        mail["Date"] = format_datetime(localtime())
        mail["Message-ID"] = make_msgid(idstring=message.id, domain=f"{self._node}.peersync")
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(self._templates.text(self._node, message))
        mail.add_alternative(self._templates.html(self._node, message), subtype="html")
        return mail

    def _envelope(self, policy: EmailPolicy[EmailMessage] = SMTP) -> EmailMessage:
        mail = EmailMessage(policy)
        try:
            mail["From"] = self._channel.sender
            mail["To"] = ", ".join(self._channel.to)
        except ValueError as error:  # a line break, or no address at all
            raise ConfigError("sender or to is not an address", detail=str(error)) from error
        return mail

    async def send(self, message: Message) -> str | None:
        channel = self._channel
        server = aiosmtplib.SMTP(
            hostname=channel.host,
            port=self._port,
            local_hostname=self._node,
            use_tls=channel.tls == "tls",
            start_tls=channel.tls == "starttls",
            tls_context=None if channel.tls == "none" else self._context,
            timeout=channel.timeout_s,
        )
        try:
            await server.connect()
            if channel.username:
                await server.login(channel.username, _revealed(self._password))
            refused, _ = await server.send_message(self.compose(message))
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise self._failure(error) from None
        else:
            await _say_goodbye(server)
        finally:
            server.close()
        words = "; ".join(f"{who}: {answer.message}" for who, answer in refused.items())
        return masked(f"not delivered to {words}", self._password) if refused else None

    def _failure(self, error: Exception) -> Undelivered:
        """In words without a secret. `from None`: what raised it may hold the password."""
        where = f"the mail server {self._channel.host}:{self._port}"
        code = getattr(error, "code", 0) or 0
        if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
            code = max(one.code for one in error.recipients)
            words = "; ".join(f"{one.recipient}: {one.message}" for one in error.recipients)
        else:
            words = str(getattr(error, "message", "") or error)
        detail = masked(words, self._password) or type(error).__name__
        if isinstance(error, aiosmtplib.SMTPAuthenticationError):
            hint = "see username and password_file of the channel"
            return Undelivered(f"{where} refused the login", detail=detail, hint=hint)
        if isinstance(error, aiosmtplib.SMTPResponseException | aiosmtplib.SMTPRecipientsRefused):
            refused = 500 <= code < 600
            return Undelivered(f"{where} refused the mail", detail=detail, refused=refused)
        return Undelivered(f"{where} did not take the mail", detail=detail)


async def _say_goodbye(server: aiosmtplib.SMTP) -> None:
    """The mail is the server's by now, however it takes this."""
    with suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
        async with asyncio.timeout(QUIT_S):
            await server.quit()


def _revealed(password: Secret | None) -> str:
    return password.reveal() if password is not None else ""
