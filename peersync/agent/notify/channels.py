"""From `[[channel]]` to what sends: the one place that knows all kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from peersync.agent.notify.apprise import Apprise
from peersync.agent.notify.heartbeat import Heartbeat
from peersync.agent.notify.mail import Mail
from peersync.agent.notify.outlet import Outlet
from peersync.agent.notify.sender import Tries
from peersync.agent.notify.slack import Slack
from peersync.agent.notify.webhook import Webhook
from peersync.config.orchestration import Channel

_KINDS: Final[dict[str, Callable[[Channel, str, Mapping[str, str]], Outlet]]] = {
    "mail": Mail,
    "slack": Slack,
    "webhook": Webhook,
    "heartbeat": Heartbeat,
    "apprise": Apprise,
}


def make_tries(channel: Channel, node: str, environ: Mapping[str, str]) -> Tries:
    """Reads nothing yet: a channel that can't be set up fails by itself, later."""
    return Tries(channel, lambda: _KINDS[channel.kind](channel, node, environ))
