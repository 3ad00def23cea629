"""The emulator's harness, and the URL by which a Firestore store is asked for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from samvad.clock import SystemClock
from samvad.errors import SetupError
from samvad.records import Commit, StateSet, StoredState, UserKey, Version
from samvad.stores.urls import store_from_url
from samvad.testing.emulator import FirestoreEmulator
from tests.firestore.support import emulator, make_store
from tests.support import wait_until

_PARENT = """
from samvad.testing.emulator import FirestoreEmulator
running = FirestoreEmulator().start()
print(running.port, flush=True)
input()
"""


def is_listening(port: int) -> bool:
    """Whether something takes connections on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_an_emulator_ends_with_the_process_that_started_it() -> None:
    """Even where that one is killed and can clean up nothing, no Java process is left behind."""
    emulator()  # or skip
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert is_listening(port)
        os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not is_listening(port), "the emulator is gone")


@pytest.mark.anyio
async def test_a_restarted_emulator_is_found_again() -> None:
    """A store lives through a restart of its database: it goes on with what is there then."""
    with FirestoreEmulator() as own:
        store = make_store(own.new_project(), emulator_host=own.host)
        await store.open()
        user = UserKey("default", "asha")
        commit = Commit(user, Version(0, 0), (StateSet(StoredState(b"{}", 1, 1)),))
        await store.commit(commit)
        own.restart()  # it has forgotten everything
        assert (await store.load(user, window=1, open_after_ms=0, sessions_max=1)).version == Version(0, 0)
        assert (await store.commit(commit)).version == Version(0, 1)
        await store.close()


@pytest.mark.anyio
async def test_databases_of_a_project_are_apart() -> None:
    """What is written to a named database is not in the default one."""
    running = emulator()
    project = running.new_project()
    user = UserKey("default", "asha")
    stores = [
        make_store(project),
        make_store(project, database="second"),
    ]
    for store in stores:
        await store.open()
    await stores[1].commit(Commit(user, Version(0, 0), (StateSet(StoredState(b"{}", 1, 1)),)))
    assert [len(await store.users("default", after="", limit=9)) for store in stores] == [0, 1]
    for store in stores:
        await store.close()


def test_a_url_names_project_and_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project may come from the environment; a URL that names none, or more than a database, is refused."""
    emulator()  # or skip: where the emulator is missing, so may be the package
    clock = SystemClock()
    for url, database in (
        ("firestore://my-project", "projects/my-project/databases/(default)"),
        ("firestore://my-project/", "projects/my-project/databases/(default)"),
        ("firestore://my-project/chats", "projects/my-project/databases/chats"),
        ("firestore://example.com:my-project", "projects/example.com:my-project/databases/(default)"),
    ):
        assert store_from_url(url, clock)._names.database == database  # type: ignore[attr-defined]
    for url in ("firestore://", "firestore:///chats", "firestore://p/a/b", "firestore://p?x=1"):
        with pytest.raises(SetupError):
            store_from_url(url, clock)
    monkeypatch.setenv("PROJECT_ID", "from-environment")
    for url in ("firestore://", "firestore:///chats"):
        assert store_from_url(url, clock).project == "from-environment"  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_missing_credentials_are_a_mistake_of_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an emulator and without credentials, opening says in one line what to do."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    store = make_store("some-project", emulator_host=None)
    with pytest.raises(SetupError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        await store.open()
    await store.close()
