"""Stores that are carried from or to: opened so that no server of this machine is at work on them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from samvad.cli.opening import database_path
from samvad.clock import SystemClock
from samvad.errors import SetupError, StoreLocked
from samvad.settings import Settings
from samvad.stores.carrying import Carrying
from samvad.stores.urls import store_from_url

_log = logging.getLogger(__name__)


def quiet_journal(settings: Settings) -> None:
    """SetupError where the journal of this data directory is in use, or holds what is not in Firestore yet."""
    from samvad.sessions.journal_place import DirectoryLock
    from samvad.sessions.parked import waiting

    directory = settings.data_path() / "journal"
    if not directory.is_dir():
        return
    try:
        lock = DirectoryLock(directory)
    except StoreLocked as error:
        raise StoreLocked(f"{error.message.partition(';')[0]}; stop that server first.") from None
    except OSError as error:
        raise SetupError(f"Cannot look at the journal {directory}: {error.strerror}.") from error
    try:
        entries = len(waiting(directory))
    finally:
        lock.release()
    if entries:
        raise SetupError(
            f"{entries} operations wait in the journal {directory} and are not in Firestore yet: bring them there "
            "with `samvad parked retry`."
        )


@contextlib.asynccontextmanager
async def opened(
    url: str, settings: Settings, *, existing: bool = False, readonly: bool = False
) -> AsyncIterator[Any]:
    """The store of a URL, to itself where the engine can tell (SQLite's lock); `existing`: it must be there already.

    SetupError for a memory store, which lives in its server alone, and for one that is in use.
    """
    if url.startswith("memory:"):
        raise SetupError(
            "A memory store lives in its server alone; name sqlite:///PATH or firestore://PROJECT."
        )
    path = database_path(url)
    if existing and path is not None and not path.exists():
        raise SetupError(f"There is no database at {path}.")
    if url.startswith("firestore:") and not readonly:
        quiet_journal(settings)
    options = {"readonly": True} if readonly and path is not None else {}
    store: Any = store_from_url(url, SystemClock(), **options)
    offers: object = store
    if not isinstance(offers, Carrying):
        raise SetupError(f"The store {url} does not offer what it takes to be carried (see stores/carrying).")
    try:
        await store.open()
    except StoreLocked as error:
        raise StoreLocked(f"{error.message.partition(';')[0]}; stop that server first.") from None
    store.master_key = settings.master_key  # for what comes in unsealed (see carry/documents)
    try:
        yield store
    finally:
        await store.close()


def same_place(one: str, other: str) -> bool:
    """Whether two URLs name the same database."""
    paths = [database_path(one), database_path(other)]
    if all(paths):
        resolved = {path.resolve() for path in paths if path is not None}
        return len(resolved) == 1
    return one.rstrip("/") == other.rstrip("/")


async def at_most(limit: int, jobs: AsyncIterator[Callable[[], Awaitable[None]]]) -> None:
    """Run jobs as they come, at most so many at once; the first error ends it."""
    import asyncio

    slots = asyncio.Semaphore(limit)

    async def run(job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        async for job in jobs:
            await slots.acquire()
            group.create_task(run(job))
