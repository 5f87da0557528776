"""The commands."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import click
from rich.console import Console
from rich.table import Table

from ._connect import Connection, Problem
from ._fetch import fetch
from ._look import KINDS, Found, Kind, Search, look
from ._page import page
from ._resolve import ACTIONS, Action, decide, identity_of, settle
from ._story import Story
from ._text import as_json, cell, console, list_as_json, printable, say, show, table, whole
from ._words import duration, headline, summary

__all__ = ["cli"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_SETTINGS = tuple(each.name for each in fields(Connection))
_MOST_DAYS = 36_500
_MOST_PROBLEMS = 5


def _connects(command: F) -> F:
    """Add the options for the connection, and pass them to the command as one `Connection`.

    Like those of the `temporal` CLI they may stand before the command's name or after it. Those after it win.
    """
    options = [
        click.option("--profile", help="The profile in the configuration file.  [env: TEMPORAL_PROFILE]"),
        click.option("--config-file", type=click.Path(), help="The configuration file.  [env: TEMPORAL_CONFIG_FILE]"),
        click.option("--address", help="The server's host and port.  [env: TEMPORAL_ADDRESS]"),
        click.option("--namespace", "-n", help="The namespace.  [env: TEMPORAL_NAMESPACE]"),
        click.option("--api-key", help="The API key; others on this machine can see it here.  [env: TEMPORAL_API_KEY]"),
        click.option("--tls/--no-tls", default=None, help="Whether to use TLS.  [env: TEMPORAL_TLS]"),
    ]

    @functools.wraps(command)
    def connected(**options: Any) -> Any:
        context = click.get_current_context()
        given = {name: options.pop(name) for name in _SETTINGS}
        context.obj = {**(context.obj or {}), **{name: value for name, value in given.items() if value is not None}}
        return command(connection=Connection(**context.obj), **options)

    for option in reversed(options):
        connected = option(connected)
    return cast(F, connected)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="temporal-saga")
@_connects
def cli(connection: Connection) -> None:
    """See what happened to sagas on Temporal, find those that need a person, and settle them.

    The server, the namespace and the credentials come from the same place as for the temporal CLI: its configuration
    file and profiles, and the variables TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS and so on.
    The options for them may stand before the command or after it.
    """


@cli.command("show")
@click.argument("workflow_id")
@click.option("--run-id", help="A run of the workflow. Default: the latest.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with a picture to a file.")
@_connects
def show_command(connection: Connection, workflow_id: str, run_id: str | None, json_: bool, html: Path | None) -> None:
    """Show what happened to a workflow's sagas: what took effect, what is undone, what stands.

    This reads the history, so it needs no worker. It works for workflows that are open, closed, terminated or stuck.
    """
    story = _run(lambda progress: _fetch(connection, workflow_id, run_id, progress))
    now = datetime.now(timezone.utc)
    if html is not None:
        try:
            html.write_text(page(story, now), encoding="utf-8", errors="xmlcharrefreplace")
        except OSError as error:
            raise click.ClickException(f"{html} cannot be written: {error.strerror}") from error
    if json_:
        click.echo(as_json(story, now))
    elif html is not None:
        click.echo(printable(f"{headline(story).text} The page is in {html}"))
    else:
        show(console(), story, now)


@cli.command("list")
@click.option("--parked", is_flag=True, help="Something failed for good, and a person has to decide.")
@click.option(
    "--stuck", is_flag=True, help="An undo keeps failing, or the workflow task keeps failing and effects stand."
)
@click.option("--incomplete", is_flag=True, help="The workflow has ended, and not everything is undone.")
@click.option("--unwinding", is_flag=True, help="Steps are being undone.")
@click.option("--query", help="Only workflows that match, in Temporal's list filter: WorkflowType = 'Order'.")
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=7.0,
    show_default=True,
    help="How many days back to look at workflows that have ended.",
)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Stop after so many histories. Each run of a workflow has one. A workflow that was begun is read to its end.",
)
@click.option(
    "--search-attribute",
    default="SagaState",
    show_default=True,
    help="The search attribute that SagaPlugin(search_attribute=) sets.",
)
@click.option("--look", "by_looking", is_flag=True, help="Read histories even if the search attribute is registered.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@_connects
def list_command(
    connection: Connection,
    parked: bool,
    stuck: bool,
    incomplete: bool,
    unwinding: bool,
    query: str | None,
    days: float,
    most: int,
    search_attribute: str,
    by_looking: bool,
    json_: bool,
) -> None:
    """List the workflows whose sagas need a person. If you choose no kind, list all kinds.

    If the search attribute SagaState is registered, the server finds them. Otherwise each history is read.
    """
    if not search_attribute.isidentifier():  # it becomes a part of a query
        raise click.ClickException(f"{search_attribute!r} is not the name of a search attribute")
    flags = dict(zip(KINDS, (parked, stuck, incomplete, unwinding), strict=True))
    kinds: frozenset[Kind] = frozenset(kind for kind in KINDS if flags[kind]) or frozenset(KINDS)
    if not days <= _MOST_DAYS:  # also for NaN
        raise click.ClickException(f"--days may be {_MOST_DAYS} at most")
    now = datetime.now(timezone.utc)
    search = Search(kinds, query, timedelta(days=days), most, by_looking, search_attribute)
    found = _run(lambda progress: _look(connection, search, now, progress))
    if json_:
        click.echo(list_as_json(found.stories, now))
    else:
        _print_list(console(), found, now)
    _print_cost(console(stderr=True), found, search)


class _Action(click.Choice[str]):
    """An action, also as the update saga_resolve spells it: done_by_hand."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(value.replace("_", "-"), param, ctx)


@cli.command("resolve")
@click.argument("workflow_id")
@click.argument("key")
@click.argument("action", type=_Action(ACTIONS))
@click.option("--who", required=True, help="The person who decides. It goes on record.")
@click.option("--why", required=True, help="The reason. It goes on record.")
@click.option("--run-id", help="A run of the workflow. Default: the latest.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_connects
def resolve_command(
    connection: Connection,
    workflow_id: str,
    key: str,
    action: Action,
    who: str,
    why: str,
    run_id: str | None,
    yes: bool,
) -> None:
    r"""Settle the step with this KEY, which waits for a person.

    \b
    retry          run it once more, under the same key
    done-by-hand   you have undone the step yourself: the saga counts the undo as done
    give-up        leave it as it is

    A parked step or undo gets the decision as the update saga_resolve. An undo that is still being retried can be
    settled as done-by-hand: its activity is completed, and the history keeps who and why.
    """

    async def prepare(progress: Callable[[str], object]) -> Any:
        client = await connection.connect(identity_of(who, why))
        story = await fetch(client, workflow_id, run_id, progress=progress)
        return decide(story, key, action, datetime.now(timezone.utc))

    async def act(progress: Callable[[str], object]) -> None:
        await settle(await connection.connect(identity_of(who, why)), settlement, who, why)

    settlement = _run(prepare)
    question = printable(f"{settlement.question}\nThis goes on record as {who}. Continue?")
    if not yes and not click.confirm(question, default=False):
        raise click.ClickException("nothing was done")
    _run(act, interrupted="interrupted: the decision may still be taken. Check with `temporal-saga show` first")
    click.echo(printable(settlement.done))


async def _fetch(
    connection: Connection, workflow_id: str, run_id: str | None, progress: Callable[[str], object]
) -> Story:
    return await fetch(await connection.connect(), workflow_id, run_id, progress=progress)


async def _look(connection: Connection, search: Search, now: datetime, progress: Callable[[str], object]) -> Found:
    return await look(await connection.connect(), search, now, progress)


def _run(work: Callable[[Callable[[str], object]], Coroutine[Any, Any, T]], *, interrupted: str | None = None) -> T:
    """Do some work, and show the progress on a terminal. A problem ends the command with one line.

    Args:
        work: The work.
        interrupted: What to say if the person interrupts it.
    """
    out = console(stderr=True)
    try:
        if not out.is_terminal:
            return asyncio.run(work(lambda _: None))
        with out.status("connecting") as status:
            return asyncio.run(work(lambda text: status.update(cell(text))))
    except Problem as problem:
        raise click.ClickException(printable(str(problem))) from None
    except KeyboardInterrupt:
        raise (click.ClickException(interrupted) if interrupted else click.Abort) from None


def _print_list(out: Console, found: Found, now: datetime) -> None:
    if not found.stories:
        say(out, "Nothing needs a person.")
        return
    rows = Table("", "workflow", "type", "started", "what", box=None, padding=(0, 2, 0, 0), header_style="dim")
    whole(rows)
    for column in (0, 3):
        rows.columns[column].no_wrap = True
    for kinds, story in found.stories:
        since = f"{duration(now - story.started)} ago"
        style = "yellow" if kinds == ["unwinding"] else "bold red"
        rows.add_row(
            cell(", ".join(kinds), style), cell(story.workflow_id), cell(story.type), since, cell(summary(story, now))
        )
    table(out, rows)


def _print_cost(out: Console, found: Found, search: Search) -> None:
    name = search.attribute
    how = f"by the search attribute {name}; if some workers do not set it, give --look"
    if not found.has_attribute:
        how = f"by reading each history: register {name} and use SagaPlugin(search_attribute=...) to make this cheap"
    elif search.by_looking:
        how = "by reading each history"
    histories = "history" if found.looked_at == 1 else "histories"
    say(out, f"{len(found.stories)} found, {found.looked_at} {histories} read, {how}.", "dim")
    if found.left_out:
        say(out, "There are more workflows, which were not read. Narrow it with --query, or give --most.", "yellow")
    for problem in found.problems[:_MOST_PROBLEMS]:
        say(out, f"Left out: {problem}", "yellow")
    if len(found.problems) > _MOST_PROBLEMS:
        say(out, f"Also left out: {len(found.problems) - _MOST_PROBLEMS} more", "yellow")


def main() -> NoReturn:
    """Run the command line."""
    code: object = 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may have letters that the terminal lacks
    try:
        cli(prog_name="temporal-saga")
    except SystemExit as end:
        code = end.code
    except OSError as error:  # not the server's, which are Problems by now: a full disk, for instance
        click.echo(f"Error: the output cannot be written: {error.strerror}", err=True)
        code = 1
    except Exception as error:  # its message may quote the data of a workflow
        *_, place = traceback.extract_tb(error.__traceback__)
        click.echo(
            f"Error: a fault in temporal-saga: {type(error).__name__} at {place.name}, line {place.lineno}", err=True
        )
        code = 1
    finally:
        # The threads of the SDK's core outlive a client. If the interpreter ends at once, several of ten processes
        # crash (github.com/temporalio/sdk-python/issues/300). So end the process, and not the interpreter.
        for each in (sys.stdout, sys.stderr):
            with suppress(OSError, AttributeError):  # a stream that the shell has closed is None
                each.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)
