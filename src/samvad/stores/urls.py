"""Store URLs: which engine, and where. An engine's module is imported only when its store is wanted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from samvad.clock import Clock
from samvad.errors import SetupError
from samvad.stores.base import Store

_FORMS = "sqlite:///PATH, memory:// or firestore://PROJECT_ID[/DATABASE]"


def store_from_url(url: str, clock: Clock, **options: Any) -> Store:
    """The store that a URL names, not yet open; SetupError if it names none.

    `sqlite:///talk.db` is relative to the working directory, `sqlite:////var/lib/talk.db` absolute.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise SetupError(f"{url!r} is not the URL of a store; write {_FORMS}.") from None
    if parts.scheme == "sqlite":
        return _sqlite(url, clock, options)
    if parts.scheme == "memory":
        if parts.netloc or parts.path.strip("/"):
            raise SetupError(f"A memory store has no name: write memory://, not {url!r}.")
        from samvad.stores.memory import MemoryStore

        return MemoryStore()
    if parts.scheme == "firestore":
        return _firestore(url, clock, options)
    raise SetupError(f"{url!r} is not the URL of a store; write {_FORMS}.")


def _sqlite(url: str, clock: Clock, options: dict[str, Any]) -> Store:
    rest = url.removeprefix("sqlite:")
    if not rest.startswith("///") or "?" in rest or "#" in rest or "%00" in rest or len(rest) == 3:
        raise SetupError(f"{url!r} is not the URL of a SQLite store; write sqlite:///PATH.")
    path = Path(unquote(rest.removeprefix("///"))).expanduser()
    if path.is_dir() or str(path).endswith(":memory:"):
        raise SetupError(f"{url!r} does not name a file; write sqlite:///PATH, or memory:// to keep nothing.")
    from samvad.stores.sqlite import SQLiteStore

    return SQLiteStore(path, clock=clock, **options)


def firestore_place(url: str) -> tuple[str, str | None]:
    """The project and the database (None: the default one) of a Firestore URL; SetupError if it names no project."""
    parts = urlsplit(url)
    project = unquote(parts.netloc) or os.environ.get("PROJECT_ID", "")
    database = unquote(parts.path.strip("/"))
    if not project or "/" in database or parts.query or parts.fragment:
        raise SetupError(
            f"{url!r} is not the URL of a Firestore database; write firestore://PROJECT_ID[/DATABASE], "
            "or set PROJECT_ID."
        )
    return project, database or None


def _firestore(url: str, clock: Clock, options: dict[str, Any]) -> Store:
    project, database = firestore_place(url)
    try:
        from samvad.stores.firestore import FirestoreStore
    except ModuleNotFoundError as missing:
        raise SetupError(
            f"Firestore needs more packages ({missing.name} is missing): pip install 'samvad-sessions[firestore]'."
        ) from missing
    return FirestoreStore(project, database, clock=clock, **options)
