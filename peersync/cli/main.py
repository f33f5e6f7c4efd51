"""The command `peersync`: the list of its verbs, and what its exit code says.

Owns the table of commands (imported only when they run, so that `peersync --version` stays
quick), the rendering of errors and the exit codes of docs/exit-codes.md. What a verb does is
in a module of its own.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple, NoReturn

import click

from peersync import __version__
from peersync.cli.context import Context, add_global_options, global_options
from peersync.cli.failure import as_json, as_text
from peersync.core.errors import BadRequest, Cancelled, PeersyncError, root_error

EXIT_BUG = 1
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE


class Verb(NamedTuple):
    """Where a command lives, and its line in the help."""

    section: str
    target: str
    help: str


VERBS: dict[str, Verb] = {
    "init": Verb("Start", "peersync.cli.init_cmd:command", "Set this node and its databases up."),
    "check": Verb("Start", "peersync.cli.check_cmd:command", "Find what would stop a sync."),
    "grants": Verb("Start", "peersync.cli.grants:command", "Print the GRANTs that are needed."),
    "config": Verb("Start", "peersync.cli.config_cmd:command", "Show and check the configuration."),
    "agent": Verb("Start", "peersync.cli.agent_cmd:command", "Run the agent of this node."),
    "periodic": Verb("Start", "peersync.cli.periodic_cmd:command", "Run periodic sync by itself."),
    "admin": Verb("Start", "peersync.cli.admin_cmd:command", "Set who may open the page."),
    "token": Verb("Tools", "peersync.cli.token_cmd:command", "Make keys for scripts."),
    "peer": Verb("Sync", "peersync.cli.peer_cmd:command", "Invite, join, list, remove peers."),
    "pull": Verb("Sync", "peersync.cli.pull_cmd:command", "Catch a database up from a peer."),
    "push": Verb("Sync", "peersync.cli.push_cmd:command", "Bring a peer's database up to date."),
    "join": Verb("Sync", "peersync.cli.join_cmd:join", "Take a database and keep it in step."),
    "merge": Verb("Sync", "peersync.cli.join_cmd:merge", "Join two databases that have data."),
    "members": Verb("Look", "peersync.cli.members_cmd:command", "List who keeps it in step."),
    "rebaseline": Verb("Sync", "peersync.cli.join_cmd:rebaseline", "Take everything anew."),
    "leave": Verb("Sync", "peersync.cli.join_cmd:leave", "Keep a database in step no more."),
    "sync": Verb("Sync", "peersync.cli.sync_cmd:command", "Send changes now, pause, for scripts."),
    "complete-sync": Verb(
        "Sync", "peersync.cli.complete_cmd:command", "Bring it up to date with all peers."
    ),
    "tables": Verb("Sync", "peersync.cli.tables_cmd:command", "Choose which tables are synced."),
    "sequences": Verb("Sync", "peersync.cli.sequences_cmd:command", "Keep new keys apart."),
    "bulk-sync": Verb("Sync", "peersync.cli.bulk_cmd:command", "Sync every database here."),
    "verify": Verb("Look", "peersync.cli.verify_cmd:command", "Prove that two sides are equal."),
    "repair": Verb("Sync", "peersync.cli.repair_cmd:command", "Make what differs equal again."),
    "undo": Verb("Sync", "peersync.cli.undo_cmd:command", "Put back what a sync has changed."),
    "run": Verb("Sync", "peersync.cli.run_cmd:command", "Bring the table sets that are due along."),
    "schedule": Verb("Sync", "peersync.cli.schedule_cmd:command", "List, pause, run schedules."),
    "jobs": Verb("Sync", "peersync.cli.jobs_cmd:command", "List, show, watch, cancel jobs."),
    "status": Verb("Look", "peersync.cli.status_cmd:command", "Say whether everything is fine."),
    "lag": Verb("Look", "peersync.cli.lag_cmd:command", "Show how far each link is."),
    "conflicts": Verb("Look", "peersync.cli.conflicts_cmd:command", "Show and settle conflicts."),
    "quarantine": Verb("Look", "peersync.cli.quarantine_cmd:command", "Mend refused changes."),
    "trace": Verb("Look", "peersync.cli.trace_cmd:command", "Find where a row stands, and why."),
    "history": Verb("Look", "peersync.cli.history_cmd:command", "List the syncs that ended."),
    "notify": Verb("Look", "peersync.cli.notify_cmd:command", "Try and quiet notifications."),
    "statistics": Verb("Look", "peersync.cli.statistics_cmd:command", "Count rows and syncs."),
    "convert": Verb("Tools", "peersync.cli.convert:convert", "Turn a pg_dump into UPSERTs."),
    "node": Verb("Tools", "peersync.cli.node_cmd:command", "Renew certificate or identity."),
    "systemd": Verb("Tools", "peersync.cli.systemd_cmd:command", "Run peersync as a service."),
    "uninstall": Verb(
        "Tools", "peersync.cli.uninstall_cmd:command", "Remove peersync from a database."
    ),
}


class Verbs(click.Group):
    """A group whose commands are imported when they are called, listed by section."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, verb in VERBS.items() if find_spec(verb.target.split(":")[0])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        if cmd_name not in self.commands:
            module, _, attribute = VERBS[cmd_name].target.partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            add_global_options(command)
            self.commands[cmd_name] = command
        return self.commands[cmd_name]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        unknown = args[0] not in names and not args[0].startswith("-")
        if unknown and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], names, n=1)
            hint = f"did you mean peersync {near[0]}?" if near else "peersync --help lists them"
            raise BadRequest(f"there is no command {args[0]!r}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            sections.setdefault(VERBS[name].section, []).append((name, VERBS[name].help))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # here, because click would end the process with 1
            _discard_stdout()
            return EXIT_BROKEN_PIPE


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"peersync {__version__}")
        ctx.exit()


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[
        *global_options(),
        click.Option(
            ["-V", "--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Print the version.",
        ),
    ],
    epilog="Exit codes and JSON are a contract: docs/exit-codes.md.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Keeps the PostgreSQL databases of independent servers in step, peer to peer."""
    ctx.color = None if ctx.ensure_object(Context).color else False


def run(args: Sequence[str], context: Context) -> int:
    """Run one command line; returns its exit code. Nothing is raised but KeyboardInterrupt."""
    try:
        code = cli.main(list(args), prog_name="peersync", standalone_mode=False, obj=context)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        return EXIT_BROKEN_PIPE
    except PeersyncError as error:
        return _fail(error, args, context)
    except click.UsageError as error:
        return _fail(_usage_error(error), args, context)
    except click.ClickException as error:
        return _fail(PeersyncError(error.format_message()), args, context)
    except (click.Abort, KeyboardInterrupt):
        return _fail(Cancelled("cancelled"), args, context)
    except BaseExceptionGroup as group:
        first = root_error(group)
        if isinstance(first, PeersyncError):
            return _fail(first, args, context)
        return _bug(first, context)
    except Exception as error:
        return _bug(error, context)
    return code if isinstance(code, int) and not isinstance(code, bool) else 0


def main() -> NoReturn:
    """The entry point of the console script."""
    sys.exit(run(sys.argv[1:], Context()))


def _usage_error(error: click.UsageError) -> BadRequest:
    path = error.ctx.command_path if error.ctx else "peersync"
    return BadRequest(error.format_message(), hint=f"{path} --help")


def _fail(error: PeersyncError, args: Sequence[str], context: Context) -> int:
    if context.debug:
        traceback.print_exception(error)
    click.echo(as_text(error), err=True, color=None if context.color else False)
    if context.json or "--json" in args:  # a usage error comes before the flag is read
        try:
            click.echo(as_json(error))
            sys.stdout.flush()
        except BrokenPipeError:
            _discard_stdout()
    return error.exit_code


def _bug(error: BaseException, context: Context) -> int:
    if context.debug:
        traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/peersync/" in f.filename and f.filename != __file__] or frames
    place = f" at {ours[-1].filename}:{ours[-1].lineno}" if ours else ""
    line = f"peersync: internal error: {type(error).__name__}: {error}{place}"
    more = "" if context.debug else " (PEERSYNC_DEBUG=1 shows the traceback)"
    click.echo(" ".join(line.split()) + more, err=True)
    return EXIT_BUG


def _discard_stdout() -> None:
    """Whoever read us went away; what is still buffered must not raise at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
