"""Servers for notifications: HTTP that answers as told, and mail that keeps what it gets."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.plugins.nodes import free_port


@dataclass
class Got:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Http:
    """`answers`: whole answers, or "die", or "hang", in turn; the last one stays."""

    answers: list[str]
    port: int = 0
    got: list[Got] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def wait_for(self, count: int, within_s: float = 20.0) -> list[Got]:
        async with asyncio.timeout(within_s):
            while len(self.got) < count:
                await asyncio.sleep(0.01)
        return self.got

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.got.append(Got(first.split()[0], first.split()[1], headers, body))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if answer == "hang":
                await asyncio.sleep(3600)
            elif answer == "die":
                writer.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\nhalf")
            else:
                writer.write(answer.encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def an_answer(status: str, body: str = "", *headers: str) -> str:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", body])


OK = an_answer("200 OK", "ok")


@asynccontextmanager
async def http(*answers: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Http]:
    served = Http(list(answers) or [OK])
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await served.serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        while tasks:
            await asyncio.sleep(0.01)
        await server.wait_closed()


@dataclass
class Post:
    """What a mail server got. `refuse`: a reply to each mail, in place of taking it."""

    port: int
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    refuse: str = ""

    async def handle_DATA(  # noqa: N802  # aiosmtpd's name
        self, _server: object, session: Session, envelope: Envelope
    ) -> str:
        if self.refuse:
            return self.refuse
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=default)
        assert isinstance(mail, EmailMessage)
        self.encrypted.append(session.ssl is not None)
        self.recipients.append(list(envelope.rcpt_tos))
        self.mails.append(mail)
        return "250 taken"


@contextmanager
def mail_server(
    *, tls: ssl.SSLContext | None = None, password: str = "", implicit: bool = False
) -> Iterator[Post]:
    """In a thread of its own. `tls`: STARTTLS is needed, or TLS from the start."""
    post = Post(free_port())

    def login(
        _server: object, _session: object, _envelope: object, mechanism: str, data: object
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        post.logins.append(f"{mechanism} {data.login.decode()}")
        return AuthResult(success=data.password.decode() == password, handled=False)

    controller = Controller(
        post,
        hostname="127.0.0.1",
        port=post.port,
        ssl_context=tls if implicit else None,
        tls_context=None if implicit else tls,
        require_starttls=tls is not None and not implicit,
        authenticator=login if password else None,
        auth_required=bool(password),
        auth_require_tls=tls is not None and not implicit,
    )
    controller.start()
    try:
        yield post
    finally:
        controller.stop()


class Rude:
    """A mail server that refuses one recipient, or hangs up when it is told goodbye."""

    def __init__(self, refused: str, *, hangs_up: bool) -> None:
        self.mails = self.port = 0
        self._refused = refused.encode()
        self._hangs_up = hangs_up

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        in_mail = False
        while line := await reader.readline():
            if in_mail:
                in_mail = line != b".\r\n"
                self.mails += not in_mail
                writer.write(b"" if in_mail else b"250 taken\r\n")
            elif line.startswith(b"QUIT"):
                writer.write(b"" if self._hangs_up else b"221 bye\r\n")
                break
            else:
                in_mail = line.startswith(b"DATA")
                bad = line.startswith(b"RCPT") and bool(self._refused) and self._refused in line
                answer = b"354 go" if in_mail else b"550 no such user" if bad else b"250 ok"
                writer.write(answer + b"\r\n")
        writer.close()


@asynccontextmanager
async def smtp(refused: str = "", *, hangs_up: bool = False) -> AsyncIterator[Rude]:
    rude = Rude(refused, hangs_up=hangs_up)
    server = await asyncio.start_server(rude.serve, "127.0.0.1", 0)
    rude.port = server.sockets[0].getsockname()[1]
    async with server:
        yield rude


def certificate(home: Path, names: Iterable[str] = ("127.0.0.1",)) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate of its own, and the file that makes it trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    found = [x509.IPAddress(ip_address(one)) for one in names]
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(found), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, keyfile = home / "cert.pem", home / "key.pem"
    cert.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    keyfile.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, keyfile)
    return context, cert
