"""`samvad export`: the whole store as lines of JSON, in a file that goes on where it was cut off."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any, Final

import msgspec
import typer

from samvad import __version__
from samvad.cli import flags
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import reading, settings_of
from samvad.cli.output import is_special, open_private, private_output, progress
from samvad.cli.portable import VERSION, lines_of
from samvad.clock import SystemClock, rfc3339
from samvad.errors import SetupError
from samvad.records import UserKey
from samvad.types import DEFAULT_TENANT

USERS_PER_PAGE: Final = 1_000
_BEGIN: Final = b'{"type":"samvad",'
_SPOOL_BYTES: Final = 8 * 1024 * 1024

app = verbs()


class Totals(msgspec.Struct):
    """How much an export holds."""

    users: int = 0
    sessions: int = 0
    messages: int = 0


@app.command(cls=PlainCommand)
def export(
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE.jsonl", help="Write there, not to standard output."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an export that was cut off.")] = False,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Write all of a tenant as lines of JSON, user by user. A server may be running.

    A user is written as of the moment their turn comes. FILE.jsonl is there once it is complete; until
    then the lines are in FILE.jsonl.part, with which --resume goes on. `samvad import` takes it all in.
    """
    settings = settings_of(store, data_dir)
    if output is None or output == "-" or is_special(Path(output)):
        if resume:
            raise SetupError("--resume needs the file to go on with: name it with --output.")
        with private_output(output) as out:
            totals = reading(settings, lambda samvad: _export(samvad, out, "", Totals()), tenant=tenant)
    else:
        totals = _to_file(Path(output), resume, settings, tenant)
    counts = f"{totals.users:,} users, {totals.sessions:,} sessions, {totals.messages:,} messages"
    typer.echo(f"exported {counts}", err=True)


def _to_file(target: Path, resume: bool, settings: Any, tenant: str) -> Totals:
    part = target.with_name(target.name + ".part")
    if part.exists() and not resume:
        raise SetupError(f"{part} is there from an export that was cut off; add --resume, or delete it.")
    after, totals, end = ("", Totals(), 0)
    if resume and part.exists():
        after, totals, end = _complete_part(part, tenant)
        if totals.users:
            typer.echo(f"going on after {totals.users:,} users", err=True)
    with open_private(part, keep=True) as out:
        out.truncate(end)
        out.seek(end)
        try:
            totals = reading(settings, lambda samvad: _export(samvad, out, after, totals), tenant=tenant)
            out.flush()
            os.fsync(out.fileno())
        except SetupError:
            if out.tell() == 0:
                part.unlink(missing_ok=True)  # nothing was begun
            raise
    part.replace(target)
    return totals


async def _export(samvad: Any, out: IO[bytes], after: str, totals: Totals) -> Totals:
    """Write all users behind `after`; `totals` is what the file holds already."""
    store, tenant = samvad.store, samvad.principal.tenant
    if not after:
        now = rfc3339(SystemClock().now_ms())
        begin = {"type": "samvad", "version": VERSION, "exportedAt": now, "by": __version__}
        _write(out, begin if tenant == DEFAULT_TENANT else begin | {"tenant": tenant})
    total_users = (await samvad.count()).total_users
    with progress("exporting", total_users) as tell:
        while users := await samvad.list_users(after=after, limit=USERS_PER_PAGE):
            for user_id in users:
                await _export_user(store, UserKey(tenant, user_id), out, totals)
                tell(totals.users)
            after = users[-1]
    _write(out, {"type": "done", **msgspec.to_builtins(totals)})
    return totals


async def _export_user(store: Any, user: UserKey, out: IO[bytes], totals: Totals) -> None:
    """Write a user's lines all together, and not at all if the user was erased meanwhile."""
    sessions = messages = 0
    line = b""
    with SpooledTemporaryFile(_SPOOL_BYTES) as gathered:
        async for line, some_sessions, some_messages in lines_of(store, user):
            gathered.write(line)
            sessions += some_sessions
            messages += some_messages
        if not line.startswith(b'{"type":"end",'):
            return
        gathered.seek(0)
        while piece := gathered.read(1024 * 1024):
            out.write(piece)
    totals.users += 1
    totals.sessions += sessions
    totals.messages += messages


def _write(out: IO[bytes], fields: dict[str, Any]) -> None:
    out.write(msgspec.json.encode(fields) + b"\n")


def _complete_part(part: Path, tenant: str) -> tuple[str, Totals, int]:
    """What an export that was cut off holds: its last complete user, the totals, and the offset behind them."""
    after, totals, end = "", Totals(), 0
    offset = 0
    with part.open("rb") as lines:
        for line in lines:
            offset += len(line)
            if offset == len(line) and not line.startswith(_BEGIN) and not _BEGIN.startswith(line):
                raise SetupError(f"{part} is not an export of Samvad; delete it, or choose another --output.")
            if offset == len(line) and line.endswith(b"\n") and _tenant_of(line) != tenant:
                raise SetupError(f"{part} is of the tenant {_tenant_of(line)!r}: name it with --tenant.")
            if not line.endswith(b"\n") or not line.startswith(b'{"type":"end",'):
                continue
            try:
                fields = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                break
            after = fields["userId"]
            totals.users += 1
            totals.sessions += fields["sessions"]
            totals.messages += fields["messages"]
            end = offset
    return after, totals, end


def _tenant_of(begin: bytes) -> str:
    """Whose users follow on an export's first line."""
    try:
        return str(msgspec.json.decode(begin).get("tenant", DEFAULT_TENANT))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return DEFAULT_TENANT
