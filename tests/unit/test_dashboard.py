"""The files of the page: small, and nothing in them comes from elsewhere or becomes markup."""

from __future__ import annotations

import re
from pathlib import Path

import peersync.dashboard

FILES = [
    p
    for p in sorted(Path(peersync.dashboard.__path__[0]).rglob("*"))
    if p.suffix in (".html", ".css", ".js", ".svg")
]
MAX_BYTES = 100_000


def test_the_whole_page_is_small_and_asks_nobody_else() -> None:
    assert sum(file.stat().st_size for file in FILES) <= MAX_BYTES
    for file in FILES:
        text = file.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}, file.name
