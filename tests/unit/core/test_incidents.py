"""What is said, to whom and when: each incident once, its end with how long it lasted."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from peersync.core.incidents import Fact, Incidents, Memory, Message, Notice, Rules

RULES = Rules(repeat_s=24 * 3600, group_s=10, per_hour=20)
ALL = frozenset({"failed", "recovered", "silent", "completed"})
T0 = 1_700_000_000.0


def a_fact(key: str = "k", event: str = "failed", **more: object) -> Fact:
    return Fact(key=key, event=event, title=f"{key} is wrong", impact="none", since=T0, **more)  # type: ignore[arg-type]


def machine(rules: Rules = RULES, **routes: frozenset[str]) -> Incidents:
    return Incidents(rules, routes or {"a": ALL}, Memory())


def taken(incidents: Incidents, channel: str = "a") -> list[Message]:
    """What waits for the channel, taken as delivered."""
    waiting = incidents.memory.channels[channel].waiting
    messages = list(waiting)
    waiting.clear()
    return messages


def kinds(messages: list[Message]) -> list[tuple[str, str]]:
    return [(n.kind, n.key) for m in messages for n in m.notices]


def run(incidents: Incidents, start: float, seconds: float, *facts: Fact) -> list[Message]:
    """A look every 15 s, and something said whenever it is due."""
    messages = []
    for step in range(int(seconds // 5) + 1):
        now = start + 5 * step
        if step % 3 == 0:
            incidents.look(facts, now)
        incidents.say(now)
        messages += taken(incidents)
    return messages


def test_what_lasts_is_said_once_and_its_end_with_how_long_it_lasted() -> None:
    incidents = machine()
    assert kinds(run(incidents, T0, 1020, a_fact())) == [("opened", "k")]
    end = run(incidents, T0 + 1035, 300)
    assert kinds(end) == [("recovered", "k")]
    assert end[0].notices[0].lasted_s == 1035


def test_what_comes_and_goes_within_the_time_of_grouping_is_not_said() -> None:
    incidents = machine()
    incidents.look([a_fact()], T0)
    incidents.look([], T0 + 5)
    assert run(incidents, T0 + 6, 600) == []
    assert incidents.memory.incidents == {}


def test_a_link_that_flutters_is_said_once() -> None:
    incidents = machine()
    messages = run(incidents, T0, 60, a_fact())
    for minute in range(1, 60):
        incidents.look([a_fact()] if minute % 2 else [], T0 + 60 + 20 * minute)
        incidents.say(T0 + 60 + 20 * minute)
        messages += taken(incidents)
    assert kinds(messages) == [("opened", "k")]


def test_things_that_happen_together_are_one_message() -> None:
    incidents = machine()
    incidents.look([a_fact("one")], T0)
    incidents.look([a_fact("one"), a_fact("two")], T0 + 8)
    incidents.say(T0 + 9)
    assert taken(incidents) == []
    incidents.say(T0 + 10)
    assert kinds(taken(incidents)) == [("opened", "one"), ("opened", "two")]


def test_what_lasts_is_said_again_after_repeat() -> None:
    incidents = machine(Rules(repeat_s=3600, group_s=10, per_hour=20))
    said = kinds(run(incidents, T0, 3 * 3600, a_fact()))
    assert said == [("opened", "k"), ("repeated", "k"), ("repeated", "k")]


def test_an_end_that_cannot_be_known_is_not_said() -> None:
    incidents = machine()
    run(incidents, T0, 60, a_fact(scope="link"))
    for step in range(40):
        incidents.look([], T0 + 60 + 15 * step, frozenset({"link"}))
        incidents.say(T0 + 60 + 15 * step)
    assert taken(incidents) == []
    assert kinds(run(incidents, T0 + 700, 60)) == [("recovered", "k")]


def test_what_no_look_shows_lasts_until_it_is_settled() -> None:
    incidents = machine()
    incidents.add(a_fact(sticky=True), T0)
    assert kinds(run(incidents, T0, 600)) == [("opened", "k")]
    incidents.settle("k", T0 + 605)
    assert kinds(run(incidents, T0 + 605, 60)) == [("recovered", "k")]


def test_what_was_done_in_part_and_then_not_at_all_is_said_anew() -> None:
    incidents = machine(RULES, a=ALL | {"partial"}, b=frozenset({"failed"}))
    incidents.add(a_fact(event="partial", sticky=True), T0)
    incidents.say(T0 + 11)
    assert kinds(taken(incidents)) == [("opened", "k")]
    incidents.add(a_fact(event="failed", sticky=True), T0 + 3600)
    incidents.say(T0 + 3611)
    assert [m.notices[0].event for m in taken(incidents)] == ["failed"]
    assert kinds(taken(incidents, "b")) == [("opened", "k")]
    incidents.add(a_fact(event="partial", sticky=True), T0 + 7200)
    incidents.say(T0 + 7300)
    assert taken(incidents) == []  # better is no news before it is good
    incidents.settle("k", T0 + 9000)
    incidents.say(T0 + 9011)
    assert kinds(taken(incidents)) == [("recovered", "k")]


def test_one_that_became_worse_and_ended_before_that_was_said_has_an_end_all_the_same() -> None:
    incidents = machine(RULES, a=ALL | {"partial"})
    incidents.add(a_fact(event="partial", sticky=True), T0)
    incidents.say(T0 + 11)
    incidents.add(a_fact(event="failed", sticky=True), T0 + 3600)
    incidents.settle("k", T0 + 3601)
    incidents.say(T0 + 3700)
    assert kinds(taken(incidents)) == [("opened", "k"), ("recovered", "k")]


def test_a_channel_gets_only_the_events_that_it_wants() -> None:
    silent = frozenset({"silent"})
    incidents = machine(RULES, a=ALL, b=silent)
    for now in (T0, T0 + 15):
        incidents.look([a_fact("f"), a_fact("s", "silent")], now)
        incidents.say(now)
    assert len(kinds(taken(incidents, "a"))) == 2
    assert kinds(taken(incidents, "b")) == [("opened", "s")]
    for now in (T0 + 30, T0 + 65, T0 + 80):
        incidents.look([], now)
        incidents.say(now)
    assert len(kinds(taken(incidents, "a"))) == 2
    assert taken(incidents, "b") == []  # it does not want ends


def test_beyond_so_many_an_hour_the_rest_is_held_back_and_counted() -> None:
    incidents = machine(Rules(repeat_s=1e6, group_s=0, per_hour=3))
    for n in range(8):
        incidents.look([a_fact(str(i)) for i in range(n + 1)], T0 + n)
        incidents.say(T0 + n)
    assert kinds(taken(incidents)) == [("opened", "0"), ("opened", "1"), ("opened", "2")]
    incidents.say(T0 + 3599)
    assert taken(incidents) == []
    incidents.say(T0 + 3601)
    (late,) = taken(incidents)
    assert late.held_back == 5
    assert len(late.notices) == 8  # all that lasts
    incidents.say(T0 + 3602)
    assert taken(incidents) == []


def test_nothing_is_said_while_quiet_and_what_still_lasts_then_is_said_then() -> None:
    incidents = machine()
    incidents.quiet(T0 + 3600)
    both = (a_fact("short"), a_fact("long"))
    assert run(incidents, T0, 1800, *both) == []
    assert run(incidents, T0 + 1815, 1700, a_fact("long")) == []
    assert kinds(run(incidents, T0 + 3600, 60, a_fact("long"))) == [("opened", "long")]


def test_what_lasts_without_end_does_not_fill_the_memory() -> None:
    incidents = machine(Rules(repeat_s=60, group_s=0, per_hour=1000))
    for step in range(500):
        incidents.look([a_fact()], T0 + 61 * step)
        incidents.say(T0 + 61 * step)
    channel = incidents.memory.channels["a"]
    assert len(channel.waiting) == 100
    assert channel.held_back + sum(m.held_back for m in channel.waiting) == 400


def test_a_clock_that_is_set_back_neither_repeats_nor_stops_messages() -> None:
    incidents = machine()
    run(incidents, T0, 60, a_fact())
    back = T0 - 86_400
    assert run(incidents, back, 600, a_fact()) == []
    said = run(incidents, back + 615, 60, a_fact(), a_fact("new"))
    assert kinds(said) == [("opened", "new")]
    assert all(n.lasted_s >= 0 for m in said for n in m.notices)


KEYS = ("x", "y", "z")
STEPS = st.lists(
    st.tuples(st.sets(st.sampled_from(KEYS)), st.sampled_from([1.0, 5.0, 15.0, 40.0, 1000.0])),
    min_size=1,
    max_size=40,
)


def notices_of(steps: list[tuple[set[str], float]], *, restart: bool) -> list[Notice]:
    incidents, now, said = machine(Rules(repeat_s=2500, group_s=10, per_hour=10**6)), T0, []
    for keys, seconds in steps:
        now += seconds
        incidents.look([a_fact(key) for key in sorted(keys)], now)
        incidents.say(now)
        said += [n for m in taken(incidents) for n in m.notices]
        if restart:
            kept = msgspec.json.decode(msgspec.json.encode(incidents.memory), type=Memory)
            incidents = Incidents(incidents._rules, {"a": ALL}, kept)
    return said


@given(STEPS)
def test_a_restart_at_any_moment_neither_repeats_nor_forgets(
    steps: list[tuple[set[str], float]],
) -> None:
    assert notices_of(steps, restart=True) == notices_of(steps, restart=False)


@given(STEPS)
def test_an_end_is_said_after_its_beginning_and_each_once(
    steps: list[tuple[set[str], float]],
) -> None:
    opened: set[str] = set()
    for notice in notices_of(steps, restart=False):
        assert (notice.key in opened) == (notice.kind != "opened")
        opened = opened - {notice.key} if notice.kind == "recovered" else opened | {notice.key}


@given(STEPS, st.integers(1, 4))
def test_never_more_messages_an_hour_than_allowed_and_none_lost(
    steps: list[tuple[set[str], float]], per_hour: int
) -> None:
    rules = Rules(repeat_s=500, group_s=0, per_hour=per_hour)
    incidents, free = machine(rules), machine(Rules(repeat_s=500, group_s=0, per_hour=10**6))
    now, messages, produced = T0, [], []
    for keys, seconds in steps:
        now += seconds
        for one in (incidents, free):
            one.look([a_fact(key) for key in sorted(keys)], now)
            one.say(now)
        messages += taken(incidents)
        produced += taken(free)
    for at in (message.at for message in messages):
        assert sum(at - 3600 < other.at <= at for other in messages) <= per_hour
    times = {message.at for message in produced}  # others list what lasts, after holding back
    given_ = sum(len(m.notices) for m in messages if m.at in times)
    held = sum(m.held_back for m in messages) + incidents.memory.channels["a"].held_back
    assert given_ + held == sum(len(m.notices) for m in produced)
