"""`samvad user export --archive` and `verify-archive`: everything known of one user, as one ZIP, and who made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from samvad.archive.form import Counts
from samvad.auth.audit import noted_by_command
from samvad.cli.opening import database_path, reading
from samvad.cli.output import printable, private_output
from samvad.clock import SystemClock
from samvad.errors import InvalidRequest, SetupError
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
        from samvad.auth.erasure_receipts import ErasureSigner

        samvad.data_dir = data_dir
        missing = _missing(data_dir, settings, user)
        archive = UserArchive(samvad, user, missing=missing, signer=ErasureSigner(data_dir))
        await archive.begin()
        with private_output(target) as out:
            async for piece in archive.pieces():
                out.write(piece)
        return archive.counts

    counts = reading(settings, work)
    noted_by_command(data_dir, SystemClock(), "user export", [("user", *user)])
    typer.echo(f"wrote {told(counts)} of {printable(user.user_id)} to {target}")


def verify_archive(settings: Settings, file: str, *, public_key: str | None, required: bool) -> None:
    """Look through an archive and say whose it is and who signed it. InvalidRequest where it is not as it was made."""
    from samvad.archive.checking import checked_archive

    try:
        with checked_archive(Path(file), then=".") as archive:
            manifest = archive.manifest
            signed = signer_in_words(archive.signed_by, settings.data_path(), public_key, required=required)
    except SetupError as refused:
        raise InvalidRequest(refused.message) from None
    typer.echo(
        f"{told(manifest.counts)} of {printable(manifest.user_id)}, exported at {manifest.exported_at}"
    )
    if not manifest.complete:
        typer.echo(f"not in it: {printable('; '.join(manifest.missing))}")
    typer.echo("each file has the checksum that is in the manifest")
    typer.echo(signed)


def signer_in_words(
    signed_by: str | None, data_dir: Path, public_key: str | None, *, required: bool, then: str = "."
) -> str:
    """Who signed an archive. SetupError, ending with `then`, where it must be signed and is not by who must have.

    That is `public_key`, or, where a signature is `required` and no key is named, the key of the data directory.
    """
    from samvad.auth.erasure_receipts import key_of

    own = key_of(data_dir)
    wanted = public_key if public_key is not None else own
    if required or public_key is not None:
        if signed_by is None:
            raise SetupError(f"The archive is not signed{then}")
        if signed_by != wanted:
            raise SetupError(
                f"The archive is signed with the key {signed_by}, and not with "
                + (
                    "that key"
                    if public_key is not None
                    else "the one of this server: name it with --public-key"
                )
                + then
            )
    if signed_by is None:
        return "not signed: whoever had the file may have altered it, with its checksums"
    if signed_by == own:
        return f"signed by this server, with the key {signed_by}"
    if signed_by == public_key:
        return f"signed with the key {signed_by}"
    return f"signed with the key {signed_by}: is that the key of who should have made it?"


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
