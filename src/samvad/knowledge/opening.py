"""The knowledge base that belongs to a store of conversations: where its documents and indexes are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from samvad.clock import Clock
from samvad.knowledge.addresses import Network
from samvad.knowledge.base import KnowledgeBase, KnowledgeCore
from samvad.knowledge.embedding import Embedder
from samvad.knowledge.fetching import Fetcher
from samvad.knowledge.left_indexes import directory_beside
from samvad.knowledge.remote import RemoteEngine
from samvad.knowledge.shelf import Shelf
from samvad.knowledge.sources import Uploads
from samvad.knowledge.statistics import Keeps, Statistics
from samvad.knowledge.store import KnowledgeStore, MemoryKnowledgeStore
from samvad.stores.encrypting import data_keys_around
from samvad.types import LOCAL


def documents_path(database: Path) -> Path:
    """The file of the documents beside a SQLite database: `samvad.knowledge.db` beside `samvad.db`."""
    return database.with_name(f"{database.stem}.knowledge.db")


def has_documents(store: Any) -> bool:
    """Whether documents were ever kept beside this store (where that costs nothing to know)."""
    path = getattr(store, "path", None)
    if isinstance(path, Path):
        return documents_path(path).exists()
    return getattr(getattr(store, "inner", store), "name", "") == "firestore"


def documents_beside(store: Any, clock: Clock) -> KnowledgeStore:
    """The documents beside a store of conversations as they are kept there, not yet open, without any index."""
    inner = getattr(store, "inner", store)
    path = getattr(store, "path", None)
    if getattr(inner, "name", "") == "firestore":
        from samvad.knowledge.store_firestore import FirestoreKnowledgeStore

        return FirestoreKnowledgeStore(inner.client, inner.names, clock)
    if isinstance(path, Path):
        from samvad.knowledge.store_sqlite import SQLiteKnowledgeStore

        return SQLiteKnowledgeStore(documents_path(path), readonly=bool(getattr(store, "readonly", False)))
    return MemoryKnowledgeStore()


def knowledge_beside(
    store: Any,
    clock: Clock,
    *,
    embedder: Embedder | None = None,
    networks: Iterable[Network] = (),
    keeps: Keeps = "memory",
) -> KnowledgeBase:
    """The knowledge base beside a store of conversations, not yet open."""
    documents = documents_beside(store, clock)
    readonly = bool(getattr(store, "readonly", False))
    seals = None
    if (data_keys := data_keys_around(store)) is not None:
        from samvad.knowledge.store_sealed import SealedKnowledgeStore

        documents = seals = SealedKnowledgeStore(documents, data_keys, clock, readonly=readonly)
    else:
        from samvad.knowledge.store_plain import PlainKnowledgeStore

        documents = cast("KnowledgeStore", PlainKnowledgeStore(documents))
    engine = RemoteEngine(directory_beside(store), readonly=readonly, sealed=seals is not None)
    shelf = Shelf(documents, engine, clock, embedder, readonly=readonly, seals=seals)
    statistics = Statistics(shelf, clock, keeps=keeps, readonly=readonly)
    return KnowledgeBase(
        KnowledgeCore(shelf, clock, asyncio.Lock(), Fetcher(allowed=networks), Uploads(), statistics), LOCAL
    )
