"""A disk that is full: what is missing is said, the target is untouched, and it goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fault.rig import Rig, chunk_files, eventually
from tests.fault.test_network import with_settings

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


@contextmanager
def small_disk(place: Path, mib: int) -> Iterator[None]:
    """A file system of its own at `place`."""
    place.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=700", "tmpfs", place],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@needs_root
def test_the_disk_of_the_targets_spool_is_full(rig: Rig) -> None:
    taken = rig.target.spool / "taken"
    with small_disk(taken, 64):
        with rig.transfer_held() as job:
            filler = taken / "filler"
            free = os.statvfs(taken).f_bavail * os.statvfs(taken).f_frsize
            filler.write_bytes(bytes(free - 300_000))
            here = sum(path.stat().st_size for path in chunk_files(taken))
        view = rig.failed(job)
        error = view["error"]
        assert error["code"] == "disk-full"
        assert str(taken) in error["message"]
        assert "MiB are free" in error["message"]
        assert "Free some space" in error["hint"]
        assert rig.target.run("jobs", "watch", job[:8], check=False).code == 1
        filler.unlink()
        assert rig.target.run("jobs", "resume", job[:8], "--json").json["saved_bytes"] >= here
        rig.done(job)


@needs_root
def test_a_disk_that_is_too_small_is_refused_before_anything_begins(rig: Rig) -> None:
    taken = rig.target.spool / "taken"
    with small_disk(taken, 2):
        refused = rig.target.pull("server-a", check=False)
        assert refused.code == 1
        assert "MiB are free" in refused.err
        assert "node.spool_dir" in refused.err
        assert not list(taken.iterdir())


@needs_root
def test_the_disk_of_the_sources_spool_is_full(rig: Rig) -> None:
    given = rig.source.spool / "given"
    with small_disk(given, 2):
        job = rig.begin()
        error = rig.failed(job)["error"]
        assert error["code"] == "peer-failed"
        assert str(given) in error["detail"]
        assert "Free some space" in error["detail"]
        eventually("what is of no use is removed", lambda: not chunk_files(given))
        subprocess.run(["mount", "-o", "remount,size=64m", given], check=True)
        assert rig.target.run("jobs", "resume", job[:8], "--json").json["result"] == "done"
        rig.done(job)


def test_spool_max_gib_is_honoured(rig: Rig) -> None:
    with with_settings(rig, full_sync_spool_max_gib="0.002"):
        job = rig.begin()
        error = rig.failed(job)["error"]
        assert error["code"] == "disk-full"
        assert "spool_max_gib" in error["message"]
        used = sum(path.stat().st_size for path in chunk_files(rig.target.spool / "taken"))
        assert 0 < used <= 0.002 * (1 << 30)
    rig.target.stop()
    rig.target.start()
    assert rig.target.run("jobs", "resume", job[:8], "--json").json["saved_bytes"] == used
    rig.done(job)


@needs_root
def test_the_data_disk_of_the_target_is_full(rig: Rig, tmp_path: Path) -> None:
    database = rig.target.database
    server = database.cluster.data.stat()
    place = database.cluster.root / "tiny"
    with small_disk(place, 4):
        os.chown(place, server.st_uid, server.st_gid)
        database.psql(f"CREATE TABLESPACE tiny LOCATION '{place}'")
        try:
            database.psql(f"ALTER DATABASE {database.name} SET default_tablespace = tiny")
            view = rig.failed(rig.begin())
        finally:
            database.psql(f"ALTER DATABASE {database.name} RESET default_tablespace")
            rig.target.close()
            database.psql("DROP SCHEMA peersync CASCADE")
            database.psql("DROP TABLESPACE tiny")
        assert view["error"]["code"] == "disk-full"
        assert "No space left" in view["error"]["detail"]
        assert "make room" in view["error"]["hint"]
