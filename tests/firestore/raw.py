"""The database as it is, read and written with Google's own client: what the store says of itself is not enough."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from tests.firestore.support import emulator


@contextlib.contextmanager
def google_client(project: str) -> Iterator[Any]:
    """Google's client for a project of the emulator."""
    from google.cloud import firestore

    before = os.environ.get("FIRESTORE_EMULATOR_HOST")
    os.environ["FIRESTORE_EMULATOR_HOST"] = emulator().host
    client = firestore.Client(project=project)
    try:
        yield client
    finally:
        client.close()
        if before is None:
            del os.environ["FIRESTORE_EMULATOR_HOST"]
        else:
            os.environ["FIRESTORE_EMULATOR_HOST"] = before


def everything(project: str) -> dict[str, dict[str, Any]]:
    """Every document of a project by its path, whoever wrote it; those without fields as well."""
    found: dict[str, dict[str, Any]] = {}

    def walk(collections: Any) -> None:
        for collection in collections:
            for reference in collection.list_documents():
                snapshot = reference.get()
                if snapshot.exists:
                    found[reference.path] = snapshot.to_dict()
                walk(reference.collections())

    with google_client(project) as client:
        walk(client.collections())
    return found
