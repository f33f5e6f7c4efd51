"""Passwords: Argon2id in a thread, a few at a time, and as slow for names that do not exist.

Owns the parameters and the rule for new passwords. A hash is a PHC string, so the parameters
can grow later without making the old ones void.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from peersync.agent.workers import Workers
from peersync.core.errors import BadRequest, TooManyTries

MEMORY_KIB: Final = 64 * 1024
ITERATIONS: Final = 2
LANES: Final = 1
AT_ONCE: Final = 2  # each takes MEMORY_KIB for a moment
MOST_WAITING: Final = 20  # a second or two; who comes later is told to come again
RETRY_S: Final = 3
LEAST_CHARS: Final = 10
MOST_CHARS: Final = 1024

# What is compared when there is no such user: the same parameters, and a tag that nothing gives.
NOBODY: Final = (
    f"$argon2id$v=19$m={MEMORY_KIB},t={ITERATIONS},p={LANES}"
    "$cGVlcnN5bmMgbm9ib2R5IQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)


class Passwords:
    """Hashes and checks, never more than two at the same time."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def fits(self, password: str, known: str | None) -> bool:
        """Whether it is the password of this hash; None, of nobody, takes as long.

        TooManyTries where many wait already: strangers must not make a queue that never ends.
        """
        async with self._soon():
            return await self._workers.run(_fits, password, known or NOBODY)

    async def make(self, password: str) -> str:
        """The PHC string to keep. Who sets a password is known, and waits for the turn."""
        async with self._turn:
            return await self._workers.run(make_hash, password)

    @asynccontextmanager
    async def _soon(self) -> AsyncIterator[None]:
        if self._waiting >= MOST_WAITING:
            raise TooManyTries(
                "too many people log in at this moment",
                hint=f"try again in {RETRY_S} s",
                retry_after_s=RETRY_S,
            )
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()


def make_hash(password: str) -> str:
    """Blocks for about a tenth of a second."""
    salt = secrets.token_bytes(16)
    kdf = Argon2id(salt=salt, length=32, iterations=ITERATIONS, lanes=LANES, memory_cost=MEMORY_KIB)
    return kdf.derive_phc_encoded(password.encode("utf-8", "surrogatepass"))


def check_new(password: str, user: str) -> None:
    """BadRequest for one that is too easy, or longer than anybody types."""
    if not LEAST_CHARS <= len(password) <= MOST_CHARS:
        raise BadRequest(
            f"a password has {LEAST_CHARS} to {MOST_CHARS} characters",
            hint="four words that do not belong together are long enough, and can be remembered",
        )
    if password.casefold() == user.casefold() or len(set(password)) < 4:
        raise BadRequest("this password is too easy to guess", hint="take some words instead")


def _fits(password: str, known: str) -> bool:
    try:
        Argon2id.verify_phc_encoded(password.encode("utf-8", "surrogatepass"), known)
    except InvalidKey:
        return False
    return True
