"""Sessions end when they should, tries are counted, and the file of users is never half right."""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from peersync.agent.people.accounts import Accounts, Now, utc_now
from peersync.agent.people.passwords import NOBODY, check_new, make_hash
from peersync.agent.people.rights import RIGHTS, may, needed
from peersync.agent.people.sessions import Sessions
from peersync.agent.people.tries import (
    KEPT,
    PER_ADDRESS,
    PER_NAME,
    PER_NAME_THERE,
    WINDOW_S,
    Tries,
)
from peersync.core.errors import BadRequest, Denied, Locked, NotFound, TooManyTries

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


async def sessions(home: Path, clock: Clock) -> Sessions:
    return await asyncio.to_thread(Sessions, home, idle_s=HOUR, max_s=3 * HOUR, clock=clock)


async def accounts_in(home: Path, now: Now = utc_now) -> Accounts:
    return await asyncio.to_thread(Accounts, home, now=now)


# --- sessions -------------------------------------------------------------------------------
async def test_a_session_ends_when_it_is_not_used_and_after_its_time_in_any_case(
    tmp_path: Path,
) -> None:
    clock = Clock()
    known = await sessions(tmp_path, clock)
    _, secret = await known.begin("admin", address="a", browser="b")
    _, idle = await known.begin("admin", address="a", browser="b")
    for _ in range(3):
        clock.now += 0.9 * HOUR
        assert await known.use(secret)
    assert await known.use(idle) is None
    clock.now += 0.5 * HOUR  # used a moment ago, and begun too long ago
    assert await known.use(secret) is None
    assert known.all() == []


async def test_sessions_are_known_again_after_a_restart_but_not_those_that_ended(
    tmp_path: Path,
) -> None:
    clock = Clock()
    known = await sessions(tmp_path, clock)
    kept, secret = await known.begin("admin", address="a", browser="b")
    gone, other = await known.begin("vera", address="a", browser="b")
    await known.end(lambda s: s.id == gone.id)
    again = await sessions(tmp_path, clock)
    found = await again.use(secret)
    assert found is not None
    assert found.id == kept.id
    assert await again.use(other) is None
    file = tmp_path / "sessions.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret not in file.read_text()


async def test_who_logs_in_while_the_disk_is_full_gets_in_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "state"
    known = await sessions(home, Clock())  # nothing can be written where there is no directory
    session, secret = await known.begin("admin", address="a", browser="b")
    assert await known.use(secret) is not None
    assert "can't be written" in caplog.text
    with pytest.raises(OSError, match="state"):  # it would be valid again after a restart
        await known.end(lambda s: s.id == session.id)
    assert await known.use(secret) is None


async def test_an_open_stream_is_cut_when_its_session_ends_by_itself(tmp_path: Path) -> None:
    clock, cut = Clock(), asyncio.Event()
    known = await sessions(tmp_path, clock)
    session, _ = await known.begin("admin", address="a", browser="b")
    clock.now += HOUR - 0.05
    async with asyncio.timeout(5):
        with known.stream(session.id, cut.set, lambda: known.alive(session)):
            assert not cut.is_set()
            clock.now += 0.1
            await cut.wait()


# --- accounts -------------------------------------------------------------------------------
async def test_a_token_and_a_link_work_until_their_time_is_over(tmp_path: Path) -> None:
    now = [datetime(2026, 11, 22, tzinfo=UTC)]
    accounts = await accounts_in(tmp_path, lambda: now[0])
    await accounts.add("admin", "admin")
    token, secret = await accounts.add_token("t", "viewer", now[0] + timedelta(days=1), by="x")
    _, link = await accounts.make_link("admin")
    assert accounts.token(secret) == token
    assert accounts.linked(link) is not None
    now[0] += timedelta(hours=23, minutes=59)
    assert accounts.token(secret) == token
    assert accounts.linked(link) is not None
    now[0] += timedelta(minutes=1)
    assert accounts.token(secret) is None
    assert accounts.linked(link) is None
    assert await accounts.use_link(link) is None
    text = await asyncio.to_thread((tmp_path / "people.json").read_text)
    assert secret not in text
    assert link not in text


async def test_a_link_is_used_once_even_by_two_at_once(tmp_path: Path) -> None:
    accounts = await accounts_in(tmp_path)
    await accounts.add("admin", "admin")
    _, link = await accounts.make_link("admin")
    async with asyncio.TaskGroup() as group:
        tries = [group.create_task(accounts.use_link(link)) for _ in range(2)]
    assert sorted(task.result() is None for task in tries) == [False, True]
    _, link = await accounts.make_link("admin")
    await accounts.set_password("admin", "one", link=link)
    with pytest.raises(NotFound):
        await accounts.set_password("admin", "two", link=link)
    assert (await accounts_in(tmp_path)).get("admin").password == "one"


async def test_names_are_plain_and_an_admin_stays(tmp_path: Path) -> None:
    accounts = await accounts_in(tmp_path)
    await accounts.add("admin", "admin")
    for name in ("", "Admin", "../x", "a" * 64, "a b", "<img>", "admin", "admin\n"):
        with pytest.raises(BadRequest):
            await accounts.add(name, "viewer")
    with pytest.raises(Locked):
        await accounts.remove("admin")
    await accounts.add("b@shop.example", "admin")
    await accounts.remove("admin")
    assert [user.name for user in accounts.users()] == ["b@shop.example"]


async def test_what_a_user_has_made_ends_with_his_right(tmp_path: Path) -> None:
    accounts = await accounts_in(tmp_path)
    until = datetime.now(UTC) + timedelta(days=1)
    for name in ("anna", "admin"):
        await accounts.add(name, "admin")
    for role in ("viewer", "operator", "admin"):
        await accounts.add_token(f"of-anna-{role}", role, until, by="anna", owner="anna")
    await accounts.add_token("typed", "admin", until, by="anna")  # by the system's anna
    await accounts.add_token("other", "admin", until, by="admin", owner="admin")

    _, ended = await accounts.change_role("anna", "operator")
    assert [token.name for token in ended] == ["of-anna-admin"]
    with pytest.raises(Denied):
        await accounts.add_token("late", "admin", until, by="anna", owner="anna")
    _, ended = await accounts.remove("anna")
    assert [token.name for token in ended] == ["of-anna-viewer", "of-anna-operator"]
    with pytest.raises(NotFound):
        await accounts.add_token("later", "viewer", until, by="anna", owner="anna")
    again = await accounts_in(tmp_path)
    assert [token.name for token in again.tokens()] == ["typed", "other"]


# --- passwords and tries --------------------------------------------------------------------
def test_nobody_has_a_hash_of_the_same_cost() -> None:
    parameters = make_hash("four words for tests").split("$")[1:4]
    assert NOBODY.split("$")[1:4] == parameters


@pytest.mark.parametrize(
    "password", ["", "short", "a" * 20, "abababababab", "admin-admin", "x" * 1025]
)
def test_easy_passwords_are_refused(password: str) -> None:
    with pytest.raises(BadRequest):
        check_new(password, "admin-admin")


def test_tries_are_forgotten_after_a_while_and_a_success() -> None:
    clock = Clock()
    tries = Tries(clock)
    for _ in range(PER_NAME_THERE):
        tries.begin("192.0.2.1", "admin")
    with pytest.raises(TooManyTries) as refused:
        tries.begin("192.0.2.1", "admin", known=True)
    assert 0 < refused.value.data["retry_after_s"] <= WINDOW_S + 1
    tries.begin("192.0.2.1", "vera")
    clock.now += WINDOW_S + 1
    for _ in range(3 * PER_ADDRESS):
        tries.begin("192.0.2.1", "admin")
        tries.forgive("192.0.2.1", "admin")


def test_a_name_is_guessed_from_many_addresses_only_so_often_and_its_own_place_stays_open() -> None:
    tries = Tries(Clock())
    tries.begin("203.0.113.1", "admin")
    tries.forgive("203.0.113.1", "admin")
    for number in range(PER_NAME):
        tries.begin(f"192.0.2.{number}", "admin")
    with pytest.raises(TooManyTries):
        tries.begin("198.51.100.1", "admin")
    tries.begin("198.51.100.1", "vera")
    for _ in range(PER_NAME_THERE):
        tries.begin("203.0.113.1", "admin")
    with pytest.raises(TooManyTries):
        tries.begin("203.0.113.1", "admin")


def test_many_names_from_one_address_are_bounded_and_who_is_known_there_is_not() -> None:
    tries = Tries(Clock())
    for number in range(PER_ADDRESS):
        tries.begin("192.0.2.1", f"user{number}")
    with pytest.raises(TooManyTries):
        tries.begin("192.0.2.1", "vera")
    tries.begin("192.0.2.1", "vera", known=True)
    tries.begin("192.0.2.2", "vera")


def test_an_ipv6_network_is_one_address_and_memory_is_bounded() -> None:
    clock = Clock()
    tries = Tries(clock)
    for number in range(PER_ADDRESS):
        tries.begin(f"2001:db8::{number:x}", f"user{number}")
    with pytest.raises(TooManyTries):
        tries.begin("2001:db8::ffff", "another")
    for number in range(KEPT):
        tries.begin(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", f"n{number}")
    assert len(tries._failed) <= KEPT + 1
    for _ in range(2 * PER_ADDRESS):  # of a script that is logged in there and fails for hours
        clock.now += WINDOW_S
        tries.begin("203.0.113.1", "vera", known=True)
    assert max(map(len, tries._failed.values())) <= PER_ADDRESS


# --- rights ---------------------------------------------------------------------------------
def test_looking_is_for_all_and_what_is_not_in_the_table_is_for_nobody() -> None:
    assert needed("HEAD", "/api/admin/status") == "viewer"
    assert needed("POST", "/api/admin/status") is None
    assert may("viewer", "viewer")
    assert not may("viewer", "operator")
    assert not may(None, "viewer")
    for (method, pattern), wanted in RIGHTS.items():
        assert (
            wanted != "viewer" or method == "GET" or pattern.startswith(("/api/logout", "/api/me"))
        )
