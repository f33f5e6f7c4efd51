"""When something is due, what was missed meanwhile, and how soon a failure is tried again.

Pure: time and chance come in. Cron strings are Debian cron's, five fields in the zone of the
times that come in: at a change of the clocks a job at a fixed hour runs once, neither twice nor
never.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

from peersync.core.errors import BadRequest

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"([0-9]{1,6}) ?([smhd])")
_FIELDS = 5
MIN_S, MAX_S = 10, 366 * 86_400


def parse_span(text: str) -> int:
    """Seconds of "30s", "15m", "6h", "7d". BadRequest for anything else."""
    found = _SPAN.fullmatch(text.strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not MIN_S <= seconds <= MAX_S:
        raise BadRequest(
            f"{text[:50]!r} is no length of time",
            hint='a number and s, m, h or d, from 10s to 366d, for example "15m"',
        )
    return seconds


@dataclass(frozen=True)
class When:
    """`parse` one; then `after` a time. Either `every_s` or `cron` is set."""

    text: str
    every_s: int | None = None
    cron: str | None = None

    @classmethod
    def parse(cls, text: str) -> When:
        """ "every 15m", or five cron fields: "0 2 * * *". BadRequest says what is wrong."""
        words = text.split()
        if words[:1] == ["every"]:
            return cls(text, every_s=parse_span(" ".join(words[1:])))
        if len(words) != _FIELDS:
            raise BadRequest(
                f"{text[:50]!r} says no time",
                hint='"every 15m", or five fields as in cron: "0 2 * * *" is 02:00 each night',
            )
        try:
            next(CronSim(text, datetime(2024, 1, 1)))  # only whether there is one
        except (CronSimError, StopIteration) as error:
            raise BadRequest(
                f"{text[:50]!r} is no cron string that ever comes",
                detail=str(error) or None,
                hint="five fields: minute hour day month weekday",
            ) from error
        return cls(text, cron=text)

    def after(self, time: datetime) -> datetime:
        """The next time strictly after `time`, which has a zone; the same zone."""
        if self.every_s is not None:  # seconds that pass, whatever the clocks are set to
            return (time.astimezone(UTC) + timedelta(seconds=self.every_s)).astimezone(time.tzinfo)
        assert self.cron is not None
        # In the hour that comes twice it may give a time of the first one, which is over.
        return next(due for due in CronSim(self.cron, time) if _seconds(time, due) > 0)

    def missed(self, last: datetime, now: datetime) -> bool:
        """Whether a time of it lies between `last` and `now`: then one run makes up for all."""
        return _seconds(self.after(last), now) >= 0

    def opens(self, due: datetime) -> datetime:
        """What began at this time or later, in whichever agent, was the turn of `due`.

        Two agents with the same interval do not begin at the same moment.
        """
        if self.every_s is None:
            assert self.cron is not None
            return next(CronSim(self.cron, due + timedelta(seconds=1), reverse=True))
        half = timedelta(seconds=self.every_s / 2)
        return (due.astimezone(UTC) - half).astimezone(due.tzinfo)

    def turn(self, last: datetime, now: datetime, *, catch_up: bool, late_s: float) -> Turn:
        """What to do at `now`, where the last turn was (or counts as) due at `last`.

        More than `late_s` seconds late is missed: `catch_up` makes up for it, once.
        """
        due = self.after(last)
        late = _seconds(due, now)
        if late < 0:
            return Turn(due, run=False)
        if catch_up or late <= late_s:
            return Turn(self._latest(due, now), run=True)
        return Turn(self.after(now), run=False, missed=due)

    def _latest(self, due: datetime, now: datetime) -> datetime:
        """The last time at or before `now`, at which everything before counts as done."""
        if self.every_s is not None:
            turns = int(_seconds(due, now) // self.every_s)
            passed = due.astimezone(UTC) + timedelta(seconds=turns * self.every_s)
            return passed.astimezone(due.tzinfo)
        return now if self.missed(due, now) else due


def _seconds(begin: datetime, end: datetime) -> float:
    """Those that pass: two times of one zone would be compared by their clocks."""
    return end.timestamp() - begin.timestamp()


@dataclass(frozen=True)
class Turn:
    """`run`: now, for the time `due`. Else wait until `due`; `missed` is not made up for."""

    due: datetime
    run: bool
    missed: datetime | None = None


@dataclass(frozen=True)
class Budget:
    """How often, and for how long, something that failed is tried again."""

    tries: int
    first_s: float = 5.0
    longest_s: float = 900.0

    def pause_s(
        self, failures: int, left_s: float, chance: float, asked_s: float | None = None
    ) -> float | None:
        """Seconds to the next try after so many failures in a row; None: no more.

        `left_s`: until the time is over. `chance`: 0 to 1, so that many do not come at once.
        `asked_s`: the peer's Retry-After, before which nothing is tried.
        """
        if failures > self.tries:
            return None
        grown = min(self.first_s * 2.0 ** min(failures - 1, 30), self.longest_s)
        pause = max(grown * (0.5 + chance / 2), asked_s or 0.0)
        return pause if pause < left_s else None
