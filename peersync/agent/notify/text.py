"""How a message reads: its subject, as text, and as HTML.

Names and words come from databases and peers, so all of them are hostile: each is put on one
line, its control characters are shown as \\xNN, and HTML escapes it. Owns no transport.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import jinja2

from peersync.config.secret import mask_conninfo
from peersync.core.incidents import Message, Notice

MAX_SUBJECT: Final = 150
MAX_WORDS: Final = 2000


def one_line(text: str, limit: int = MAX_WORDS) -> str:
    """Without line breaks, control characters, passwords of connection strings, or an end."""
    words = " ".join(line for part in text.splitlines() if (line := part.strip()))
    cleaned = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in mask_conninfo(words))
    return cleaned if len(cleaned) <= limit else f"{cleaned[: limit - 1]}…"


def span(seconds: float) -> str:
    """ "12 s", "17 min", "3 h 5 min", "2 d 4 h"."""
    whole = max(round(seconds), 0)
    for unit_s, unit, below_s, below in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= unit_s:
            rest = whole % unit_s // below_s
            return f"{whole // unit_s} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole // 60} min" if whole >= 60 else f"{whole} s"


def clock(unix_time: float) -> str:
    """In the time zone of this server, with its name."""
    return datetime.fromtimestamp(unix_time).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def heading(notice: Notice) -> str:
    title = one_line(notice.title)
    if notice.kind == "recovered":
        return f"recovered after {span(notice.lasted_s)}: {title}"
    if notice.kind == "repeated":
        return f"still, for {span(notice.lasted_s)}: {title}"
    return title


def subject(node: str, message: Message) -> str:
    """ "[peersync] server-a: shop does not sync with server-b, and 2 more"."""
    if not message.notices:
        words = f"{message.held_back} notifications held back"
    else:
        more = len(message.notices) - 1 + message.held_back
        tail = f", and {more} more" if more else ""
        words = one_line(heading(message.notices[0]), MAX_SUBJECT) + tail
    return f"[peersync] {node}: {words}"


@dataclass(frozen=True)
class Templates:
    """`load` reads files and blocks; rendering does not."""

    plain: jinja2.Template
    markup: jinja2.Template

    @classmethod
    def load(cls) -> Templates:
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("peersync.agent.notify"),
            autoescape=jinja2.select_autoescape(["html"]),
            undefined=jinja2.StrictUndefined,
        )
        return cls(
            environment.get_template("message.txt"), environment.get_template("message.html")
        )

    def text(self, node: str, message: Message) -> str:
        return self.plain.render(_values(node, message)).strip() + "\n"

    def html(self, node: str, message: Message) -> str:
        return self.markup.render(_values(node, message))


def _values(node: str, message: Message) -> dict[str, Any]:
    return {
        "node": node,
        "subject": subject(node, message),
        "held_back": message.held_back,
        "notices": [_shown(notice) for notice in message.notices],
    }


def _shown(notice: Notice) -> dict[str, str]:
    return {
        "kind": notice.kind,
        "heading": heading(notice),
        "impact": one_line(notice.impact),
        "database": one_line(notice.database or ""),
        "peer": one_line(notice.peer or ""),
        "since": clock(notice.since),
        "problem": one_line(notice.problem or ""),
        "hint": one_line(notice.hint or ""),
    }
