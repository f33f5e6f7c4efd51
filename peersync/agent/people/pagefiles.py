"""The files of the page, as they are in the package `peersync.dashboard`.

Owns which names there are, and how a browser keeps them: each is asked for again and answered
304 while its content is the same, so an upgrade shows at the next look. A name has letters,
digits, - and _ only, so none leads out of the package.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from aiohttp import web

from peersync.agent.workers import Workers
from peersync.core.errors import NotFound

ROOT: Final = Path(str(files("peersync.dashboard")))
_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
}
_NAME: Final = r"[a-z0-9_-]+\.(?:html|css|js)"
_MOST_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class _Asset:
    stamp: tuple[int, int]  # of the file: when it was written, and its size
    plain: bytes
    packed: bytes
    etag: str


class PageFiles:
    """The handlers; `routes` lists them."""

    def __init__(self, workers: Workers, root: Path = ROOT) -> None:
        self._workers = workers
        self._root = root
        self._assets: dict[str, _Asset] = {}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self._index),
            web.get(f"/{{file:{_NAME}}}", self._top),
            web.get(f"/js/{{file:{_NAME}}}", self._module),
            web.get(f"/js/pages/{{file:{_NAME}}}", self._page),
        ]

    async def _index(self, request: web.Request) -> web.Response:
        return await self._answer(request, "index.html")

    async def _top(self, request: web.Request) -> web.Response:
        return await self._answer(request, request.match_info["file"])

    async def _module(self, request: web.Request) -> web.Response:
        return await self._answer(request, f"js/{request.match_info['file']}")

    async def _page(self, request: web.Request) -> web.Response:
        return await self._answer(request, f"js/pages/{request.match_info['file']}")

    async def _answer(self, request: web.Request, name: str) -> web.Response:
        known = self._assets.get(name)
        asset = await self._workers.run(_read, self._root / name, known)
        if asset is None:
            raise NotFound("there is no such file")
        self._assets[name] = asset
        packed = "gzip" in request.headers.get("Accept-Encoding", "").lower()
        etag = f"{asset.etag}-gz" if packed else asset.etag
        headers = {"Cache-Control": "no-cache", "ETag": f'"{etag}"', "Vary": "Accept-Encoding"}
        if any(given.value in (etag, "*") for given in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        body = asset.packed if packed else asset.plain
        kind = _TYPES[Path(name).suffix]
        return web.Response(body=body, headers=headers, content_type=kind, charset="utf-8")


def _read(path: Path, known: _Asset | None) -> _Asset | None:
    """The file as it is now; packed and summed only when it has changed. Blocks."""
    try:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if known is not None and known.stamp == stamp:
            return known
        plain = path.read_bytes()[:_MOST_BYTES]
    except OSError:
        return None
    etag = hashlib.sha256(plain).hexdigest()[:32]
    return _Asset(stamp, plain, gzip.compress(plain, 9, mtime=0), etag)
