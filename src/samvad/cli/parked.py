"""`samvad parked list|show|retry|drop`: operations that the store refuses for ever."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from samvad.cli import flags
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import settings_of
from samvad.cli.output import printable, private_output, table
from samvad.clock import SystemClock, rfc3339
from samvad.errors import NotFound, SetupError, StoreLocked
from samvad.records import UserKey
from samvad.settings import Settings
from samvad.types import DEFAULT_TENANT

if TYPE_CHECKING:
    from samvad.sessions.parked import Parked, Waiting
    from samvad.sessions.parked_requests import Request

User = Annotated[str, typer.Argument(metavar="USER", help="The user's id.", show_default=False)]
_TRY_S_MAX: Final = 30.0
_TEXTS: Final = ("content", "patch", "fields", "body")

app = verbs("Look at operations that the store refuses for ever, and decide about them.")


def journal_of(settings: Settings) -> Path:
    """The directory of the journal; SetupError where the store has none."""
    url = settings.store_url()
    if not url.startswith("firestore:"):
        raise SetupError(f"Only a firestore:// store has a journal in front of it, and {url} is none.")
    return settings.data_path() / "journal"


def _found(directory: Path) -> list[Parked]:
    from samvad.sessions.parked import still_there

    return still_there(directory)


@app.command("list", cls=PlainCommand)
def list_parked(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """List them, with how many operations wait behind each. A server may be running."""
    from samvad.sessions.parked import waiting

    directory = journal_of(settings_of(store, data_dir))
    parked = _found(directory)
    entries = len(waiting(directory))
    if json:
        typer.echo(msgspec.json.encode({"waiting": entries, "parked": parked}).decode())
        return
    if parked:
        typer.echo(
            table(
                [("user", "number", "operation", "since", "behind", "why")]
                + [
                    (
                        _named(each),
                        str(each.number),
                        each.kind,
                        rfc3339(each.since_ms),
                        str(each.behind),
                        printable(f"{each.code}: {each.reason}", 200),
                    )
                    for each in parked
                ]
            )
        )
    typer.echo(f"{len(parked):,} parked, {entries:,} operations in the journal")


def _named(parked: Parked) -> str:
    """Whose it is, with the tenant where that is not the usual one."""
    tenant = "" if parked.tenant == DEFAULT_TENANT else f"{printable(parked.tenant)}/"
    return tenant + printable(parked.user_id)


@app.command(cls=PlainCommand)
def show(
    user: User,
    content: Annotated[
        bool, typer.Option("--content", help="Print what was said as well, not only how long it is.")
    ] = False,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Show what waits of one user, the parked operation first. A server may be running."""
    directory = journal_of(settings_of(store, data_dir))
    mine = _entries_of(directory, UserKey(tenant, user))
    parked = {(each.replica, each.number): each for each in _found(directory)}
    for each in mine:
        found = parked.get((each.replica, each.number))
        why = f"  parked: {printable(f'{found.code}: {found.reason}')}" if found is not None else ""
        typer.echo(f"{each.number}{why}")
        fields = _plain(_fields(each) if content else _without_content(_fields(each)))
        for line in msgspec.json.format(msgspec.json.encode(fields), indent=2).decode().splitlines():
            typer.echo("  " + printable(line))


def _entries_of(directory: Path, user: UserKey) -> list[Waiting]:
    from samvad.sessions.parked import waiting

    mine = [each for each in waiting(directory) if each.user == user]
    if not mine:
        raise NotFound(f"Nothing of the user {user.user_id!r} waits in {directory}.")
    return mine


def _fields(each: Waiting) -> dict[str, Any]:
    """An entry as fields; what callers gave as JSON is bytes."""
    fields = msgspec.to_builtins(each.entry, builtin_types=(bytes,))
    names = type(each.entry).__struct_fields__
    named = dict(zip(names, fields, strict=True)) if isinstance(fields, list) else fields
    return {"bytes": each.size_bytes, **named}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _without_content(value: Any, name: str = "") -> Any:
    """The same, with what users and assistants said or set as its length."""
    if name in _TEXTS or isinstance(value, bytes):
        return f"({len(msgspec.json.encode(value)):,} bytes; --content shows them)"
    if isinstance(value, dict):
        return {key: _without_content(each, key) for key, each in value.items()}
    if isinstance(value, list | tuple) and name == "changes" and value:
        return f"({len(msgspec.json.encode(value)):,} bytes; --content shows them)"
    if isinstance(value, list | tuple):
        return [_without_content(each) for each in value]
    return value


@app.command(cls=PlainCommand)
def retry(store: flags.Store = None, data_dir: flags.DataDir = None) -> None:
    """Try what is parked again, and say what the store still refuses. Exits with 1 if something is left.

    Whatever made the store refuse must be mended first. A running server does it when asked by this, within a
    second or two; for one that is stopped, all that waits in its journal is brought to the store.
    """
    from samvad.sessions import parked_requests
    from samvad.sessions.parked import waiting

    settings = settings_of(store, data_dir)
    directory = journal_of(settings)
    if not directory.is_dir():
        raise SetupError(f"There is no journal at {directory}; name the server's --data-dir.")
    running = False
    try:
        left, parked = _stopped(directory, _retry(settings, directory))
    except StoreLocked as refusal:
        running = True  # what waits there beside is on its way
        if _found(directory):  # else the server brings everything by itself
            _by_server(directory, parked_requests.Request(), refusal)
        left, parked = len(waiting(directory)), _found(directory)
    for each in parked:
        typer.echo(f"still refused: {_named(each)}, {each.kind}: {printable(each.reason, 300)}")
    typer.echo(f"{left:,} operations are left, {len(parked):,} parked")
    raise typer.Exit(1 if parked or (left and not running) else 0)


async def _retry(settings: Settings, directory: Path) -> tuple[int, list[Parked]]:
    from samvad.runtime import open_samvad
    from samvad.sessions.journaled import JournaledStore

    options = settings.service_options() | {"durability": "auto"}
    url, key = settings.store_url(), settings.master_key
    samvad = open_samvad(url, journal_dir=directory, master_key=key, **options)
    await samvad.open()
    try:
        assert isinstance(samvad.store, JournaledStore)
        left = await samvad.store.drain(_TRY_S_MAX)
    finally:
        await samvad.aclose(0.0)
    return left, _found(directory)


@app.command(cls=PlainCommand)
def drop(
    user: User,
    number: Annotated[
        str | None,
        typer.Option("--number", metavar="NUMBER", help="Which one; left out, the one that is parked."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="FILE", help="Write it there as JSON before, content included."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Give up one operation for good; those behind it go on. Of a running server, only one that is parked.

    It was acknowledged to whoever asked for it: keep it with --keep, and tell them.
    """
    from samvad.sessions import parked_requests

    directory = journal_of(settings_of(store, data_dir))
    wanted = _wanted(directory, UserKey(tenant, user), number)
    if not yes:
        if not sys.stdin.isatty():
            raise SetupError("Dropping cannot be undone; say --yes to do it without being asked.")
        typer.confirm(f"Drop operation {wanted.number} of {printable(user)} for good?", abort=True)
    if keep is not None:
        with private_output(keep) as out:
            out.write(msgspec.json.format(msgspec.json.encode(_plain(_fields(wanted))), indent=2) + b"\n")
    try:
        _stopped(directory, _drop(directory, wanted))
    except StoreLocked as refusal:
        if (wanted.replica, wanted.number) not in {(each.replica, each.number) for each in _found(directory)}:
            raise
        request = parked_requests.Request(*wanted.user, wanted.replica, wanted.number)
        _by_server(directory, request, refusal)
    typer.echo(f"dropped operation {wanted.number} of {printable(user)}")


def _wanted(directory: Path, user: UserKey, number: str | None) -> Waiting:
    mine = _entries_of(directory, user)
    if number is not None:
        chosen = [each for each in mine if str(each.number) == number]
        if not chosen:
            raise NotFound(f"There is no operation {number} of the user {user.user_id!r} in the journal.")
        return chosen[0]
    parked = {(each.replica, each.number) for each in _found(directory)}
    chosen = [each for each in mine if (each.replica, each.number) in parked]
    if not chosen:
        raise NotFound(
            f"No operation of the user {user.user_id!r} is parked; name one of those that wait with --number."
        )
    return chosen[0]


async def _drop(directory: Path, wanted: Waiting) -> None:
    from samvad.sessions.journal import Journal
    from samvad.sessions.parked import save

    journal = Journal(directory, clock=SystemClock())
    await journal.open()
    try:
        journal.forget(wanted.number)
        await journal.settle()
        await journal.scrub()
    finally:
        await journal.close()
    save(directory, _found(directory))


def _by_server(directory: Path, request: Request, refusal: StoreLocked) -> None:
    """Have the server that holds the journal do it; what it refuses the journal with, where it does not answer."""
    from samvad.sessions import parked_requests

    parked_requests.ask(directory, request)
    ends_s = time.monotonic() + _TRY_S_MAX
    while not parked_requests.is_answered(directory):
        if time.monotonic() > ends_s:
            parked_requests.take_back(directory)
            raise refusal
        time.sleep(0.1)


def _stopped(directory: Path, work: Any) -> Any:
    """Run what needs the journal to itself; where a server holds it, say what to do."""
    try:
        return asyncio.run(work)
    except StoreLocked as error:
        holder = error.message.partition("in use by process ")[2].split(";")[0]
        raise StoreLocked(
            f"The journal {directory} is in use by process {holder}: stop that server (kill {holder}) and run this "
            "again."
        ) from None
