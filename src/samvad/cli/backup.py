"""`samvad backup`: everything in one portable file, with a checksum over each user and over the whole."""

from __future__ import annotations

import asyncio
import sys
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any, Final

import typer

from samvad.cli import flags
from samvad.cli.carry import lines
from samvad.cli.carry.files import BackupWriter
from samvad.cli.carry.kinds import KINDS, read_erasures
from samvad.cli.carry.lines import DoneLine, EndLine
from samvad.cli.carry.opening import opened
from samvad.cli.carry.reading import Moved, keys_of, user_lines
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import settings_of
from samvad.cli.output import private_output, progress
from samvad.records import UserKey
from samvad.stores.encrypting import has_keys, is_strict

_SPOOL_BYTES: Final = 4 * 1024 * 1024
_USERS_AHEAD: Final = 16

app = verbs()


@app.command(cls=PlainCommand)
def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it; - is standard output.")],
    only_erasures: Annotated[
        bool,
        typer.Option("--only-erasures", help="Only what is left of erased users: for `restore --erased`."),
    ] = False,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Write everything to one file that `samvad restore` takes, into any store. A server may be running.

    Each user is of one moment. FILE is there under its name once it is complete, for its owner only.
    """
    settings = settings_of(store, data_dir)

    async def run(out: IO[bytes]) -> tuple[DoneLine, bool]:
        async with opened(settings.store_url(), settings, existing=True, readonly=True) as source:
            done = await write(source, out, only_erasures=only_erasures)
            return done, not only_erasures and await has_keys(source) and not await is_strict(source)

    waiting = _waiting(settings)
    with private_output(None if file == "-" else file) as out:
        done, in_clear = asyncio.run(run(out))
    if in_clear:
        print(
            "samvad: what is from before encryption may stand in this backup in clear; `samvad migrate --new-keys` "
            "to another database seals all of it.",
            file=sys.stderr,
        )
    if waiting:
        print(
            f"samvad: {waiting:,} operations wait in the journal and are not in Firestore, nor in this backup yet.",
            file=sys.stderr,
        )
    counts = f"{done.users:,} users, {done.sessions:,} sessions, {done.messages:,} messages"
    more = [f"{getattr(done, kind.name):,} {kind.name}" for kind in KINDS]
    typer.echo(f"backed up {counts}, {', '.join(more)}, {done.erasures:,} erasures", err=True)


def _waiting(settings: Any) -> int:
    """How many operations a server of this data directory has not brought to Firestore yet."""
    directory = settings.data_path() / "journal"
    if not settings.store_url().startswith("firestore:") or not directory.is_dir():
        return 0
    from samvad.sessions.parked import waiting

    return len(waiting(directory))


async def write(source: Any, out: IO[bytes], *, only_erasures: bool = False) -> DoneLine:
    """Everything of an open store as a backup; returns its last line."""
    sealed = await has_keys(source)
    writer = BackupWriter(out, source.name, only_erasures=only_erasures, sealed=sealed)
    if not only_erasures:
        stats = await source.stats("default", active_after_ms=1 << 62, open_after_ms=1 << 62)
        with progress("backing up", stats.total_users or None) as tell:
            async for keys in keys_of(source):
                for start in range(0, len(keys), _USERS_AHEAD):
                    some = keys[start : start + _USERS_AHEAD]
                    for gathered in await asyncio.gather(*(_gathered(source, key) for key in some)):
                        _take(writer, gathered)
                    tell(writer.totals.users)
        for kind in KINDS:
            async for line in kind.read(source):
                writer.write(line)
    async for erasures in read_erasures(source):  # last: whoever was erased meanwhile is in them
        writer.write(erasures)
    return writer.finish()


async def _gathered(source: Any, key: UserKey) -> tuple[Any, EndLine | None]:
    """A user's lines but for the last, in a file that is in memory while it is small; and the last one."""
    while True:
        spool, end = await _gathered_once(source, key)
        if spool is not None:
            return spool, end


async def _gathered_once(source: Any, key: UserKey) -> tuple[Any, EndLine | None]:
    """As `_gathered`; None where the history was trimmed meanwhile."""
    spool = SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 (closed by _take)
    end: EndLine | None = None
    try:
        async for line in user_lines(source, key):
            if isinstance(line, EndLine):
                end = line
            else:
                spool.write(lines.encode(line) + b"\n")
    except Moved:
        spool.close()
        return None, None
    return spool, end


def _take(writer: BackupWriter, gathered: tuple[Any, EndLine | None]) -> None:
    """Write a user whole, or, where they were erased meanwhile, not at all."""
    spool, end = gathered
    with spool:
        if end is None:
            return
        spool.seek(0)
        while piece := spool.read(1024 * 1024):
            writer.write_bytes(piece)
    writer.write(end)
