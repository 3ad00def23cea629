"""`samvad audit verify|show`: who did what to whom, and whether the log of it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samvad.cli import flags
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import settings_of
from samvad.cli.output import printable
from samvad.errors import SetupError

app = verbs("Check the audit log, or look for what was done to one user.")


def _place(data_dir: str | None) -> tuple[Path, bytes]:
    from samvad.auth.audit import DIRECTORY, KEY_FILE
    from samvad.auth.secret_file import load_key

    path = settings_of(None, data_dir).data_path()
    if not (path / DIRECTORY).is_dir():
        raise SetupError(f"There is no audit log in {path}; name the server's --data-dir.")
    if not (path / KEY_FILE).exists():
        raise SetupError(
            f"The key of the audit log, {path / KEY_FILE}, is not there: put it back; without it the entries in "
            f"{path / DIRECTORY} can be read, and not checked."
        )
    return path / DIRECTORY, load_key(path / KEY_FILE, "the key of the audit log")


@app.command(cls=PlainCommand)
def verify(
    head: Annotated[
        str | None,
        typer.Option(
            "--head", metavar="NUMBER:MAC", help="What an earlier check has printed: it must still be there."
        ),
    ] = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Check that no entry was changed, removed, inserted or moved. A server may be running.

    Keep the head that it prints elsewhere: with it the next check finds also what was cut off at the end.
    """
    from samvad.auth import audit

    directory, key = _place(data_dir)
    found = audit.verify(directory, key)
    for each in found.broken[:20]:
        typer.echo(f"{each.file}, line {each.line}: {each.why}")
    missing = False
    if head is not None:
        number, _, mac = head.partition(":")
        missing = not any(str(each.n) == number and each.mac == mac for each in audit.entries(directory))
        if missing:
            typer.echo(f"entry {printable(number)} of the head that was given is not there any more")
    if found.broken or missing:
        typer.echo(f"the log does not hold: {len(found.broken):,} faults")
        raise typer.Exit(1)
    if found.torn:
        typer.echo("half an entry at the end, left by a crash or being written: it was never whole")
    count = found.head.n - found.first + 1 if found.first else 0
    typer.echo(f"{count:,} entries, each as it was written")
    typer.echo(f"head {found.head.n}:{found.head.mac}")


@app.command(cls=PlainCommand)
def show(
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Only what concerns this user.")
    ] = None,
    tenant: Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Whose user it is.")] = "default",
    data_dir: flags.DataDir = None,
) -> None:
    """Print the entries, a line each: when, who, what, how it was answered, and to whom. A server may be running."""
    from samvad.auth import audit

    directory, key = _place(data_dir)
    wanted = None if user is None else audit.whom(key, "user", tenant, user)
    for each in audit.entries(directory):
        if wanted is None or wanted in each.whom or each.who.endswith(wanted):
            status = f"{each.status}" if each.count == 1 else f"{each.status} ×{each.count}"
            concerned = " ".join(each.whom)
            typer.echo(
                printable(f"{each.n} {each.at} {each.tenant} {each.who} {each.did} {status} {concerned}", 500)
            )
