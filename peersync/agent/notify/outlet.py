"""What every channel is to its sender: something that takes a message, or says why not.

Owns the reading of secrets from files, and the masking of them in whatever a
server or a library says. It sends nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Protocol

from peersync.agent.notify.text import one_line
from peersync.config.orchestration import Channel
from peersync.config.secret import MASK, Secret
from peersync.core.incidents import Message
from peersync.postgres.conninfo import read_password_file

MAX_ANSWER = 300


class Outlet(Protocol):
    """One channel, made from its configuration, its secrets read."""

    async def send(self, message: Message) -> str | None:
        """What went wrong though the message was taken, in words; None for nothing.

        Raises Undelivered. May be cancelled at any time; its time is the caller's to limit.
        """


def read_secret(file: str, environ: Mapping[str, str]) -> Secret:
    """The first line of a file that only we can read. Blocks; ConfigError."""
    return read_password_file(file, environ)


def read_url(channel: Channel, environ: Mapping[str, str]) -> Secret:
    return read_secret(channel.url_file, environ) if channel.url_file else Secret(channel.url)


def masked(words: str, *secrets: Secret | None) -> str:
    """What somebody else says, on one line and not long, without our secrets in it."""
    for secret in secrets:
        if secret is None or not (value := secret.reveal()):
            continue
        for form in (value, base64.b64encode(value.encode()).decode()):
            words = words.replace(form, MASK)
    return one_line(words, MAX_ANSWER)
