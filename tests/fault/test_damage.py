"""P17: a file of the spool that is damaged, cut or gone, on either side, is never applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.rig import Rig, chunk_files, eventually


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [flip, cut, remove])
def test_p17_damage_in_the_spool_of_the_target(rig: Rig, damage: object) -> None:
    with rig.transfer_held() as job:
        rig.target.kill()
        rig.proxy.cut()
        for path in chunk_files(rig.target.spool / "taken"):
            damage(path)  # type: ignore[operator]
    rig.target.start()
    progress = rig.done(job)["progress"]
    assert progress["wire_bytes"] > 0


@pytest.mark.parametrize("damage", [flip, cut, remove])
def test_p17_damage_in_the_spool_of_the_source(rig: Rig, damage: object) -> None:
    with rig.transfer_held(1_500_000) as job:
        given = rig.source.spool / "given"
        eventually("the dump is spooled", lambda: b'"complete"' in journal(given))
        here = {path.name for path in chunk_files(rig.target.spool / "taken")}
        waiting = [path for path in chunk_files(given) if path.name not in here]
        assert waiting
        for path in waiting:
            damage(path)  # type: ignore[operator]
        rig.proxy.cut()
    rig.done(job)


def test_p17_a_spool_of_the_source_that_vanished_is_made_anew(rig: Rig) -> None:
    with rig.transfer_held() as job:
        rig.source.kill()
        rig.proxy.cut()
        for path in sorted((rig.source.spool / "given").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        rig.source.start()
    progress = rig.done(job)["progress"]
    assert progress["resumed"] == 1
    assert progress["saved_bytes"] > 0  # the new dump has the same rows, so the same chunks


def test_a_journal_of_the_source_that_was_cut_short(rig: Rig) -> None:
    with rig.transfer_held() as job:
        eventually(
            "the dump is spooled", lambda: b'"complete"' in journal(rig.source.spool / "given")
        )
        rig.source.kill()
        rig.proxy.cut()
        (path,) = (rig.source.spool / "given").glob("*/journal")
        path.write_bytes(path.read_bytes()[:-40] + b"\x00\x00\n")
        rig.source.start()
    rig.done(job)


def journal(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in root.glob("*/journal"))
