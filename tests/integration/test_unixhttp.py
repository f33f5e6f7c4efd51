"""How commands read the agent's answers: whole, or as an error; and without a library's weight."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from peersync.core.errors import AgentNotRunning, BadRequest
from peersync.transport.local import AgentClient
from peersync.wire.messages import Ok

_OK = msgspec.json.encode(Ok())
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def _answering(path: Path, answer: bytes) -> AsyncIterator[AgentClient]:
    """Whatever is asked, these bytes come, one by one, and then the connection ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for n in range(len(answer)):
            writer.write(answer[n : n + 1])
            await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, path), AgentClient(path) as agent:
        yield agent


@pytest.mark.parametrize(
    "answer",
    [
        _HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(_OK), _OK),
        _CHUNKED + b"1\r\n%s\r\n%x;x=y\r\n%s\r\n0\r\n\r\n" % (_OK[:1], len(_OK) - 1, _OK[1:]),
    ],
)
async def test_an_answer_is_read_however_it_is_cut(tmp_path: Path, answer: bytes) -> None:
    async with _answering(tmp_path / "s", answer) as agent:
        assert await agent.get("/x", Ok) == Ok()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        _HEAD[:30],
        b"nonsense\r\n\r\n",
        _HEAD + b"\r\n" + _OK,  # nobody can tell where it ends
        _HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(_OK) + 1, _OK),
        _CHUNKED + b"%x\r\n%s\r\n" % (len(_OK), _OK),
        _CHUNKED + b"zz\r\n",
    ],
)
async def test_half_an_answer_is_never_taken_for_one(tmp_path: Path, answer: bytes) -> None:
    async with _answering(tmp_path / "s", answer) as agent:
        with pytest.raises(AgentNotRunning, match="closed the connection"):
            await agent.get("/x", Ok)


async def test_an_answer_to_half_a_question_is_taken(tmp_path: Path) -> None:
    answered = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(_OK), _OK))
        await answered.wait()  # and reads no more
        writer.transport.abort()

    path, more_than_the_socket_holds = tmp_path / "s", "x" * 8_000_000
    async with await asyncio.start_unix_server(refuse, path), AgentClient(path) as agent:
        async with asyncio.timeout(20):
            assert await agent.post("/x", more_than_the_socket_holds, Ok) == Ok()
        answered.set()


@pytest.mark.parametrize("typed", ["\udcff", "a\nX-More: b"])
async def test_what_no_header_or_query_can_hold_is_refused(tmp_path: Path, typed: str) -> None:
    async with AgentClient(tmp_path / "s") as agent:
        with pytest.raises(BadRequest, match="what was typed"):
            await agent.post("/x", {}, Ok, headers={"Idempotency-Key": typed})
        with pytest.raises((BadRequest, AgentNotRunning)):
            await agent.get("/x", Ok, params={"peer": typed})


def test_a_command_does_not_wait_for_an_http_library_to_load() -> None:
    code = (
        "import sys, peersync.cli.main, peersync.transport.local; print('aiohttp' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
