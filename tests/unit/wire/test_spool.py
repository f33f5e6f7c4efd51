"""The spool: what is found there after a crash can be used, and a full disk is said aloud."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from peersync.core.errors import BadRequest, DiskFull
from peersync.wire.messages import Chunk
from peersync.wire.spool import Budget, Spool, free_bytes, sessions

SESSION = "0123456789abcdef" * 2
DATA = b"rows" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


class Line(msgspec.Struct):
    number: int
    text: str = ""


def chunk(digest: str = DIGEST, size: int = len(DATA)) -> Chunk:
    return Chunk(number=0, part=0, index=0, digest=digest, size=size, raw_size=size, codec="none")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool", SESSION)
    made.create()
    return made


def test_a_chunk_is_kept_under_its_digest_for_this_user_only(spool: Spool) -> None:
    assert not spool.has(chunk())
    spool.write(DIGEST, DATA)
    assert spool.has(chunk())
    assert spool.path(DIGEST).read_bytes() == DATA
    assert stat.S_IMODE(spool.path(DIGEST).stat().st_mode) == 0o600
    assert stat.S_IMODE(spool.directory.stat().st_mode) == 0o700
    spool.write(DIGEST, DATA)
    spool.discard(chunk())
    spool.discard(chunk())
    assert not spool.has(chunk())


def test_a_file_of_the_wrong_size_is_not_taken_for_the_chunk(spool: Spool) -> None:
    spool.path(DIGEST).write_bytes(DATA[:-1])
    assert not spool.has(chunk())


WRITES_AND_WAITS = """
import sys, time
from pathlib import Path
from peersync.wire.spool import Spool
with Spool(Path(sys.argv[1]), sys.argv[2]).writing(sys.argv[3]) as file:
    file.write(b"half of it")
    print("written", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_leaves_is_no_chunk_and_does_not_disturb(spool: Spool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITES_AND_WAITS, spool.directory.parent, SESSION, DIGEST],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    left = [path.name for path in spool.directory.iterdir()]
    assert left
    assert DIGEST not in left
    assert not spool.has(chunk(size=len(b"half of it")))
    spool.create()
    assert list(spool.directory.iterdir()) == []
    spool.write(DIGEST, DATA)
    assert spool.has(chunk())
    spool.remove()
    assert not spool.exists()


def test_an_error_while_writing_leaves_nothing(spool: Spool) -> None:
    with pytest.raises(KeyboardInterrupt), spool.writing(DIGEST) as file:
        file.write(DATA)
        raise KeyboardInterrupt
    assert list(spool.directory.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", "a", "..", "../" + "0" * 29, "0" * 31, "0" * 33, "A" * 32, "0" * 31 + "\n",
             "0" * 32 + "\n", "٣" * 32],
)  # fmt: skip
def test_a_session_that_is_no_id_never_becomes_a_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest):
        Spool(tmp_path, name)


@pytest.mark.parametrize(
    "digest", ["", "journal", "../../etc/passwd", "0" * 63, "0" * 65, "F" * 64, "0" * 64 + "\n"]
)
def test_a_digest_that_is_none_never_becomes_a_path(spool: Spool, digest: str) -> None:
    with pytest.raises(BadRequest):
        spool.path(digest)


def test_damage_of_the_right_size_is_found_by_reading(spool: Spool) -> None:
    spool.write(DIGEST, DATA)
    assert spool.proves(chunk())
    spool.path(DIGEST).write_bytes(bytes(len(DATA)))
    assert spool.has(chunk())
    assert not spool.proves(chunk())
    spool.discard(chunk())
    assert not spool.proves(chunk())


def test_all_spools_together_keep_to_their_budget(tmp_path: Path) -> None:
    budget = Budget(tmp_path, 3 * len(DATA))
    one, other = Spool(tmp_path, "1" * 32, budget), Spool(tmp_path, "2" * 32, budget)
    for spool in (one, other):
        spool.create()
        spool.write(DIGEST, DATA)
    more = os.urandom(2 * len(DATA))
    digest = hashlib.sha256(more).hexdigest()
    with pytest.raises(DiskFull, match="spool_max_gib"):
        other.write(digest, more)
    one.remove()
    other.write(digest, more)


def test_other_names_are_not_taken_for_sessions(tmp_path: Path) -> None:
    assert sessions(tmp_path / "missing") == []
    for name in (SESSION, "lost+found", "0" * 33, SESSION + ".old"):
        (tmp_path / name).mkdir()
    assert sessions(tmp_path) == [SESSION]


# --- the journal ------------------------------------------------------------------------------
def test_a_journal_gives_back_its_lines_in_order(spool: Spool) -> None:
    assert list(spool.journal()) == []
    for number in range(3):
        spool.append(Line(number, "a\nb"))
    read = [msgspec.json.decode(line, type=Line) for line in spool.journal()]
    assert read == [Line(n, "a\nb") for n in range(3)]
    spool.restart_journal()
    spool.restart_journal()
    assert list(spool.journal()) == []


def test_wherever_a_crash_cuts_the_journal_its_whole_lines_can_be_read(spool: Spool) -> None:
    for number in range(4):
        spool.append(Line(number))
    journal = spool.directory / "journal"
    whole = journal.read_bytes()
    for end in range(len(whole) + 1):
        journal.write_bytes(whole[:end])
        numbers = [msgspec.json.decode(line, type=Line).number for line in spool.journal()]
        assert numbers == list(range(whole[:end].count(b"\n")))


# --- a full disk ------------------------------------------------------------------------------
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """1 MiB of tmpfs."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_named_and_what_has_arrived_stays(small_disk: Path) -> None:
    spool = Spool(small_disk, SESSION)
    spool.create()
    spool.write(DIGEST, DATA)
    big = os.urandom(2 << 20)
    digest = hashlib.sha256(big).hexdigest()
    with pytest.raises(DiskFull, match=SESSION) as caught:
        spool.write(digest, big)
    assert "node.spool_dir" in str(caught.value.hint)
    assert [path.name for path in spool.directory.iterdir()] == [DIGEST]
    assert spool.has(chunk())
    assert free_bytes(small_disk) > 0


def test_a_journal_on_a_full_disk_keeps_its_whole_lines(small_disk: Path) -> None:
    spool = Spool(small_disk, SESSION)
    spool.create()
    written = 0
    with pytest.raises(DiskFull):
        for number in range(100):
            spool.append(Line(number, "x" * 50_000))
            written += 1
    assert 0 < written < 100
    read = [msgspec.json.decode(line, type=Line).number for line in spool.journal()]
    assert read == list(range(written))


def test_free_space_is_told_of_a_directory_that_is_yet_to_be(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(free_bytes(tmp_path), rel=0.1)
