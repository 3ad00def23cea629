"""`samvad encryption`: the keys of a store that is encrypted, and what they seal."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import typer

from samvad.auth.audit import noted_by_command
from samvad.cli import flags
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import database_path, settings_of, writing
from samvad.cli.output import progress
from samvad.clock import SystemClock
from samvad.errors import SetupError
from samvad.settings import Settings, load
from samvad.stores.data_key_file import DataKeyFile

app = verbs("Look at the keys of an encrypted store, or wrap them with another master key.")


@contextlib.asynccontextmanager
async def _rings(settings: Settings, *, readonly: bool) -> AsyncIterator[list[tuple[str, Any]]]:
    """The keys of the store and of the journal in front of it, open, each with what it is of."""
    from samvad.stores.data_keys import DataKeys
    from samvad.stores.encrypting import data_keys_of, keys_are_gone, keys_file
    from samvad.stores.journal_seal import keys_path
    from samvad.stores.master_keys import master_keys
    from samvad.stores.urls import store_from_url

    if settings.master_key is None:
        raise SetupError("Encryption is off: give the master key in SAMVAD_MASTER_KEY.")
    masters = master_keys(settings.master_key)
    url = settings.store_url()
    path = database_path(url)
    store: Any = None
    if path is not None:
        if not keys_file(path).exists():
            if path.exists() and await _is_sealed(path):
                raise keys_are_gone(path)
            raise SetupError(f"There are no keys at {keys_file(path)}: nothing is encrypted there yet.")
        rings = [("store", DataKeys(DataKeyFile(keys_file(path), readonly=readonly), masters))]
    else:
        store = store_from_url(url, SystemClock())
        await store.open()
        rings = [("store", DataKeys(data_keys_of(store), masters))]
    beside = keys_path(settings.data_path() / "journal")
    if url.startswith("firestore:") and beside.exists():
        rings.append(("journal", DataKeys(DataKeyFile(beside, readonly=readonly), masters)))
    try:
        for _, ring in rings:
            await ring.open(readonly=readonly)
        yield list(rings)
    finally:
        for _, ring in rings:
            await ring.close()
        if store is not None:
            await store.close()


async def _is_sealed(path: Path) -> bool:
    from samvad.stores.encrypting import looks_sealed
    from samvad.stores.sqlite import SQLiteStore

    store = SQLiteStore(path, readonly=True)
    try:
        await store.open()
        return await looks_sealed(store)
    finally:
        await store.close()


@app.command(cls=PlainCommand)
def status(store: flags.Store = None, data_dir: flags.DataDir = None) -> None:
    """Say how many users have keys, and which master key wraps them. A server may be running."""
    settings = settings_of(store, data_dir)

    async def run() -> None:
        async with _rings(settings, readonly=True) as rings:
            for name, ring in rings:
                count = await ring.count()
                told = (
                    "all of it is sealed" if ring.strict else "what is from before encryption may be in clear"
                )
                first = "with the first master key" if count.newest else "with another master key: rotate"
                typer.echo(f"{name}: {count.entries:,} keys, wrapped {first}; {told}")
                if count.erasing:
                    typer.echo(f"{name}: {count.erasing:,} erasings are under way")
            if told := _of_documents(settings, rings[0][1].documents_strict):
                typer.echo(f"knowledge base: {told}")

    asyncio.run(run())


def _of_documents(settings: Settings, strict: bool | None) -> str:
    """What of the knowledge base is sealed; nothing where there is none."""
    from samvad.knowledge.opening import documents_path

    path = database_path(settings.store_url())
    if strict:
        return "all of it is sealed"
    if strict is None and (path is None or not documents_path(path).exists()):
        return ""
    return "what is from before encryption may be in clear; `samvad encryption seal-knowledge` seals it"


@app.command("seal-knowledge", cls=PlainCommand)
def seal_knowledge(store: flags.Store = None, data_dir: flags.DataDir = None) -> None:
    """Seal the documents that are from before encryption was on. No server may be writing documents meanwhile.

    Stopped at any moment and run again, it goes on. Vectors of the documents that are sealed are made anew.
    """
    settings = settings_of(store, data_dir)
    if settings.master_key is None:
        raise SetupError("Encryption is off: give the master key in SAMVAD_MASTER_KEY.")

    async def work(samvad: Any) -> tuple[int, int]:
        from samvad.cli.carry.reading import keys_of
        from samvad.knowledge.carrying import scopes_of

        shelf = samvad.knowledge.core.shelf
        await shelf.open()
        await shelf.engine.start()  # which removes an index in clear
        users = [key async for keys in keys_of(samvad.store) for key in keys]
        with progress("sealing", None) as show:
            sealed: tuple[int, int] = await shelf.store.seal_plain(scopes_of(users), show)
        return sealed

    done, there = writing(settings, work, instead="stop it first.")
    typer.echo(f"knowledge base: {done:,} documents sealed, {there:,} were already")
    noted_by_command(settings.data_path(), SystemClock(), "encryption seal-knowledge")


@app.command(cls=PlainCommand)
def rotate(store: flags.Store = None, data_dir: flags.DataDir = None) -> None:
    """Wrap all keys with the first master key, after which the others are of no use. Servers may be running."""
    settings = settings_of(store, data_dir)

    async def run() -> None:
        async with _rings(settings, readonly=False) as rings:
            for name, ring in rings:
                done = await ring.rewrap()
                typer.echo(f"{name}: {done.moved:,} keys wrapped anew, {done.there:,} were already")

    asyncio.run(run())
    noted_by_command(settings.data_path(), SystemClock(), "encryption rotate")


@app.command("accept-loss", cls=PlainCommand)
def accept_loss(store: flags.Store = None, data_dir: flags.DataDir = None) -> None:
    """Go on though keys are lost, where the newest copy of the key file cannot be found. No server may be running.

    What they sealed in the database stays as it is, unreadable; what waits in the journal is set aside.
    """
    from samvad.stores.encrypting import keys_file

    settings = load({"store": store, "data_dir": data_dir})
    if settings.master_key is None:
        raise SetupError("Encryption is off: give the master key in SAMVAD_MASTER_KEY.")
    database = database_path(settings.store_url())
    journal = settings.data_path() / "journal"
    if database is not None:
        if not keys_file(database).exists() or not database.exists():
            raise SetupError(f"There are no keys at {keys_file(database)}: bring a copy of them back first.")
        told = asyncio.run(_accept_in(database))
    elif journal.is_dir():
        told = asyncio.run(_set_aside(journal, settings.master_key))
    else:
        raise SetupError(f"There is no journal at {journal}: nothing waits there.")
    typer.echo(told)
    noted_by_command(settings.data_path(), SystemClock(), "encryption accept-loss")


async def _accept_in(database: Path) -> str:
    from samvad.stores.encrypting import keys_file
    from samvad.stores.older_keys import count_missing
    from samvad.stores.sqlite import SQLiteStore

    keys, inner = DataKeyFile(keys_file(database)), SQLiteStore(database, clock=SystemClock())
    await inner.open()  # no server has it open
    try:
        await keys.open()
        missing, _ = await count_missing(inner, keys)
        await keys.accept()
    finally:
        await keys.close()
        await inner.close()
    return f"store: the keys of {missing:,} users are taken for lost; what they sealed stays, unreadable"


async def _set_aside(directory: Path, master_key: str) -> str:
    from samvad.sessions.journal import Journal
    from samvad.stores.journal_seal import JournalSeal, keys_path
    from samvad.stores.master_keys import master_keys

    seal = JournalSeal(directory, master_keys(master_key), gives_up=True)
    await seal.open()
    journal = Journal(directory, decode=seal.decode)
    try:
        replay = await journal.open()
        await journal.close()
    finally:
        await seal.close()
    if done := sum(not damage.torn for damage in replay.damages):
        return f"journal: {done:,} operations set aside in {directory / 'damaged'}"
    return f"journal: {keys_path(directory)} holds the keys of all that waits; nothing was set aside"
