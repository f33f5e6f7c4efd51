"""Resolves a database's address once, through libpq, into explicit values.

libpq's whole convention holds (keywords and URIs, PG* variables, service file, .pgpass),
because libpq itself does it: a connection is started with a value that libpq refuses after
it has resolved everything and before it touches the network. asyncpg, psycopg and the client
programs then get the same explicit values; asyncpg's own reading differs (it ignores
PGSERVICE and refuses keyword strings). Owns the ways a password reaches each of them, and
that it is never in an argument list, an environment, a log or a `repr`.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from psycopg import pq
from psycopg.conninfo import make_conninfo

from peersync.config.secret import MASK, Secret, mask_conninfo
from peersync.core.errors import ConfigError

_SENTINEL = "peersync-resolves-only"  # no valid channel_binding: checked after the passwords
_REFUSAL = "channel_binding"
_PROGRAM_ENV = {  # what a client program gets, beside host, port, user, dbname and passfile
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "options": "PGOPTIONS",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "hostaddr": "PGHOSTADDR",
    "gssencmode": "PGGSSENCMODE",
    "krbsrvname": "PGKRBSRVNAME",
}
# Demands that asyncpg cannot keep: ignoring them would be less safe than what was asked for.
_UNSUPPORTED = ("require_auth", "requirepeer", "sslcrldir", "sslpassword")


@dataclass(frozen=True)
class Resolved:
    """Where a database is and how to log in: explicit values, nothing left to look up.

    `parameters` has the other libpq settings that were given (sslmode, options, …).
    With several hosts, a password file of libpq's kind is looked into when connecting
    (`passfile`), for each host may have a line of its own.
    """

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    user: str
    dbname: str
    password: Secret | None = field(default=None)
    passfile: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.hosts[0]

    @property
    def port(self) -> int:
        return self.ports[0]

    def display(self) -> str:
        """ "user@host:port/dbname", for people."""
        places = ",".join(
            f"{host}:{port}" for host, port in zip(self.hosts, self.ports, strict=True)
        )
        return f"{self.user}@{places}/{self.dbname}"

    def asyncpg_kwargs(self) -> dict[str, Any]:
        """The arguments of `asyncpg.connect` and `asyncpg.create_pool`."""
        ours = self.parameters
        tls = {
            key: ours[key]
            for key in ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslnegotiation")
            if ours.get(key)
        }
        kwargs: dict[str, Any] = {
            "host": ours["hostaddr"].split(",") if "hostaddr" in ours else list(self.hosts),
            "port": list(self.ports),
            "user": self.user,
            "database": self.dbname,
            "password": self.password.reveal() if self.password else None,
            "passfile": self.passfile if not self.password else None,
            "target_session_attrs": ours.get("target_session_attrs", "any"),
            "server_settings": {"options": ours["options"]} if ours.get("options") else {},
        }
        if ours.get("sslrootcert") == "system":  # a libpq name that asyncpg takes for a file
            kwargs["ssl"] = ssl.create_default_context()
        else:
            kwargs["dsn"] = "postgresql:///?" + urlencode(tls)
        timeout_s = int(ours.get("connect_timeout") or 0)
        return {**kwargs, "timeout": timeout_s} if timeout_s > 0 else kwargs

    def psycopg_conninfo(self, *, application_name: str = "peersync") -> str:
        """The argument of `psycopg.connect`; holds the password, so never show it."""
        return make_conninfo(
            "",
            host=",".join(self.hosts),
            port=",".join(map(str, self.ports)),
            user=self.user,
            dbname=self.dbname,
            password=self.password.reveal() if self.password else None,
            passfile=self.passfile,
            application_name=application_name,
            **self.parameters,
        )

    @contextlib.contextmanager
    def child_env(
        self, *, application_name: str = "peersync", base: Mapping[str, str] | None = None
    ) -> Iterator[dict[str, str]]:
        """The environment of pg_dump and psql; the password is in a private file of its own.

        `base` defaults to this process's environment, from which every PG* variable is
        removed: what was resolved is not resolved a second time.
        """
        env = {
            name: value
            for name, value in (os.environ if base is None else base).items()
            if not name.startswith("PG")
        }
        env |= {
            "PGHOST": ",".join(self.hosts),
            "PGPORT": ",".join(map(str, self.ports)),
            "PGUSER": self.user,
            "PGDATABASE": self.dbname,
            "PGAPPNAME": application_name,
            "PGCLIENTENCODING": "UTF8",
        }
        for keyword, variable in _PROGRAM_ENV.items():
            if value := self.parameters.get(keyword):
                env[variable] = value
        with contextlib.ExitStack() as stack:
            if self.password:
                env["PGPASSFILE"] = stack.enter_context(_private_passfile(self.password))
            elif self.passfile:
                env["PGPASSFILE"] = self.passfile
            yield env


@contextlib.contextmanager
def _private_passfile(password: Secret) -> Iterator[str]:
    """A file that only this user reads, gone when the program is."""
    descriptor, name = tempfile.mkstemp(prefix="peersync-pgpass-")  # 0600 by mkstemp's contract
    try:
        escaped = password.reveal().replace("\\", "\\\\").replace(":", "\\:")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"*:*:*:*:{escaped}\n")
        yield name
    finally:
        Path(name).unlink(missing_ok=True)


def resolve(conninfo: str, *, password: Secret | None = None) -> Resolved:
    """Resolve a libpq string or URI; `password` (from a password_file) wins over libpq's.

    Raises ConfigError, whose text never has a password. Nothing is connected to.
    """
    given = _parse(conninfo)
    with contextlib.closing(_Started(given)) as started:
        values = started.values
        for keyword in _UNSUPPORTED:
            if values.get(keyword):
                raise ConfigError(f"the connection setting {keyword} is not supported")
        if given.get(_REFUSAL, os.environ.get("PGCHANNELBINDING")) == "require":
            raise ConfigError(
                f"{_REFUSAL}=require is not supported", hint="use sslmode=verify-full"
            )
        hosts = tuple(host or started.default_host for host in values.get("host", "").split(","))
        explicit = password or (Secret(values["password"]) if values.get("password") else None)
        if not explicit and len(hosts) == 1 and started.password:
            explicit = Secret(started.password)  # libpq found it in the password file
        passfile = None if explicit or len(hosts) == 1 else values.get("passfile")
        return Resolved(
            hosts=hosts,
            ports=_ports(values.get("port", "5432"), len(hosts)),
            user=values["user"],
            dbname=values["dbname"],
            password=explicit,
            passfile=passfile,
            parameters={k: values[k] for k in _PROGRAM_ENV if values.get(k)},
        )


class _Started:
    """A connection that libpq has prepared and refused: every value resolved, nothing sent."""

    def __init__(self, given: Mapping[str, str]) -> None:
        refused = make_conninfo("", **{**given, _REFUSAL: _SENTINEL})
        self._pgconn = pq.PGconn.connect_start(refused.encode())
        message = self._pgconn.get_error_message("utf-8")
        if self._pgconn.status != pq.ConnStatus.BAD or _SENTINEL not in message:
            self.close()
            raise _invalid(message)
        self.values = {
            option.keyword.decode(): option.val.decode()
            for option in self._pgconn.info
            if option.val is not None
        }
        self.values.pop(_REFUSAL)
        self.password = self._pgconn.password.decode()
        self.default_host = self._pgconn.host.decode()

    def close(self) -> None:
        self._pgconn.finish()


def _parse(conninfo: str) -> dict[str, str]:
    try:
        options = pq.Conninfo.parse(conninfo.encode())
    except Exception as error:  # psycopg raises OperationalError, or UnicodeError for a surrogate
        raise _invalid(str(error)) from None  # libpq quotes the string: the cause may hold it
    return {o.keyword.decode(): o.val.decode() for o in options if o.val is not None}


def _invalid(message: str) -> ConfigError:
    """libpq's words without what it quotes, for that may be a piece of a password."""
    kept = re.match(r'(definition of service|service file) "[^"]*" ', message)
    words = mask_conninfo(message) if kept else re.sub(r'".*"', f'"{MASK}"', message)
    return ConfigError(
        "the conninfo is not valid",
        detail=words.strip(),
        hint="examples: postgresql://user@host:5432/db, host=/run/postgresql dbname=db, service=s",
    )


def _ports(text: str, hosts: int) -> tuple[int, ...]:
    ports = [port or "5432" for port in text.split(",")]
    if len(ports) == 1:
        ports *= hosts
    try:
        return tuple(map(int, ports))
    except ValueError:  # not shown: of "postgresql://u:secret" libpq takes the secret for a port
        raise ConfigError("the port in the conninfo is not a number") from None


def passfile_warning(path: str | Path | None) -> str | None:
    """Why libpq ignores this password file, or None."""
    if path is None or not (found := Path(path)).is_file():
        return None
    mode = stat.S_IMODE(found.stat().st_mode)
    if mode & 0o077:
        return f"{found} is ignored: others can read it (mode {mode:o}); chmod 600 {found}"
    return None


def _at_once(path: str, flags: int) -> int:
    """Without waiting: nobody may ever write into a named pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _mode_of_file(path: Path, number: int) -> int:
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path} is no ordinary file")
    return stat.S_IMODE(mode)


def read_password_file(name: str, environ: Mapping[str, str]) -> Secret:
    """The first line of a password file; a bare name is one of $CREDENTIALS_DIRECTORY.

    Others must not be able to read it: ConfigError. systemd's credentials are exempt, for
    their directory is private to the service.
    """
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    path = Path(name).expanduser()
    is_credential = "/" not in name and credentials is not None
    if is_credential and credentials is not None:
        path = Path(credentials) / name
    try:
        with open(path, encoding="utf-8", opener=_at_once) as file:
            mode = _mode_of_file(path, file.fileno())
            if mode & 0o077 and not is_credential:
                raise ConfigError(
                    f"the password file {path} can be read by others (mode {mode:o})",
                    hint=f"chmod 600 {path}",
                )
            password = file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the password file {path} cannot be read",
            detail=str(error),
            hint="give an absolute path, or the name of a credential of the service",
        ) from error
    if not password:
        raise ConfigError(f"the password file {path} is empty")
    return Secret(password)
