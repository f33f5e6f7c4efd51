"""`peersync admin`: who may open the page of this node, and who is logged in."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click
import msgspec

from peersync.cli.accounts import ask
from peersync.cli.context import Context
from peersync.cli.output import ago, emit_json, print_err, print_out, print_table
from peersync.core.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from peersync.agent.people.people_api import OneTimeLink, SessionView, UserView
    from peersync.transport.local import AgentClient

USERS = "/api/admin/users"
SESSIONS = "/api/admin/sessions"
ROLES = click.Choice(["viewer", "operator", "admin"])
_USER = click.option("--user", metavar="NAME", default="admin", show_default=True)


@click.group("admin")
def command() -> None:
    """Say who may open the page of this node, and see who is logged in."""


@command.command("passwd")
@_USER
@click.pass_obj
def passwd(ctx: Context, user: str) -> None:
    """Set a password: asked for twice, or read from standard input.

    The first user is made by it. All sessions of the user end.
    """
    view = ask(ctx, lambda agent: _set_password(agent, user, _read_password(ctx)))
    if ctx.json:
        emit_json(view)
    else:
        print_err(f"{view.name} ({view.role}) has a new password.")


@command.command("link")
@_USER
@click.pass_obj
def link(ctx: Context, user: str) -> None:
    """Print a link that opens the page once, within 24 hours, and sets a password there."""
    _print_link(ctx, ask(ctx, lambda agent: _make_link(agent, user)))


@command.group("users", invoke_without_command=True)
@click.pass_context
def users(context: click.Context) -> None:
    """List users; add, remove or change them."""
    if context.invoked_subcommand is None:
        _list_users(context.ensure_object(Context))


@users.command("add")
@click.argument("name")
@click.option("--role", type=ROLES, default="viewer", show_default=True)
@click.pass_obj
def add(ctx: Context, name: str, role: str) -> None:
    """Add a user, and print the link by which he sets his password."""
    from peersync.agent.people.people_api import OneTimeLink

    body = {"name": name, "role": role}
    _print_link(ctx, ask(ctx, lambda agent: agent.post(USERS, body, OneTimeLink)))


@users.command("remove")
@click.argument("name")
@click.pass_obj
def remove(ctx: Context, name: str) -> None:
    """Remove a user, and end his sessions and the tokens that he has made on the page."""
    from peersync.agent.people.people_api import UserView

    gone = ask(ctx, lambda agent: agent.delete(_path(name), UserView))
    if ctx.json:
        emit_json(gone)
    else:
        print_err(f"{gone.name} was removed.")
        _print_revoked(gone)


@users.command("set-role")
@click.argument("name")
@click.argument("role", type=ROLES)
@click.pass_obj
def set_role(ctx: Context, name: str, role: str) -> None:
    """Change what a user may do: viewer looks, operator starts and settles, admin everything."""
    from peersync.agent.people.people_api import UserView

    view = ask(ctx, lambda agent: agent.patch(_path(name), {"role": role}, UserView))
    if ctx.json:
        emit_json(view)
    else:
        print_err(f"{view.name} is {view.role} now.")
        _print_revoked(view)


def _print_revoked(view: UserView) -> None:
    if view.revoked_tokens:
        print_err(f"tokens that ended with it: {', '.join(view.revoked_tokens)}")


@command.command("sessions")
@click.option("--end", metavar="ID", help="End this one.")
@click.option("--end-user", metavar="NAME", help="End all of a user.")
@click.pass_obj
def sessions(ctx: Context, end: str | None, end_user: str | None) -> None:
    """List who is logged in, or end sessions."""
    found = ask(ctx, lambda agent: _sessions(agent, end, end_user))
    if ctx.json:
        emit_json({"sessions": msgspec.to_builtins(found)})
        return
    if end or end_user:
        print_err(f"ended: {len(found)}")
        return
    now = datetime.now(UTC)
    rows = [
        (s.id, s.user, s.address, ago(datetime.fromisoformat(s.seen_at), now), s.browser[:40])
        for s in found
    ]
    print_table(("id", "user", "from", "last seen", "browser"), rows, color=ctx.color)


def _list_users(ctx: Context) -> None:
    from peersync.agent.people.people_api import UserView

    found = ask(ctx, lambda agent: agent.get(USERS, list[UserView]))
    if ctx.json:
        emit_json({"users": msgspec.to_builtins(found)})
        return
    if not found and not ctx.quiet:
        print_err("there is no user yet: peersync admin link")
    rows = [
        (u.name, u.role, "set" if u.has_password else "none", u.link_expires_at, u.sessions)
        for u in found
    ]
    columns = ("user", "role", "password", "link until", "sessions")
    print_table(columns, rows, color=ctx.color)


async def _set_password(agent: AgentClient, user: str, password: str) -> UserView:
    from peersync.agent.people.people_api import UserView

    await _ensure(agent, user)
    return await agent.patch(_path(user), {"password": password}, UserView)


async def _make_link(agent: AgentClient, user: str) -> OneTimeLink:
    from peersync.agent.people.people_api import OneTimeLink

    await _ensure(agent, user)
    return await agent.post(f"{_path(user)}/link", {}, OneTimeLink)


async def _ensure(agent: AgentClient, user: str) -> None:
    """The first user of all is an admin; others are added with a role."""
    from peersync.agent.people.people_api import OneTimeLink, UserView

    known = await agent.get(USERS, list[UserView])
    if not known:
        await agent.post(USERS, {"name": user, "role": "admin"}, OneTimeLink)
    elif user not in {one.name for one in known}:
        raise NotFound(
            f"there is no user {user[:80]!r}", hint=f"peersync admin users add {user[:80]}"
        )


async def _sessions(agent: AgentClient, end: str | None, end_user: str | None) -> list[SessionView]:
    from peersync.agent.people.people_api import SessionView

    if end:
        return [await agent.delete(f"{SESSIONS}/{quote(end, safe='')}", SessionView)]
    if end_user:
        return await agent.delete(SESSIONS, list[SessionView], params={"user": end_user})
    return await agent.get(SESSIONS, list[SessionView])


def _path(user: str) -> str:
    return f"{USERS}/{quote(user, safe='')}"


def _read_password(ctx: Context) -> str:
    if ctx.interactive:
        typed: Any = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return str(typed)
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise BadRequest(
            "no password came", hint="type it when asked, or send it on standard input"
        )
    return line


def _print_link(ctx: Context, made: OneTimeLink) -> None:
    if ctx.json:
        emit_json(made)
        return
    print_out(made.link)
    if not ctx.quiet:
        print_err(f"for {made.user} ({made.role}): once, until {made.expires_at}")
