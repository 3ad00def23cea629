"""What the Firestore tests share: one emulator for all of them, an empty database for each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from samvad.errors import StoreUnavailable
from samvad.testing.emulator import EmulatorMissing, FirestoreEmulator, shared_emulator
from tests.support import loudly_skip


def emulator() -> FirestoreEmulator:
    """The emulator; where there is none the test is skipped with the reason, and under CI it fails."""
    try:
        return shared_emulator()
    except EmulatorMissing as missing:
        loudly_skip(str(missing))


def make_store(project: str | None = None, **options: Any) -> Any:
    """A store over a project of the emulator (a new and empty one), not yet open."""
    running = emulator()
    try:
        from samvad.stores.firestore import FirestoreStore
    except ImportError as missing:
        loudly_skip(f"google-cloud-firestore is not installed ({missing})")
    options = {"emulator_host": running.host} | options
    return FirestoreStore(project or running.new_project(), **options)


async def open_store(project: str | None = None, **options: Any) -> Any:
    """As `make_store`, open."""
    store = make_store(project, **options)
    await store.open()
    return store


@contextlib.contextmanager
def cut_off(store: Any, after: int) -> Iterator[None]:
    """The store answers so many calls, and none that follows."""
    calls, begun = store.client._call, store.operations.calls

    def call(*arguments: Any) -> Any:
        if store.operations.calls - begun >= after:
            raise StoreUnavailable
        return calls(*arguments)

    store.client._call = call
    try:
        yield
    finally:
        store.client._call = calls
