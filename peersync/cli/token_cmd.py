"""`peersync token`: keys by which scripts use the API of this node without a login."""

from __future__ import annotations

from urllib.parse import quote

import click
import msgspec

from peersync.cli.accounts import ask
from peersync.cli.admin_cmd import ROLES
from peersync.cli.context import Context
from peersync.cli.names import user_name
from peersync.cli.output import emit_json, print_err, print_out, print_table

TOKENS = "/api/admin/tokens"


@click.group("token")
def command() -> None:
    """Make, list and revoke keys for scripts."""


@command.command("create")
@click.argument("name")
@click.option("--role", type=ROLES, default="viewer", show_default=True)
@click.option("--days", type=float, default=90.0, show_default=True, help="How long it works.")
@click.pass_obj
def create(ctx: Context, name: str, role: str, days: float) -> None:
    """Print a new token. It is shown now and never again."""
    from peersync.agent.people.people_api import TokenView

    body = {"name": name, "role": role, "days": days, "requestedBy": user_name()}
    made = ask(ctx, lambda agent: agent.post(TOKENS, body, TokenView))
    if ctx.json:
        emit_json(made)
        return
    print_out(made.token or "")
    if not ctx.quiet:
        print_err(f"{made.name} ({made.role}, {made.id}) works until {made.expires_at}")


@command.command("list")
@click.pass_obj
def list_(ctx: Context) -> None:
    """List the tokens, without their text."""
    from peersync.agent.people.people_api import TokenView

    found = ask(ctx, lambda agent: agent.get(TOKENS, list[TokenView]))
    if ctx.json:
        emit_json({"tokens": msgspec.to_builtins(found)})
        return
    rows = [
        (t.id, t.name, t.role, t.created_by, "expired" if t.expired else t.expires_at, t.last_used)
        for t in found
    ]
    print_table(("id", "name", "role", "by", "until", "last used"), rows, color=ctx.color)


@command.command("revoke")
@click.argument("token")
@click.pass_obj
def revoke(ctx: Context, token: str) -> None:
    """Make a token void, by its id or its name, from its next request on."""
    from peersync.agent.people.people_api import TokenView

    gone = ask(ctx, lambda agent: agent.delete(f"{TOKENS}/{quote(token, safe='')}", TokenView))
    if ctx.json:
        emit_json(gone)
    else:
        print_err(f"{gone.name} ({gone.id}) was revoked.")
