"""Any receiver of JSON, which can see by the signature who sent it, and when.

`Peersync-Signature: v1=HEX` is HMAC-SHA256, with the key of `secret_file`, of the value of
`Peersync-Timestamp`, a dot, and the body. `Peersync-Message` stays the same when a message is
sent again.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from peersync.agent.notify.outlet import read_secret, read_url
from peersync.agent.notify.post import Target
from peersync.agent.notify.text import heading, one_line, subject
from peersync.config.orchestration import Channel
from peersync.config.secret import Secret
from peersync.core.incidents import Message, Notice


def sign(key: Secret, timestamp: str, body: bytes) -> str:
    """The value of Peersync-Signature."""
    signed = timestamp.encode() + b"." + body
    return "v1=" + hmac.new(key.reveal().encode(), signed, hashlib.sha256).hexdigest()


class Webhook:
    """Made in a thread: files are read. ConfigError."""

    def __init__(self, channel: Channel, node: str, environ: Mapping[str, str]) -> None:
        self._node = node
        self._target = Target(read_url(channel, environ))
        file = channel.secret_file
        self._key = read_secret(file, environ) if file else None

    async def send(self, message: Message) -> None:
        body = msgspec.json.encode(payload(self._node, message))
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "Peersync-Message": message.id,
            "Peersync-Timestamp": timestamp,
        }
        if self._key is not None:
            headers["Peersync-Signature"] = sign(self._key, timestamp, body)
        await self._target.call("POST", body=body, headers=headers)


def payload(node: str, message: Message) -> dict[str, Any]:
    """The body, as docs/notifications.md shows it."""
    return {
        "schema_version": 1,
        "id": message.id,
        "node": node,
        "at": iso(message.at),
        "subject": subject(node, message),
        "held_back": message.held_back,
        "notices": [_notice(notice) for notice in message.notices],
    }


def _notice(notice: Notice) -> dict[str, Any]:
    told = msgspec.to_builtins(notice)
    for name in ("title", "impact", "database", "peer", "problem", "hint"):
        told[name] = one_line(told[name]) if told[name] is not None else None
    return {**told, "since": iso(notice.since), "text": heading(notice)}


def iso(unix_time: float) -> str:
    """UTC, with milliseconds."""
    return datetime.fromtimestamp(unix_time, UTC).isoformat(timespec="milliseconds")
