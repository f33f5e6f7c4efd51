"""A channel of Slack, or of what takes the same form, through an incoming webhook."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from peersync.agent.notify.outlet import read_url
from peersync.agent.notify.post import Target
from peersync.agent.notify.text import Templates, subject
from peersync.config.orchestration import Channel
from peersync.core.incidents import Message

MAX_TEXT: Final = 30_000  # Slack cuts at 40,000
_ESCAPES: Final = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}  # so no <!channel>


class Slack:
    """Made in a thread: files are read. ConfigError."""

    def __init__(self, channel: Channel, node: str, environ: Mapping[str, str]) -> None:
        self._node = node
        self._target = Target(read_url(channel, environ))
        self._templates = Templates.load()

    async def send(self, message: Message) -> None:
        text = f"{subject(self._node, message)}\n\n{self._templates.text(self._node, message)}"
        form = {
            "text": text[:MAX_TEXT].translate(_ESCAPES),
            "mrkdwn": False,
            "unfurl_links": False,
            "unfurl_media": False,
        }
        headers = {"Content-Type": "application/json"}
        await self._target.call("POST", body=json.dumps(form).encode(), headers=headers)
