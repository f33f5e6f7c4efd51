"""Recognises what is no plain dump, by its first bytes, and says how to make one of it.

Owns the signatures and the advice. A file that it lets pass may still be no dump: the
scanner decides that.
"""

from __future__ import annotations

from peersync.core.errors import BadRequest, CorruptData, PeersyncError, RefusedInput

HEAD_BYTES = 4096  # as many as `refuse_foreign` wants to see

_PLAIN = "pg_dump DATABASE | peersync convert -"
_PACKED = (
    (b"\x1f\x8b", "gzip", "gzip -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
    (b"\xfd7zXZ\0", "xz", "xz -dc"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
    (b"PK\x03\x04", "zip", "unzip -p"),
)
_HEADER = b"PostgreSQL database dump"
_CLUSTER = b"PostgreSQL database cluster dump"


def refuse_foreign(head: bytes, name: str, *, packed: bool = False) -> None:
    """Raises for a dump that is empty, of another format, or no text at all.

    `head` is the beginning, after zstd where that is `packed`; `name` is what to call the
    file in a command that can be pasted. Raises CorruptData, RefusedInput.
    """
    if not head:
        why = (
            "the dump is cut off: nothing comes out of the zstd" if packed else "the dump is empty"
        )
        raise CorruptData(why, hint=f"Make it again: {_PLAIN}")
    if error := _archive(head, name, packed) or _compressed(head, name) or _text(head):
        raise error


def directory_dump(name: str, is_dump: bool) -> PeersyncError:
    """The error for a directory; `is_dump`: it is one that pg_dump -Fd made."""
    if is_dump:
        return _restore("this is a dump in pg_dump's directory format", name)
    return BadRequest(f"{name} is a directory, not a dump", hint=f"Name a file, or: {_PLAIN}")


def doubt(head: bytes) -> str | None:
    """Advice for a text that could not be read and does not begin like a dump, else None."""
    if _HEADER in head:
        return None
    return f"It does not begin like a dump of pg_dump. Is it the right file? {_PLAIN}"


def _archive(head: bytes, name: str, packed: bool) -> PeersyncError | None:
    source = f"<(zstd -dc {name})" if packed else name
    if head.startswith(b"PGDMP"):
        return _restore("this is a dump in pg_dump's custom format", source)
    if head.startswith(b"toc.dat\0"):
        return _restore("this is a dump in pg_dump's tar format", source)
    if head[257:262] == b"ustar":
        return RefusedInput("this is a tar archive", hint="Unpack it: tar -xf " + name)
    return None


def _restore(what: str, source: str) -> RefusedInput:
    return RefusedInput(
        f"{what}; convert reads plain dumps",
        hint=f"pg_restore -f - {source} | peersync convert -",
    )


def _compressed(head: bytes, name: str) -> PeersyncError | None:
    for signature, kind, command in _PACKED:
        if head.startswith(signature):
            return RefusedInput(
                f"this is compressed with {kind}; convert reads plain dumps, and zstd",
                hint=f"{command} {name} | peersync convert -",
            )
    return None


def _text(head: bytes) -> PeersyncError | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        return RefusedInput(
            "this was saved again by an editor or a shell, in another encoding",
            hint="Make the dump with --encoding=UTF8 and -f FILE, and leave it as it is.",
        )
    if b"\0" in head:
        return RefusedInput("this is no dump, but binary data", hint=f"Give a dump: {_PLAIN}")
    if head.count(b"\r\n") and head.count(b"\r\n") == head.count(b"\n"):
        return RefusedInput(
            "this has the line ends of Windows; in a dump they would change rows",
            hint="Copy it again as it is (binary), or make it with pg_dump -f FILE.",
        )
    if _CLUSTER in head:
        return RefusedInput(
            "this is a dump of a whole server, by pg_dumpall",
            hint=f"Dump each database by itself: {_PLAIN}",
        )
    return None
