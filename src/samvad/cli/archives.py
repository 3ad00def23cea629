"""`samvad user export --archive` and `samvad user import`: everything known of one user, as one ZIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from samvad.archive.form import Counts
from samvad.auth.audit import noted_by_command
from samvad.cli.opening import database_path, reading
from samvad.cli.output import printable, private_output
from samvad.clock import SystemClock
from samvad.errors import SetupError
from samvad.records import UserKey
from samvad.sessions.validation import check_id
from samvad.settings import Settings

_IN_MEMORY = (
    "interruptions that a running server holds in memory and does not record: GET /api/session/USER/export of that "
    "server has them"
)


def export_archive(settings: Settings, user: UserKey, target: str) -> None:
    """Write the archive of a user to a private file, whole or not at all."""
    if target == "-":
        raise SetupError("An archive goes into a file of its own, not to standard output.")
    check_id(user.user_id, "The user's id")
    data_dir = settings.data_path()

    async def work(samvad: Any) -> Counts:
        from samvad.archive.making import UserArchive

        samvad.data_dir = data_dir
        archive = UserArchive(samvad, user, missing=_missing(data_dir, settings, user))
        await archive.begin()
        with private_output(target) as out:
            async for piece in archive.pieces():
                out.write(piece)
        return archive.counts

    counts = reading(settings, work)
    noted_by_command(data_dir, SystemClock(), "user export", [("user", *user)])
    typer.echo(f"wrote {told(counts)} of {printable(user.user_id)} to {target}")


def told(counts: Counts) -> str:
    """How much an archive holds, in words."""
    return (
        f"{counts.messages:,} messages, {counts.sessions:,} sessions, {counts.interruptions:,} interruptions and "
        f"{counts.documents:,} documents"
    )


def _missing(data_dir: Path, settings: Settings, user: UserKey) -> list[str]:
    """What cannot be seen from here: memory of a server that runs, and what waits in a journal for the store."""
    database = database_path(settings.store_url())
    if database is not None:
        from samvad.cli.checks import held_by

        try:
            return [] if held_by(database.resolve()) is None else [_IN_MEMORY]
        except OSError:  # not known
            return [_IN_MEMORY]
    return [_IN_MEMORY, *_waiting(data_dir / "journal", user)]


def _waiting(directory: Path, user: UserKey) -> list[str]:
    if not directory.is_dir():
        return []
    from samvad.sessions.parked import waiting

    count = sum(each.user == user for each in waiting(directory))
    return [f"{count:,} operations that wait in the server's journal for Firestore"] if count else []
