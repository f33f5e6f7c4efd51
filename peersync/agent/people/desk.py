"""Logging in and out: what accounts, passwords, sessions and tries are together.

Owns the order of a login: count the try, take as long whoever it is, look again at the user, begin
a new session and end the one that the browser had. It knows no HTTP.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from peersync.agent.people.accounts import Accounts, Token, User, digest_of
from peersync.agent.people.passwords import Passwords, check_new
from peersync.agent.people.rights import Role
from peersync.agent.people.sessions import Session, Sessions
from peersync.agent.people.tries import Tries
from peersync.agent.workers import Workers
from peersync.core.errors import LoginFailed, LoginNeeded, NotFound
from peersync.wire.address import network_of

log = logging.getLogger("peersync.people")

_LOGIN = "open the page and log in, or send a token: peersync token create"
_WRONG = "the name or the password is wrong"
_WRONG_HINT = "forgotten: on the server, peersync admin passwd, or peersync admin link"
_OLD_LINK = "this link was used already, or is older than 24 h"
_NEW_LINK = "make another on the server: peersync admin link"


@dataclass(frozen=True)
class Principal:
    """Who asks. `key` is the id of the session or token, `session` only of a login.

    `owner`: the user whose right it is; None of a token that was made on the command line.
    """

    user: str
    role: Role
    kind: Literal["session", "token"]
    key: str
    session: Session | None = None
    owner: str | None = None


@dataclass(frozen=True)
class Browser:
    """Where a login comes from, as far as is known. `secret` is of the cookie that it has."""

    address: str
    name: str
    secret: str | None = None


class Desk:
    """One for the node."""

    def __init__(self, accounts: Accounts, sessions: Sessions, workers: Workers) -> None:
        self.accounts = accounts
        self.sessions = sessions
        self.passwords = Passwords(workers)
        self.tries = Tries()
        self._used: dict[str, datetime] = {}  # tokens, since the agent started

    # --- who asks -----------------------------------------------------------------------------
    async def of_cookie(self, secret: str | None) -> Principal:
        """LoginNeeded without a session that lives, of a user that exists."""
        session = await self.sessions.use(secret) if secret else None
        user = self.accounts.find(session.user) if session else None
        if session is None or user is None or session.stamp != _stamp(user):
            raise LoginNeeded("you are not logged in, or not any more", hint=_LOGIN)
        return Principal(user.name, user.role, "session", session.id, session, user.name)

    def of_token(self, secret: str) -> Principal:
        """LoginNeeded for a token that does not exist, was revoked, or is too old."""
        token = self.accounts.token(secret)
        if token is None:
            raise LoginNeeded("this token is not valid, or not any more", hint=_LOGIN)
        self._used[token.id] = self.accounts.now()
        return Principal(token.name, token.role, "token", token.id, owner=token.owner)

    def last_used(self, token_id: str) -> str | None:
        """ISO 8601; None: not since the agent started."""
        at = self._used.get(token_id)
        return at.isoformat(timespec="seconds") if at else None

    def left_s(self, principal: Principal) -> float:
        """How long who asks may go on; 0: no longer."""
        if principal.session is not None:
            return self.sessions.alive(principal.session)
        token = next((t for t in self.accounts.tokens() if t.id == principal.key), None)
        if token is None:
            return 0.0
        expires_at = datetime.fromisoformat(token.expires_at)
        return max((expires_at - self.accounts.now()).total_seconds(), 0.0)

    # --- logging in ---------------------------------------------------------------------------
    async def login(self, name: str, password: str, browser: Browser) -> tuple[Session, str]:
        """A new session and its secret; LoginFailed, or TooManyTries."""
        self.tries.begin(browser.address, name, known=self._is_in(name, browser.address))
        before = self.accounts.find(name)
        fits = await self.passwords.fits(password, before.password if before else None)
        user = self.accounts.find(name)  # a removed one, or an old password, is no login
        if not fits or user is None or before is None or user.password != before.password:
            known = name if user else "an unknown name"  # it may be a password in the wrong field
            log.warning("login failed: %s from %s", known, browser.address)
            raise LoginFailed(_WRONG, hint=_WRONG_HINT)
        self.tries.forgive(browser.address, name)
        return await self._begin(user, browser)

    def _is_in(self, name: str, address: str) -> bool:
        """Whether a user is logged in from there: whatever others try, he may log in again."""
        network = network_of(address)
        return any(s.user == name and network_of(s.address) == network for s in self.sessions.all())

    async def login_by_link(
        self, secret: str, password: str | None, browser: Browser
    ) -> tuple[Session, str]:
        """The same by a one-time link, which is used up; `password` becomes the user's."""
        user = self.accounts.linked(secret)
        if user is not None and password is not None:
            check_new(password, user.name)  # a bad one is no failed try
        self.tries.begin(browser.address, "")
        if user is None:
            log.warning("login failed: a link that does not work, from %s", browser.address)
            raise LoginFailed(_OLD_LINK, hint=_NEW_LINK)
        if password is None:
            user = await self.accounts.use_link(secret)
        else:
            user = await self._set_by_link(user, password, secret)
        if user is None:  # somebody else was quicker
            raise LoginFailed(_OLD_LINK, hint=_NEW_LINK)
        self.tries.forgive(browser.address, "")
        await self.end_all(user.name)
        return await self._begin(user, browser, first=password is None)

    async def _set_by_link(self, user: User, password: str, secret: str) -> User | None:
        phc = await self.passwords.make(password)
        try:
            return await self.accounts.set_password(user.name, phc, link=secret)
        except NotFound:
            return None

    async def change_password(
        self, session: Session, old: str | None, new: str, browser: Browser
    ) -> tuple[Session, str]:
        """Sets one's own password; every session of the user ends, and a new one begins here."""
        user = self.accounts.get(session.user)
        if not session.first:
            self.tries.begin(browser.address, user.name, known=True)
            if not await self.passwords.fits(old or "", user.password):
                raise LoginFailed("the old password is wrong", hint=_WRONG_HINT)
            self.tries.forgive(browser.address, user.name)
        check_new(new, user.name)
        phc = await self.passwords.make(new)
        user = await self.accounts.set_password(user.name, phc, before=user)
        await self.end_all(user.name)
        return await self._begin(user, browser)

    async def set_password(self, name: str, password: str) -> User:
        """What an admin may do for others, too. All sessions of the user end."""
        check_new(password, name)
        self.accounts.get(name)
        user = await self.accounts.set_password(name, await self.passwords.make(password))
        await self.end_all(name)
        return user

    async def logout(self, session: Session) -> None:
        await self.sessions.end(lambda s: s.id == session.id)

    async def end_all(self, user: str) -> None:
        """Ends every session of a user."""
        await self.sessions.end(lambda s: s.user == user)

    async def remove(self, name: str) -> tuple[User, list[Token]]:
        """Forgets a user with all that he has: sessions, and the tokens that he has made."""
        user, gone = await self.accounts.remove(name)
        await self.end_all(name)
        self._cut(gone)
        return user, gone

    async def change_role(self, name: str, role: Role) -> tuple[User, list[Token]]:
        """With a lower role his tokens end that may do more; what is under way is cut."""
        user, gone = await self.accounts.change_role(name, role)
        for session in self.sessions.all():
            if session.user == name:
                self.sessions.cut(session.id)  # what is under way began with other rights
        self._cut(gone)
        return user, gone

    def _cut(self, gone: list[Token]) -> None:
        for token in gone:
            self.sessions.cut(token.id)
        if gone:
            log.info("tokens revoked with their owner: %s", ", ".join(t.name for t in gone))

    async def revoke(self, token: str) -> Token:
        """Forgets a token, and cuts what it has open."""
        gone = await self.accounts.revoke(token)
        self.sessions.cut(gone.id)
        return gone

    async def _begin(
        self, user: User, browser: Browser, *, first: bool = False
    ) -> tuple[Session, str]:
        if browser.secret is not None:
            earlier = await self.sessions.use(browser.secret)
            if earlier is not None:
                await self.logout(earlier)
        log.info("%s logged in from %s", user.name, browser.address)
        return await self.sessions.begin(
            user.name,
            address=browser.address,
            browser=browser.name,
            first=first,
            stamp=_stamp(user),
        )


def _stamp(user: User) -> str:
    """What a session is bound to: this user with this password, and none of the same name later."""
    return digest_of(f"{user.created_at} {user.password}")[:32]
