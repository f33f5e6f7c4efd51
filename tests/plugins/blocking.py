"""A blocking call on the event loop, made by peersync's own code, fails the test.

blockbuster puts a check into the standard library's blocking functions; a call counts when
a loop is running in this thread and a frame of `peersync` is on the stack. The error is
raised where the call is made, and remembered, because the code under test may swallow it.
`@pytest.mark.may_block("why")` switches it off for one test.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster
from blockbuster.blockbuster import BlockBuster, BlockingError

import peersync

# Short reads and locks of libraries, once per connection or per logged line: (file, functions).
ALLOWED = (
    ("logging/__init__.py", {"emit", "handle", "flush"}),
    ("linecache.py", {"updatecache", "checkcache", "getlines"}),
    ("traceback.py", {"format_exception", "print_exception", "extract_stack"}),
    ("warnings.py", {"showwarning", "_showwarnmsg", "_formatwarnmsg"}),
    ("<frozen importlib._bootstrap>", {"_find_and_load"}),
    ("importlib/metadata/__init__.py", {"version", "distribution", "entry_points"}),
    ("asyncio/unix_events.py", {"create_unix_server", "_make_subprocess_transport"}),
    ("asyncio/base_events.py", {"subprocess_exec", "run_in_executor", "getaddrinfo"}),
    ("asyncpg/connect_utils.py", {"_parse_connect_arguments"}),
    ("prometheus_client/process_collector.py", {"collect"}),
    ("_pytest/assertion/rewrite.py", {"exec_module"}),
)


class _Remembered(BlockingError):
    seen: list[str] = []  # noqa: RUF012  # one list on purpose: emptied for each test

    def __init__(self, func: str) -> None:
        super().__init__(func)
        frames = [f for f in traceback.extract_stack() if "/peersync/" in f.filename]
        at = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
        self.seen.append(f"{func} at {at}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "may_block(reason): blocking calls on the loop are allowed")
    blockbuster.BlockingError = _Remembered  # type: ignore[misc]


@pytest.fixture(scope="session")
def _detector() -> BlockBuster:
    detector = BlockBuster(peersync)
    for function in detector.functions.values():
        for filename, names in ALLOWED:
            function.can_block_in(filename, names)
    return detector


@pytest.fixture(autouse=True)
def no_blocking_call(request: pytest.FixtureRequest, _detector: BlockBuster) -> Iterator[None]:
    if request.node.get_closest_marker("may_block"):
        yield
        return
    _Remembered.seen.clear()
    _detector.activate()
    try:
        yield
    finally:
        _detector.deactivate()
    if _Remembered.seen:
        calls = "; ".join(sorted(set(_Remembered.seen)))
        pytest.fail(f"blocking calls on the event loop: {calls}", pytrace=False)
