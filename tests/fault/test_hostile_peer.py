"""A peer that lies is refused: bounded memory, the target untouched, the agent alive."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
import pytest_asyncio

from peersync.wire.messages import Chunk, Part
from tests.fault.hostile import Liar, Lie, dump_of, lying
from tests.fault.rig import OLD, Rig, ask, eventually

MAX_RSS_KIB = 300_000


@pytest_asyncio.fixture
async def liar(rig: Rig, tmp_path: Path) -> AsyncIterator[Liar]:
    """A peer that the target has just been paired with."""
    async with lying(tmp_path) as liar:
        invite, _ = await liar.node.desk.invite()
        await asyncio.to_thread(rig.target.run, "peer", "join", invite.line())
        yield liar


async def pull(rig: Rig) -> dict[str, object]:
    """A sync from the liar, to its end."""

    def work() -> dict[str, object]:
        request = {"action": "pull", "peer": "server-x", "database": "shop"}
        job = ask(rig.target, "POST", "/api/admin/sync/full-sync", request)["job"]
        return rig.end(job)

    return await asyncio.to_thread(work)


async def assert_refused(rig: Rig, words: str) -> None:
    """Told why in these words; nothing was changed, nothing is left, nothing grew."""
    view = await pull(rig)
    assert view["state"] == "failed", view
    assert re.search(words, str(view["error"])), view["error"]
    await asyncio.to_thread(assert_untouched, rig)


def assert_untouched(rig: Rig) -> None:
    assert rig.state() == OLD
    assert rig.target.process is not None
    assert rig.target.process.poll() is None
    status = Path(f"/proc/{rig.target.process.pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    assert int(peak[1]) < MAX_RSS_KIB
    eventually("no stage is left", lambda: not [x for x in rig.left() if x.startswith("stage_")])


@pytest.fixture
def notes(rig: Rig) -> bytes:
    """A true dump of the source's table of 100 rows."""
    return dump_of(rig.source.database, "notes")


async def test_the_same_listener_telling_the_truth_is_believed(
    rig: Rig, liar: Liar, notes: bytes
) -> None:
    liar.lie.add_part(notes, pieces=3)
    assert (await pull(rig))["state"] == "done"
    assert rig.state() == "500:0|100:100"


def wrong_digest(lie: Lie, text: bytes) -> None:
    lie.add_part(text)
    lie.digest = "0" * 64


def bomb(lie: Lie, text: bytes) -> None:
    lie.parts.append(Part(id=0, kind="data", done=True, chunks=1, raw_bytes=len(text)))
    lie.add_chunk(0, 0, bytes(1 << 30), raw_size=len(text))


def longer_than_said(lie: Lie, text: bytes) -> None:
    lie.parts.append(Part(id=0, kind="data", done=True, chunks=1, raw_bytes=len(text) - 1))
    lie.add_chunk(0, 0, text, raw_size=len(text) - 1)


def shorter_than_said(lie: Lie, text: bytes) -> None:
    lie.parts.append(Part(id=0, kind="data", done=True, chunks=1, raw_bytes=len(text) + 1))
    lie.add_chunk(0, 0, text, raw_size=len(text) + 1)


def cut_short(lie: Lie, text: bytes) -> None:
    lie.add_part(text[: len(text) // 2])


def chunk_twice(lie: Lie, text: bytes) -> None:
    lie.add_part(text, pieces=2)
    lie.chunks[1] = lie.chunks[0]


def unknown_part(lie: Lie, text: bytes) -> None:
    lie.add_part(text)
    lie.add_chunk(7, 0, text)


def part_without_its_chunks(lie: Lie, text: bytes) -> None:
    lie.add_part(text)
    lie.parts.append(Part(id=1, kind="data", done=True, chunks=3, raw_bytes=10))


def part_twice(lie: Lie, text: bytes) -> None:
    lie.add_part(text)
    lie.parts.append(lie.parts[0])


def not_zstd(lie: Lie, text: bytes) -> None:
    lie.add_part(text)
    junk = b"\x28\xb5\x2f\xfd" + bytes(200)
    digest = hashlib.sha256(junk).hexdigest()
    lie.files = {digest: junk}
    lie.chunks[0] = Chunk(
        number=0, part=0, index=0, digest=digest, size=len(junk), raw_size=len(text), codec="zstd"
    )


def other_bytes(lie: Lie, text: bytes) -> None:
    lie.add_part(text)
    lie.files = {digest: b"x" * len(data) for digest, data in lie.files.items()}


def definitions(lie: Lie, text: bytes) -> None:
    lie.add_part(b"CREATE TABLE evil (id int);\n", kind="pre-data")
    lie.add_part(text)


def statement(lie: Lie, text: bytes) -> None:
    lie.add_part(text.replace(b"COPY public.notes", b"DROP TABLE items;\n\nCOPY public.notes", 1))


def command_for_psql(lie: Lie, text: bytes) -> None:
    lie.add_part(text.replace(b"COPY public.notes", b"\\! touch /tmp/evil\nCOPY public.notes", 1))


def rows_twice(lie: Lie, text: bytes) -> None:
    begin, end = text.index(b"COPY public.notes"), text.index(b"\\.\n") + 3
    lie.add_part(text[:end] + b"\n\n" + text[begin:end] + text[end:])


def of_another_node(lie: Lie, text: bytes) -> None:
    lie.add_part(text)
    lie.baseline_of = "f" * 64


def endless_small(lie: Lie, text: bytes) -> None:
    lie.add_part(text)
    one = lie.chunks[0]

    def more(after: int) -> Iterable[Chunk]:
        for n in range(after, after + 1000):
            yield Chunk(
                number=n, part=0, index=n, digest=one.digest, size=one.size, raw_size=10,
                codec="zstd",
            )  # fmt: skip

    lie.endless = more
    lie.parts[0] = Part(id=0, kind="data")


def endless_large(lie: Lie, text: bytes) -> None:
    endless_small(lie, text)

    def more(after: int) -> Iterable[Chunk]:
        for n in range(after, after + 1000):
            yield Chunk(
                number=n, part=0, index=n, digest=f"{n:064x}", size=8 << 20, raw_size=8 << 20,
                codec="zstd",
            )  # fmt: skip

    lie.endless = more


def no_json(lie: Lie, _text: bytes) -> None:
    lie.raw_answer = b"[" * 100_000


def sizes_beyond_bounds(lie: Lie, text: bytes) -> None:
    lie.add_part(text)
    lie.chunks[0] = Chunk(
        number=0, part=0, index=0, digest=lie.chunks[0].digest, size=1, raw_size=1 << 40,
        codec="zstd",
    )  # fmt: skip


LIES: list[tuple[Callable[[Lie, bytes], None], str]] = [
    (wrong_digest, "does not have the digest"),
    (bomb, "unpacks to more"),
    (longer_than_said, "unpacks to more"),
    (shorter_than_said, "unpacks to"),
    (cut_short, "ends inside|last line"),
    (chunk_twice, "out of place"),
    (unknown_part, "out of place"),
    (part_without_its_chunks, "does not have what it says"),
    (part_twice, "counted twice"),
    (not_zstd, "not what the peer announced"),
    (other_bytes, "SHA-256"),
    (definitions, "nobody asked for"),
    (statement, "refused-input"),
    (command_for_psql, "refused-input"),
    (rows_twice, "twice"),
    (of_another_node, "of which node"),
    (endless_small, "too many and too small"),
    (endless_large, "larger than the plan"),
    (no_json, "not a valid ManifestPage"),
    (sizes_beyond_bounds, "not a valid ManifestPage"),
]


async def test_p17_p18_every_lie_is_refused(rig: Rig, liar: Liar, notes: bytes) -> None:
    for tell, words in LIES:
        liar.lie = Lie(liar.node.identity.node_id)
        tell(liar.lie, notes)
        try:
            await assert_refused(rig, words)
        except AssertionError as exc:
            raise AssertionError(tell.__name__) from exc


async def test_rows_of_a_table_outside_the_plan_are_left_alone(
    rig: Rig, liar: Liar, notes: bytes
) -> None:
    liar.lie.add_part(notes)
    liar.lie.add_part(notes.replace(b"COPY public.notes", b"COPY public.items", 1))
    await pull(rig)
    assert rig.state().split("|")[0] == OLD.split("|")[0]


async def test_rows_for_a_column_that_is_not_there_end_their_table_only(
    rig: Rig, liar: Liar, notes: bytes
) -> None:
    liar.lie.add_part(notes.replace(b"(id, v)", b"(id, evil)", 1))
    view = await pull(rig)
    assert view["state"] in ("partly", "failed")
    assert rig.state() == OLD
