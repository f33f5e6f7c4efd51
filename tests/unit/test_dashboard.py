"""The files of the page: small, and nothing in them comes from elsewhere or becomes markup."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import peersync.dashboard

FILES = [
    p
    for p in sorted(Path(peersync.dashboard.__path__[0]).rglob("*"))
    if p.suffix in (".html", ".css", ".js")
]
MAX_BYTES = 160_100  # of all pages together; the first view needs 11 files of them
MAX_SENT_BYTES = 67_750  # the same as it is sent


def test_the_whole_page_is_small() -> None:
    assert sum(file.stat().st_size for file in FILES) <= MAX_BYTES
    assert sum(len(gzip.compress(file.read_bytes(), 9)) for file in FILES) <= MAX_SENT_BYTES


def test_no_file_makes_markup_of_text_or_asks_another_server() -> None:
    for file in FILES:
        text = file.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}, file.name
