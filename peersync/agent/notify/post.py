"""One HTTP request of a channel, and its failure in words that hold no secret.

The URL is a secret: only its host is ever said. Certificates are verified, and no redirection
is followed, for it would take a secret elsewhere.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from yarl import URL

from peersync.agent.notify.outlet import masked
from peersync.config.secret import Secret
from peersync.core.errors import ConfigError, Undelivered

MAX_RETRY_AFTER_S: Final = 3600.0
_ANSWER_BYTES: Final = 2000
_LASTING: Final = frozenset({401, 403, 404, 407, 408, 410, 425, 429})  # of the 4xx: not this body


class Target:
    """A URL. Made in a thread: the certificates of the system are read. ConfigError."""

    def __init__(self, url: Secret) -> None:
        try:
            self.url = URL(url.reveal())
        except ValueError:
            raise ConfigError("the URL is not valid") from None
        if self.url.scheme not in ("http", "https") or not self.url.host:
            raise ConfigError("the URL must begin with https:// or http:// and name a host")
        self.context = ssl.create_default_context()
        self._secrets = (url, Secret(self.url.raw_path_qs if self.url.raw_path != "/" else ""))

    @property
    def host(self) -> str:
        return str(self.url.host)

    async def call(
        self,
        method: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        below: str = "",
    ) -> None:
        """`below` is appended to the URL's path. Undelivered for anything but a 2xx."""
        url = (
            self.url.with_path(self.url.raw_path.rstrip("/") + below, encoded=True, keep_query=True)
            if below
            else self.url
        )
        connector = aiohttp.TCPConnector(ssl=self.context)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector, cookie_jar=aiohttp.DummyCookieJar()
                ) as s,
                s.request(
                    method, url, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                if 200 <= response.status < 300:
                    return  # it has the message; what else it says may never end
                answer = b""
                while len(answer) < _ANSWER_BYTES and (piece := await response.content.readany()):
                    answer += piece
                raise self._refused(response, answer)
        except aiohttp.ClientConnectorCertificateError as error:
            raise Undelivered(
                f"the certificate of {self.host} is not valid",
                detail=masked(str(error.certificate_error), *self._secrets),
                hint="certificates are verified: SSL_CERT_FILE names authorities of your own",
            ) from None
        except aiohttp.ClientConnectorError as error:
            why = error.os_error.strerror or type(error.os_error).__name__
            raise Undelivered(
                f"{self.host} can't be reached", detail=masked(why, *self._secrets)
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            kind = type(error).__name__
            raise Undelivered(
                f"{self.host} ended the connection before it answered", detail=kind
            ) from None

    def _refused(self, response: aiohttp.ClientResponse, answer: bytes) -> Undelivered:
        words = masked(answer.decode(errors="replace"), *self._secrets)
        status = response.status
        hint = None
        if 300 <= status < 400:
            hint = "it sends us elsewhere: configure the address that it means"
        elif status in (401, 403, 404, 410):
            hint = "see whether the URL is still right"
        return Undelivered(
            f"{self.host} answered {status}",
            detail=words or None,
            hint=hint,
            retry_after_s=_retry_after(response.headers.get("Retry-After", "")),
            refused=400 <= status < 500 and status not in _LASTING,
        )


def _retry_after(text: str) -> float | None:
    """Seconds, from a number or a date (RFC 9110, 10.2.3); an hour at most."""
    if text.strip().isdigit():
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)
