"""Users and tokens of this node, in `state_dir/people.json`.

Owns the file and the copy of it in memory, from which each request is judged. A change is on
disk before it counts. Passwords are Argon2id hashes; tokens and one-time links are kept as
SHA-256 only, so that whoever reads the file can log in with nothing in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import msgspec

from peersync.agent.people.rights import Role, may
from peersync.core.errors import BadRequest, ConfigError, Denied, Locked, NotFound
from peersync.transport.files import make_private_directory, read_private, write_private

SCHEMA_VERSION: Final = 1
MAX_BYTES: Final = 8 * 1024 * 1024
FILE: Final = "people.json"
FIRST_USER: Final = "admin"
LINK_KEEP: Final = timedelta(hours=24)
TOKEN_PREFIX: Final = "psy_"  # noqa: S105  # so that scanners of repositories know one
MOST: Final = 1000  # users, and tokens

UserName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z0-9][a-z0-9._@-]{0,62}(?!\n)$",
        description="1 to 63 of a-z, 0-9, ., _, @ and -",
    ),
]


class Link(msgspec.Struct, frozen=True):
    """A one-time link: the SHA-256 of its secret, and until when it works (ISO 8601)."""

    digest: str
    expires_at: str


class User(msgspec.Struct, frozen=True, kw_only=True):
    """`password` is a PHC string; None before the first one was set."""

    name: UserName
    role: Role
    created_at: str
    password: str | None = None
    link: Link | None = None


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A key for scripts. `id` names it, `digest` is the SHA-256 of the token itself.

    `owner`: the user who has made it, on the page or by another token; it ends with his right. None
    of one that was made on the command line.
    """

    id: str
    name: str
    role: Role
    digest: str
    created_at: str
    created_by: str
    expires_at: str
    owner: str | None = None


class _File(msgspec.Struct):
    schema_version: int
    users: list[User]
    tokens: list[Token]


@dataclass(frozen=True)
class _State:
    users: dict[str, User]
    tokens: dict[str, Token]  # by digest


Now = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


def digest_of(secret: str) -> str:
    """What is kept of a secret with enough random bits of its own: salt would add nothing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Accounts:
    """Readers ask memory; a change is written first. `now` gives the time in UTC."""

    def __init__(self, state_dir: Path, *, now: Now = utc_now) -> None:
        """Reads the file; ConfigError when it cannot be understood. Blocks."""
        self._path = state_dir / FILE
        self.now = now
        self._state = _read(self._path)
        self._lock = asyncio.Lock()

    # --- looking ------------------------------------------------------------------------------
    def users(self) -> tuple[User, ...]:
        return tuple(self._state.users.values())

    def find(self, name: str) -> User | None:
        return self._state.users.get(name)

    def get(self, name: str) -> User:
        """NotFound for a user that does not exist."""
        if (user := self.find(name)) is None:
            raise NotFound(f"there is no user {name[:80]!r}", hint="peersync admin users")
        return user

    def tokens(self) -> tuple[Token, ...]:
        return tuple(self._state.tokens.values())

    def token(self, secret: str) -> Token | None:
        """The token that this is, if it still works."""
        found = self._state.tokens.get(digest_of(secret))
        return found if found and not self.is_over(found.expires_at) else None

    def linked(self, secret: str) -> User | None:
        """Whose one-time link this is, if it still works."""
        digest = digest_of(secret)
        for user in self._state.users.values():
            if user.link and secrets.compare_digest(user.link.digest, digest):
                return None if self.is_over(user.link.expires_at) else user
        return None

    def is_over(self, expires_at: str) -> bool:
        return datetime.fromisoformat(expires_at) <= self.now()

    # --- changing -----------------------------------------------------------------------------
    async def add(self, name: str, role: Role) -> User:
        """A new user without a password. BadRequest for a name that can't be, or is taken."""
        async with self._lock:
            if self.find(name):
                raise BadRequest(f"there is a user {name!r} already", hint="peersync admin users")
            if len(self._state.users) >= MOST:
                raise BadRequest(f"more than {MOST} users are not meant to be")
            user = _checked(User(name=name, role=role, created_at=self._iso()))
            await self._commit(users={**self._state.users, name: user})
        return user

    async def remove(self, name: str) -> tuple[User, list[Token]]:
        """Forgets a user and the tokens that he has made; Locked for the last admin."""
        async with self._lock:
            gone = self.get(name)
            self._refuse_last(gone)
            users = {k: u for k, u in self._state.users.items() if k != name}
            ended = [t for t in self.tokens() if t.owner == name]
            await self._commit(users=users, tokens=self._without(ended))
        return gone, ended

    async def change_role(self, name: str, role: Role) -> tuple[User, list[Token]]:
        """The user, and the tokens that he has made and that end: they might do more than he."""
        async with self._lock:
            user = self.get(name)
            if role != "admin":
                self._refuse_last(user)
            user = msgspec.structs.replace(user, role=role)
            ended = [t for t in self.tokens() if t.owner == name and not may(role, t.role)]
            users = {**self._state.users, name: user}
            await self._commit(users=users, tokens=self._without(ended))
        return user, ended

    def _without(self, ended: list[Token]) -> dict[str, Token]:
        gone = {token.digest for token in ended}
        return {d: t for d, t in self._state.tokens.items() if d not in gone}

    async def set_password(
        self, name: str, phc: str, *, link: str | None = None, before: User | None = None
    ) -> User:
        """Sets the hash; an open link is void then.

        `link`: the secret by which it is set, which must still work; `before`: the user whose
        password it replaces, which must still be that one: NotFound otherwise.
        """
        async with self._lock:
            user = self.get(name)
            if before is not None and user.password != before.password:
                raise NotFound("the password was changed meanwhile")
            if link is not None and self.linked(link) != user:
                raise NotFound("this link was used already, or is too old")
            return await self._replace(msgspec.structs.replace(user, password=phc, link=None))

    async def use_link(self, secret: str) -> User | None:
        """Whose link it was; it works no more."""
        async with self._lock:
            user = self.linked(secret)
            if user is None:
                return None
            return await self._replace(msgspec.structs.replace(user, link=None))

    async def make_link(self, name: str) -> tuple[User, str]:
        """A new link for a user (an earlier one is void): with its secret, told only now."""
        secret = secrets.token_urlsafe(24)
        link = Link(digest_of(secret), (self.now() + LINK_KEEP).isoformat(timespec="seconds"))
        async with self._lock:
            user = msgspec.structs.replace(self.get(name), link=link)
            return await self._replace(user), secret

    async def add_token(
        self, name: str, role: Role, expires_at: datetime, *, by: str, owner: str | None = None
    ) -> tuple[Token, str]:
        """A new token, and its text, which is told only now.

        NotFound where its owner was removed meanwhile, Denied where he may do less by now.
        """
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        token = Token(
            id=secrets.token_hex(4),
            name=name,
            role=role,
            digest=digest_of(secret),
            created_at=self._iso(),
            created_by=by,
            expires_at=expires_at.astimezone(UTC).isoformat(timespec="seconds"),
            owner=owner,
        )
        async with self._lock:
            if owner is not None and not may(self.get(owner).role, role):
                raise Denied(f"{owner} may not make a token with the role {role} any more")
            if len(self._state.tokens) >= MOST:
                raise BadRequest(f"there are {MOST} tokens", hint="revoke those that are not used")
            await self._commit(tokens={**self._state.tokens, token.digest: token})
        return token, secret

    async def revoke(self, token: str) -> Token:
        """Forgets a token by its id, or by its name where only one has it."""
        async with self._lock:
            found = [t for t in self.tokens() if token in (t.id, t.name)]
            if len(found) != 1:
                words = f"{len(found)} tokens are called" if found else "there is no token"
                raise NotFound(f"{words} {token[:80]!r}", hint="peersync token list")
            left = {d: t for d, t in self._state.tokens.items() if t.id != found[0].id}
            await self._commit(tokens=left)
        return found[0]

    def _refuse_last(self, user: User) -> None:
        admins = [u for u in self._state.users.values() if u.role == "admin"]
        if admins == [user]:
            raise Locked(f"{user.name} is the only admin", hint="make another user an admin first")

    def _iso(self) -> str:
        return self.now().isoformat(timespec="seconds")

    async def _replace(self, user: User) -> User:
        await self._commit(users={**self._state.users, user.name: user})
        return user

    async def _commit(
        self, *, users: dict[str, User] | None = None, tokens: dict[str, Token] | None = None
    ) -> None:
        state = _State(
            self._state.users if users is None else users,
            self._state.tokens if tokens is None else tokens,
        )
        file = _File(SCHEMA_VERSION, [*state.users.values()], [*state.tokens.values()])
        data = msgspec.json.format(msgspec.json.encode(file))
        await asyncio.to_thread(write_private, self._path, data)
        self._state = state


def _checked(user: User) -> User:
    try:
        return msgspec.convert(msgspec.to_builtins(user), User)
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"{user.name[:80]!r} cannot be the name of a user",
            hint="1 to 63 of a-z, 0-9, ., _, @ and -, and not begin with . _ @ or -",
        ) from error


def _read(path: Path) -> _State:
    make_private_directory(path.parent)
    data = read_private(path, limit=MAX_BYTES)
    if data is None:
        return _State({}, {})
    try:
        file = msgspec.json.decode(data, type=_File)
        for when in (u.link.expires_at for u in file.users if u.link):
            datetime.fromisoformat(when)
        for token in file.tokens:
            datetime.fromisoformat(token.expires_at)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(
            f"the users of this node, {path}, cannot be read", detail=str(error),
            hint="restore it from a backup, or move it away, then: peersync admin link",
        ) from error  # fmt: skip
    if file.schema_version > SCHEMA_VERSION:
        raise ConfigError(f"{path} was written by a newer peersync", hint="upgrade this node")
    return _State({u.name: u for u in file.users}, {t.digest: t for t in file.tokens})
