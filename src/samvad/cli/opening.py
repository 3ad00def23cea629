"""The store of the settings, opened for a command that is not the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from samvad.errors import SetupError, StoreLocked
from samvad.settings import Settings, load
from samvad.types import DEFAULT_TENANT, trusted

T = TypeVar("T")


def settings_of(store: str | None, data_dir: str | None) -> Settings:
    """The settings with these two flags; an encrypted journal in the data directory can be read from now on."""
    settings = load({"store": store, "data_dir": data_dir})
    # A store that does not answer is how a command ends, in one line; a server goes on, and has it in its log.
    logging.getLogger("samvad.stores.firestore").setLevel(logging.ERROR)
    open_journal(settings)
    return settings


def database_path(url: str) -> Path | None:
    """The file of a SQLite store; None for any other engine."""
    if not url.startswith("sqlite:///"):
        return None
    return Path(unquote(url.removeprefix("sqlite:///"))).expanduser()


LOG_KEY_FILE = "logs.key"


def log_key(settings: Settings, *, make: bool = True) -> bytes:
    """The key under which users' ids are hashed in logs and traces: of the settings, or of the data directory.

    SetupError where it cannot be had; without `make`, where there is none yet.
    """
    from samvad.auth.secret_file import derived, load_key

    if settings.log_secret is not None:
        return derived(settings.log_secret, "logs")
    in_memory = settings.store_url().startswith("memory:")
    path = None if in_memory else settings.data_path() / LOG_KEY_FILE
    if not make and (path is None or not path.exists()):
        raise SetupError(
            f"There is no {LOG_KEY_FILE} in {settings.data_path()}; name the server's --data-dir. "
            "It is made when the log first names a user."
        )
    return load_key(path, "the key of the logs")


def embedder_of(settings: Settings) -> Any:
    """The embedder of the settings, None where there is none; nothing is imported for that."""
    if settings.embedding_provider == "none":
        return None
    from samvad.knowledge.embedders import EmbedderOptions, make_embedder

    return make_embedder(
        EmbedderOptions(
            provider=settings.embedding_provider,
            model=settings.embedding_model,
            dimensions=settings.embedding_dimensions or None,
            languages=settings.embedding_languages,
            base_url=settings.embedding_base_url or settings.openai_base_url,
            api_key=settings.embedding_api_key
            or (settings.openai_api_key if settings.embedding_provider == "openai" else None),
            query_prefix=settings.embedding_query_prefix,
            document_prefix=settings.embedding_document_prefix,
            project_id=settings.project_id,
            location=settings.location,
        )
    )


def open_journal(settings: Settings) -> None:
    """From now on an encrypted journal in the data directory can be read. SetupError where its keys cannot be."""
    from samvad.stores.journal_seal import JournalSeal, keys_path

    directory = settings.data_path() / "journal"
    if settings.master_key is None or not keys_path(directory).exists():
        return
    from samvad.sessions.parked import opened_by
    from samvad.stores.master_keys import master_keys

    masters = master_keys(settings.master_key)

    def read_keys() -> JournalSeal:
        seal = JournalSeal(directory, masters, readonly=True)

        async def run() -> None:
            await seal.open()
            await seal.close()

        with ThreadPoolExecutor(1) as beside:  # an event loop may be running here
            beside.submit(asyncio.run, run()).result()
        return seal

    seal = read_keys()

    def decode(written: bytes) -> bytes:
        nonlocal seal
        try:
            return seal.decode(written)
        except SetupError:  # a running server may have made another key meanwhile
            seal = read_keys()
            return seal.decode(written)

    opened_by(directory, decode)


def reading(
    settings: Settings, work: Callable[[Any], Coroutine[Any, Any, T]], *, tenant: str = DEFAULT_TENANT
) -> T:
    """Run `work(samvad)` on the store, opened for looking only: a server may be running on it.

    Its verbs and its knowledge base are those of the tenant.
    """
    return asyncio.run(_with_samvad(settings, work, tenant, readonly=True))


def writing(
    settings: Settings,
    work: Callable[[Any], Coroutine[Any, Any, T]],
    *,
    tenant: str = DEFAULT_TENANT,
    instead: str = "",
) -> T:
    """Run `work(samvad)` on the store, opened for writing; `instead` says what to do where a server holds it."""
    try:
        return asyncio.run(_with_samvad(settings, work, tenant, readonly=False))
    except StoreLocked as error:
        raise StoreLocked(
            f"{error.message.split(';')[0]}; {instead}" if instead else None or error.message
        ) from None


async def _with_samvad(
    settings: Settings, work: Callable[[Any], Coroutine[Any, Any, T]], tenant: str, *, readonly: bool
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
    options["embedder"] = embedder_of(settings)
    async with open_samvad(url, master_key=settings.master_key, **options) as samvad:
        samvad.principal = trusted(tenant)
        return await work(samvad)
