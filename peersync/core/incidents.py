"""What is worth a message, when it is said, and to which channel: facts in, messages out.

Pure: times come in, in seconds since 1970. An incident opens when a look at the node shows a
fact that was not there, is said once it has lasted for `group_s`, together with whatever else
happened meanwhile, said again every `repeat_s`, and ends when it has been gone for
`settle_s`. One that comes and goes within `group_s` is never said, so that no link that flutters
makes a flood. `Memory` is all that a restart must keep; writing it down is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

HOUR_S: Final = 3600.0
MAX_NOTICES: Final = 50  # in one message; the rest is counted
MAX_WAITING: Final = 100  # messages to one channel
MAX_HAPPENED: Final = 200  # that wait to be said
_WORSE: Final = frozenset({("partial", "failed")})

NoticeKind = Literal["opened", "repeated", "recovered", "happened", "test"]


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong at this moment, or that has happened.

    `key` names the incident: the same fact in two looks is one incident. `scope` names what has
    to be known for its absence to mean that it is over. `sticky`: no look shows it; it lasts
    until it is settled. `once`: it is not repeated, and its end is not said.
    """

    key: str
    event: str
    title: str
    impact: str
    since: float
    scope: str = ""
    database: str | None = None
    peer: str | None = None
    problem: str | None = None
    hint: str | None = None
    sticky: bool = False
    once: bool = False


class Incident(msgspec.Struct, kw_only=True):
    """A fact and what became of it. `gone_at`: since when no look has shown it.

    `earlier`: it was said as another event, before it became this one.
    """

    fact: Fact
    noticed_at: float
    said_at: float | None = None
    earlier: bool = False
    gone_at: float | None = None
    over_at: float | None = None


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in a message. `lasted_s`: how long it lasted, or has lasted until now."""

    kind: NoticeKind
    event: str
    key: str
    title: str
    impact: str
    since: float
    lasted_s: float
    database: str | None = None
    peer: str | None = None
    problem: str | None = None
    hint: str | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What one channel is to say. `held_back`: notices that it was not given before."""

    id: str
    at: float
    notices: tuple[Notice, ...]
    held_back: int = 0


class ChannelMemory(msgspec.Struct, kw_only=True):
    """`sent`: when messages were made, in the last hour. `waiting`: not delivered yet."""

    sent: list[float] = []
    held_back: int = 0
    waiting: list[Message] = []


class Memory(msgspec.Struct, kw_only=True):
    """All that a restart must not forget. `heard`: when each peer was last heard of."""

    incidents: dict[str, Incident] = {}
    happened: list[Fact] = []
    channels: dict[str, ChannelMemory] = {}
    heard: dict[str, float] = {}
    quiet_until: float = 0.0
    serial: int = 0


@dataclass(frozen=True)
class Rules:
    """When something is said; seconds."""

    repeat_s: float
    group_s: float
    per_hour: int

    @property
    def settle_s(self) -> float:
        return 3 * self.group_s


class Incidents:
    """The incidents of one node. `routes`: the events that each channel wants."""

    def __init__(self, rules: Rules, routes: Mapping[str, frozenset[str]], memory: Memory) -> None:
        self._rules = rules
        self._routes = routes
        self.memory = memory
        self._wanted: frozenset[str] = frozenset().union(*routes.values())
        kept = memory.channels
        memory.channels = {name: kept.get(name, ChannelMemory()) for name in routes}

    # --- facts come in ------------------------------------------------------------------
    def look(self, facts: Iterable[Fact], now: float, unsure: frozenset[str] = frozenset()) -> None:
        """What is so now. Of what is in the scopes `unsure`, nothing is known to be over."""
        found = {fact.key: fact for fact in facts}
        for key, incident in list(self.memory.incidents.items()):
            if key not in found and not incident.fact.sticky and incident.fact.scope not in unsure:
                self._gone(key, incident, now)
        for fact in found.values():
            self.add(fact, now)

    def forget(self, scopes: set[str], *, keep: set[str]) -> None:
        """What these scopes stood for is no more: no end of theirs is said. `keep`: keys."""
        for key, incident in list(self.memory.incidents.items()):
            if incident.fact.scope in scopes and key not in keep and not incident.fact.sticky:
                del self.memory.incidents[key]

    def add(self, fact: Fact, now: float) -> None:
        """A fact that is so now; what lasts keeps its beginning and takes the newest words."""
        incident = self.memory.incidents.get(fact.key)
        if incident is None:
            self.memory.incidents[fact.key] = Incident(fact=fact, noticed_at=now)
            return
        incident.gone_at = incident.over_at = None  # an end that was not said yet is none
        if (incident.fact.event, fact.event) in _WORSE:  # that has to be said as well
            incident.earlier = incident.earlier or incident.said_at is not None
            incident.noticed_at, incident.said_at = now, None
            incident.fact = msgspec.structs.replace(fact, since=incident.fact.since)
            return
        incident.fact = msgspec.structs.replace(
            incident.fact, problem=fact.problem, hint=fact.hint, sticky=fact.sticky
        )

    def happened(self, fact: Fact) -> None:
        """Something that does not last; `since` is when it happened."""
        if fact.event in self._wanted:
            self.memory.happened = [*self.memory.happened, fact][-MAX_HAPPENED:]

    def dismiss(self, key: str) -> bool:
        """Forgets an incident, and says no end of it; False where there is none."""
        return self.memory.incidents.pop(key, None) is not None

    def settle(self, key: str, now: float) -> None:
        """A sticky incident is over, or goes on as one that looks show."""
        incident = self.memory.incidents.get(key)
        if incident is not None and incident.over_at is None:
            self._end(key, incident, now)

    def _gone(self, key: str, incident: Incident, now: float) -> None:
        if incident.over_at is not None:
            return
        if incident.gone_at is None or incident.gone_at > now:
            incident.gone_at = now
        if now - incident.gone_at >= self._rules.settle_s:
            self._end(key, incident, incident.gone_at)

    def _end(self, key: str, incident: Incident, at: float) -> None:
        if (incident.said_at is None and not incident.earlier) or incident.fact.once:
            del self.memory.incidents[key]
        else:
            incident.over_at = at

    # --- messages come out --------------------------------------------------------------
    def quiet(self, until: float) -> None:
        """Nothing is said until then; 0 ends it. What still lasts then is said then."""
        self.memory.quiet_until = until

    def open(self) -> list[Incident]:
        """What lasts and was not just noticed, the oldest first."""
        found = [i for i in self.memory.incidents.values() if i.over_at is None]
        return sorted(found, key=lambda i: i.fact.since)

    def lasting(self, events: frozenset[str], now: float) -> bool:
        """Whether something of these events has lasted long enough to be said."""
        return any(
            i.fact.event in events and not i.fact.once and self._is_ripe(i.noticed_at, now)
            for i in self.open()
        )

    def due_in(self, now: float) -> float | None:
        """Seconds until something new has to be said; None where there is nothing new."""
        first = min(self._news(), default=None)
        if first is None:
            return None
        quiet = self.memory.quiet_until - now
        return max(quiet, 0.0 if first > now else first + self._rules.group_s - now, 0.0)

    def say(self, now: float) -> None:
        """Makes the messages that are due; they wait in `memory.channels`."""
        if now < self.memory.quiet_until:
            return
        notices: list[Notice] = []
        first = min(self._news(), default=None)
        if first is not None and self._is_ripe(first, now):
            notices += self._new_notices(now)
        notices += self._repeated(now)
        for name, events in self._routes.items():
            self._tell(name, [n for n in notices if _wants(events, n)], events, now)

    def dropped(self, channel: str, message: Message) -> None:
        """A message could not be delivered for so long that it was given up."""
        self.memory.channels[channel].held_back += len(message.notices) + message.held_back

    def _is_ripe(self, noticed_at: float, now: float) -> bool:
        return noticed_at > now or now - noticed_at >= self._rules.group_s  # > now: clock set back

    def _news(self) -> list[float]:
        """When each thing that was not said yet was noticed."""
        times = [fact.since for fact in self.memory.happened]
        for incident in self.memory.incidents.values():
            if incident.over_at is not None:
                times.append(incident.over_at)
            elif incident.said_at is None and incident.gone_at is None:
                times.append(incident.noticed_at)
        return times

    def _new_notices(self, now: float) -> list[Notice]:
        opened, over = [], []
        for key, incident in list(self.memory.incidents.items()):
            if incident.over_at is not None:
                over.append(_notice("recovered", incident.fact, incident.over_at))
                del self.memory.incidents[key]
            elif incident.said_at is None and incident.gone_at is None:
                incident.said_at = now
                opened.append(_notice("opened", incident.fact, now))
        happened = [_notice("happened", fact, fact.since) for fact in self.memory.happened]
        self.memory.happened = []
        return [*opened, *over, *happened]

    def _repeated(self, now: float) -> list[Notice]:
        notices = []
        for incident in self.open():
            if incident.said_at is None or incident.fact.once or incident.gone_at is not None:
                continue
            incident.said_at = min(incident.said_at, now)
            if now - incident.said_at >= self._rules.repeat_s:
                incident.said_at = now
                notices.append(_notice("repeated", incident.fact, now))
        return notices

    def _tell(self, name: str, notices: list[Notice], events: frozenset[str], now: float) -> None:
        channel = self.memory.channels[name]
        channel.sent = [at for at in channel.sent if now - HOUR_S < at <= now]
        if not notices and not channel.held_back:
            return
        if len(channel.sent) >= self._rules.per_hour:
            channel.held_back += len(notices)
            return
        if not notices:  # what was held back is over or lasts: this says which
            lasting = (_notice("repeated", i.fact, now) for i in self.open() if i.said_at)
            notices = [n for n in lasting if _wants(events, n)]
        self.memory.serial += 1
        message = Message(
            id=f"{int(now * 1000)}-{self.memory.serial}",
            at=now,
            notices=tuple(notices[:MAX_NOTICES]),
            held_back=channel.held_back + len(notices[MAX_NOTICES:]),
        )
        channel.sent.append(now)
        channel.held_back = 0
        channel.waiting.append(message)
        while len(channel.waiting) > MAX_WAITING:
            self.dropped(name, channel.waiting.pop(0))


def _wants(events: frozenset[str], notice: Notice) -> bool:
    """An end is for who is told of ends, and of what has ended."""
    return notice.event in events and (notice.kind != "recovered" or "recovered" in events)


def _notice(kind: NoticeKind, fact: Fact, until: float) -> Notice:
    return Notice(
        kind=kind,
        event=fact.event,
        key=fact.key,
        title=fact.title,
        impact=fact.impact,
        since=fact.since,
        lasted_s=max(until - fact.since, 0.0),
        database=fact.database,
        peer=fact.peer,
        problem=fact.problem,
        hint=fact.hint,
    )
