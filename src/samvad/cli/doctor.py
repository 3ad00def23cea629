"""`samvad doctor`: what could go wrong here, and what to do about it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import apsw
import msgspec
import typer

from samvad.cli import checks, flags
from samvad.cli.checks import Finding
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import database_path, open_journal
from samvad.cli.output import printable
from samvad.env_file import read_env_file
from samvad.errors import SetupError
from samvad.settings import Settings, given, load, unknown_names
from samvad.stores.sqlite import APPLICATION_ID, _migrations
from samvad.stores.sqlite_rescue import rescued_path

_COLOURS: Final = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}

_FIRST: Final = "Nothing starts before this is put right."
_DAMAGED: Final = "Stop the server, keep a copy of the database and its -wal file, and restore a backup."

app = verbs()


@app.command(cls=PlainCommand)
def doctor(
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
    host: flags.Host = None,
    auth: flags.Auth = None,
    durability: flags.Durability = None,
    insecure: flags.Insecure = None,
    log_level: flags.LogLevel = None,
    production: Annotated[
        bool,
        typer.Option(
            "--production",
            help="Fail also for what is only a risk where others depend on it, and for what is unsafe on the internet.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Look for what could go wrong, and say what to do. A server may be running.

    Exits with 0 if nothing fails, with 1 if something does. The flags are those with which the server is run.
    """
    given_flags = {name: value for name, value in locals().items() if name not in ("production", "json")}
    counts, told = {"ok": 0, "warn": 0, "fail": 0}, []
    for finding in _findings(given_flags, production=production):
        if production and finding.risky:
            finding = finding._replace(level="fail")
        counts[finding.level] += 1
        if json:
            told.append({name: getattr(finding, name) for name in ("level", "subject", "found", "todo")})
        else:
            _tell(finding)
    if json:
        names = {"ok": counts["ok"], "warnings": counts["warn"], "failures": counts["fail"]}
        typer.echo(msgspec.json.format(msgspec.json.encode({**names, "findings": told})).decode())
    else:
        typer.echo(f"\n{counts['ok']} ok, {counts['warn']} warnings, {counts['fail']} failures")
    raise typer.Exit(1 if counts["fail"] else 0)


def _tell(finding: Finding) -> None:
    level = typer.style(f"{finding.level:<4}", fg=_COLOURS[finding.level])
    typer.echo(f"{level}  {finding.subject:<15} {printable(finding.found)}")
    if finding.todo:
        typer.echo(f"      {'':<15} {printable(finding.todo)}")
    sys.stdout.flush()


def _findings(given_flags: dict[str, Any], *, production: bool) -> Iterator[Finding]:
    yield from checks.software()
    yield checks.sqlite_version(apsw.sqlite_lib_version())
    try:
        file = read_env_file()
        unknown = unknown_names(os.environ, file)
        if unknown:
            for sentence in unknown:
                yield Finding("fail", "setting", sentence, _FIRST)
            return
        found = given(given_flags, environ=os.environ, file=file)
        settings = load(given_flags)
        url = settings.store_url()
    except SetupError as error:
        yield Finding("fail", "settings", error.message, _FIRST)
        return
    yield Finding("ok", "settings", f"{len(found)} given, the others have their defaults")
    yield from checks.unused(found, settings)
    yield from checks.exposure(settings)
    yield from _store(url, settings)
    if production:
        from samvad.cli import production as unsafe
        from samvad.cli import production_files

        yield from unsafe.findings(settings, found)
        yield from production_files.findings(settings)


def _store(url: str, settings: Settings) -> Iterator[Finding]:
    path = database_path(url)
    if path is None:
        if url.startswith("firestore:"):
            yield checks.clock(None)
            yield from _firestore(url, settings)
        elif url.startswith("memory:"):
            yield checks.clock(None)
        else:
            yield from _refused(url)
        yield from checks.directory(settings.data_path())
        return
    newest = path.stat().st_mtime if path.exists() else None
    yield checks.clock(newest)
    yield from checks.directory(path.parent)
    if path.is_dir():
        yield from _refused(url)
    elif (rescued := rescued_path(path)).exists():
        todo = (
            f"No server starts beside it: put {path.name}, its -wal and its -shm aside and rename it to {path.name}, "
            "or move it away."
        )
        yield Finding("fail", "database", f"{rescued} holds what was saved of one that was taken away", todo)
    elif path.exists():
        yield checks.holder(path)
        yield from _database(path)
        yield from checks.keys(path)
    elif path.parent.exists():
        yield Finding("ok", "database", f"{path}, not there yet: the first start makes it")


def _firestore(url: str, settings: Settings) -> Iterator[Finding]:
    from samvad.cli import firestore_checks
    from samvad.stores.urls import firestore_place

    try:
        project, database = firestore_place(url)
        place = firestore_checks.Place(
            project,
            database or firestore_checks.DEFAULT_DATABASE,
            os.environ.get("FIRESTORE_EMULATOR_HOST") or None,
            settings.location or "",
        )
        yield from firestore_checks.findings(place)
        if settings.durability == "auto":
            open_journal(settings)
            yield from checks.journal(settings.data_path() / "journal")
    except SetupError as error:
        yield Finding("fail", "store", error.message, _FIRST)
    except ModuleNotFoundError as missing:
        todo = "pip install 'samvad-sessions[firestore]'"
        yield Finding("fail", "store", f"Firestore needs more packages ({missing.name} is missing)", todo)


def _refused(url: str) -> Iterator[Finding]:
    from samvad.clock import SystemClock
    from samvad.stores.urls import store_from_url

    try:
        store_from_url(url, SystemClock())
    except SetupError as error:
        yield Finding("fail", "store", error.message, _FIRST)


def _database(path: Path) -> Iterator[Finding]:
    """Whether a database is whole, and of which schema."""
    newest_schema = len(_migrations())
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.Error as error:
        yield Finding(
            "fail", "database", f"{path}: {error}", "Give this user the right to read and write it."
        )
        return
    try:
        connection.set_busy_timeout(5_000)
        connection.pragma("query_only", True)
        application_id, schema = connection.pragma("application_id"), connection.pragma("user_version")
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
        if tables and application_id != APPLICATION_ID:
            todo = "Choose another --store: this one is not Samvad's."
            yield Finding("fail", "database", f"{path} is of another program", todo)
            return
        size = path.stat().st_size
        yield Finding("ok", "database", f"{path}, {size / 1024**2:,.1f} MiB")
        if schema > newest_schema:
            yield Finding("fail", "schema", f"{schema}, newer than {newest_schema}", "Update this Samvad.")
        elif schema < newest_schema:
            yield Finding("ok", "schema", f"{schema}; the next start brings it to {newest_schema}")
        else:
            yield Finding("ok", "schema", f"{schema}, current")
        started = time.perf_counter()
        problems = [str(row[0]) for row in connection.execute("PRAGMA quick_check(10)")]
        took = f"{time.perf_counter() - started:.1f} s"
        if problems == ["ok"]:
            yield Finding("ok", "integrity", f"quick_check passed, {took}")
        else:
            yield Finding("fail", "integrity", problems[0].replace("\n", " "), _DAMAGED)
    except apsw.NotADBError:
        yield Finding("fail", "database", f"{path} is not a SQLite database", "Choose another --store.")
    except (apsw.CantOpenError, apsw.ReadOnlyError) as error:
        todo = "Run this as the server's user. Where the disk is read-only, copy it and its -wal file to another."
        yield Finding("fail", "database", f"{path}: {error}", todo)
    except apsw.Error as error:
        kind = type(error).__name__.removesuffix("Error")
        yield Finding("fail", "integrity", f"{path}: {kind}: {error}", _DAMAGED)
    finally:
        connection.close()
