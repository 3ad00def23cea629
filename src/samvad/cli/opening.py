"""The store of the settings, opened for a command that is not the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from samvad.errors import SetupError, StoreLocked
from samvad.settings import Settings, load

T = TypeVar("T")


def settings_of(store: str | None, data_dir: str | None) -> Settings:
    """The settings with these two flags."""
    return load({"store": store, "data_dir": data_dir})


def database_path(url: str) -> Path | None:
    """The file of a SQLite store; None for any other engine."""
    if not url.startswith("sqlite:///"):
        return None
    return Path(unquote(url.removeprefix("sqlite:///"))).expanduser()


def reading(settings: Settings, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run `work(samvad)` on the store, opened for looking only: a server may be running on it."""
    return asyncio.run(_with_samvad(settings, work, readonly=True))


def writing(settings: Settings, work: Callable[[Any], Coroutine[Any, Any, T]], *, instead: str = "") -> T:
    """Run `work(samvad)` on the store, opened for writing; `instead` says what to do where a server holds it."""
    try:
        return asyncio.run(_with_samvad(settings, work, readonly=False))
    except StoreLocked as error:
        raise StoreLocked(
            f"{error.message.split(';')[0]}; {instead}" if instead else None or error.message
        ) from None


async def _with_samvad(
    settings: Settings, work: Callable[[Any], Coroutine[Any, Any, T]], *, readonly: bool
) -> T:
    from samvad.runtime import open_samvad

    url = settings.store_url()
    if url.startswith("memory:"):
        raise SetupError("A memory store lives in its server alone; name a database with --store.")
    path = database_path(url)
    if readonly and path is not None and not path.exists():
        raise SetupError(f"There is no database at {path}; name it with --store or --data-dir.")
    options = settings.service_options() | {"durability": "auto"}
    if path is not None:
        options["readonly"] = readonly
    async with open_samvad(url, **options) as samvad:
        return await work(samvad)
