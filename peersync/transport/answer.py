"""One HTTP answer, read from bytes as they come in.

For the two small exchanges that a reverse line has before aiohttp gets it: the request that
turns it round, and the ping that proves that it still works. aiohttp's own parser belongs
to its connections, which would keep, or lose, the bytes that follow the answer.
"""

from __future__ import annotations

import re

from peersync.core.errors import ProtocolError

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?")


class Answer:
    """Give it to `feed` until that says True; then `status`, `body` and `rest` are there.

    `rest` is what came behind the answer: it belongs to whoever is next on the connection.
    """

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.rest = b""
        self._data = b""
        self._length: int | None = None

    def feed(self, data: bytes) -> bool:
        """Whether the answer is complete. ProtocolError when it is none."""
        self._data += data
        if self._length is None and not self._read_head():
            return False
        assert self._length is not None
        if len(self._data) < self._length:
            return False
        self.body, self.rest = self._data[: self._length], self._data[self._length :]
        return True

    def _read_head(self) -> bool:
        head, end, after = self._data.partition(b"\r\n\r\n")
        if len(head) > MAX_HEAD_BYTES:
            raise ProtocolError("the head of an answer is too large")
        if not end:
            return False
        first, *lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(first)
        if status is None:
            raise ProtocolError("this is not an answer in HTTP")
        self.status = int(status[1])
        self._length = 0 if self.status < 200 else _body_length(lines)
        self._data = after
        return True


def _body_length(lines: list[bytes]) -> int:
    for line in lines:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            text = value.strip()
            if not re.fullmatch(rb"[0-9]{1,9}", text) or int(text) > MAX_BODY_BYTES:
                raise ProtocolError("the length of an answer makes no sense")
            return int(text)
    raise ProtocolError("an answer does not say how long it is")
