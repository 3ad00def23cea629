"""Stores with something of everything, and what is compared of them."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from samvad.cli import app
from samvad.cli.carry.kinds import erasures_in, read_erasures
from samvad.cli.carry.reading import digest_of, keys_of
from samvad.clock import SystemClock
from samvad.records import (
    Commit,
    InterruptionAdded,
    ProfileSet,
    SessionSet,
    StoredInterruption,
    StoredProfile,
    StoredSession,
    UserKey,
    Version,
)
from samvad.runtime import open_samvad
from samvad.sessions.operations import ReceiptKey
from samvad.stores.data_keys import DataKeys
from samvad.stores.encrypting import data_keys_of
from samvad.stores.master_keys import master_keys
from samvad.stores.sealed import SealedStore
from samvad.stores.urls import store_from_url
from tests.cli.processes import SAMVAD, WAIT_S, environment
from tests.firestore.support import emulator
from tests.support import wait_until

NAMES = (
    "asha",
    "आशा",
    "asha@example.com",
    "__x__",
    "..a",
    "%41 %",
    "a" * 256,
    "क" * 85 + "x",
    "दीपा 🙂",
)
REBORN = "reborn"
GONE = "gone for good"


class Place:
    """A working directory, and a way to name stores in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def url(self, engine: str, name: str = "one") -> str:
        """The URL of a new store of an engine."""
        if engine == "firestore":
            return f"firestore://{emulator().new_project()}"
        return f"sqlite:///{self.folder}/{name}.db"

    def users_in(self, file: str) -> int:
        """How many users a database has that another process is writing to."""
        import apsw

        try:
            connection = apsw.Connection(str(self.folder / file), flags=apsw.SQLITE_OPEN_READONLY)
            found = int(connection.execute("SELECT count(*) FROM users").get)
            connection.close()
        except apsw.Error:
            return 0
        return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A working directory of its own; Firestore is the emulator."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulator().host)
    return Place(tmp_path)


def call(*arguments: str, code: int = 0) -> str:
    """Run a command in this process; its output and errors, or with code 2 the sentence of refusal."""
    done = CliRunner().invoke(app, arguments)
    if code == 2:
        assert getattr(done.exception, "code", "") in ("setup", "store_locked"), (done.output, done.exception)
        return str(done.exception)
    assert done.exit_code == code, (done.exit_code, done.output, done.exception)
    return done.output


def receipt(name: str) -> ReceiptKey:
    """The key of a request."""
    return ReceiptKey(name.encode().ljust(32, b"-")[:32], b"f" * 32)


async def fill(url: str, names: tuple[str, ...] = NAMES, messages: int = 30) -> None:
    """Users with state, preferences, sessions, interruptions, receipts and messages; one erased, one born again."""
    async with open_samvad(url, record_interruptions=True) as samvad:
        for user in (REBORN, GONE):
            await samvad.append_to_user_history(user, "user", "forget this", receipt=receipt(user))
            await samvad.clear_user_data(user)
        for number, user in enumerate((*names, REBORN)):
            await samvad.save_user_state(user, {"topic": "home loans", "deep": {"n": [1, 2.5, None, "ü"]}})
            await samvad.save_user_state(user, {"step": number})
            await samvad.save_user_profile(user, {"language": "hi"})
            await samvad.save_session(f"s-{number}", user, metadata={"deviceId": "d"}, colour="blue")
            await samvad.save_session(f"t-{number}", user)
            await samvad.end_session(f"t-{number}")
            await samvad.record_interruption(f"s-{number}", f"i-{number}", 1_700_000_000_123, b'{"id":"i"}')
            said = [
                {"role": "user", "content": f"{n} क", "sessionId": f"s-{number}"} for n in range(messages)
            ]
            for start in range(0, messages, 100):
                await samvad.append_many(user, said[start : start + 100])
            await samvad.append_to_user_history(
                user, "assistant", "a", id="given", toolCalls=[{"id": "c", "name": "n"}]
            )
            await samvad.append_to_user_history(
                user, "tool", "b", toolCallId="c", receipt=receipt(f"key of {number}")
            )
        await samvad.save_user_state("only-state", {})


def killed_above(folder: Path, least: int, count: Callable[[], int], *arguments: str) -> int:
    """Run a command that writes to a store, kill it with SIGKILL once there are more than so many; how many then."""
    process = subprocess.Popen(
        [*SAMVAD, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait_until(lambda: count() > least or process.poll() is not None, "more is there")
    process.kill()
    output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == -9, output
    return count()


def killed_twice(place: Place, count: Callable[[], int], users: int, *arguments: str) -> None:
    """Run a command that writes `users` to a store, and kill it in the middle, twice."""
    first = killed_above(place.folder, 0, count, *arguments)
    second = killed_above(place.folder, first, count, *arguments)
    assert 0 < first < second < users


@contextlib.asynccontextmanager
async def store_at(url: str, key: str | None = None) -> AsyncIterator[Any]:
    """The store of a URL, open; with a master key, what reads what is sealed in it."""
    store: Any = store_from_url(url, SystemClock())
    if key is not None:
        store = SealedStore(store, DataKeys(data_keys_of(store), master_keys(key)), clock=SystemClock())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def everything(url: str, key: str | None = None) -> dict[str, Any]:
    """All that is carried: users by counts and checksum, receipts, erasures by epoch."""
    async with store_at(url, key) as store:
        users: dict[UserKey, Any] = {}
        async for keys in keys_of(store):
            for start in range(0, len(keys), 16):
                some = keys[start : start + 16]
                digests = await asyncio.gather(*(digest_of(store, key) for key in some))
                users.update(zip(some, digests, strict=True))
        receipts = {}
        for owned in await store.receipts(limit=1_000):
            kept = await store.receipt(owned.receipt.key)
            receipts[kept.key] = (owned.user_hash, kept.fingerprint, kept.answer)
        erasures = {
            each.user_hash: each.epoch async for line in read_erasures(store) for each in erasures_in(line)
        }
    return {"users": users, "receipts": receipts, "erasures": erasures}


def content(url: str, key: str | None = None) -> dict[str, Any]:
    """As `everything`, for tests that are not async."""
    return asyncio.run(everything(url, key))


def make(url: str, names: tuple[str, ...] = NAMES, messages: int = 30) -> dict[str, Any]:
    """Fill a store; what is in it."""
    asyncio.run(fill(url, names, messages))
    return content(url)


async def many(url: str, users: int, messages: int) -> None:
    """So many users with some messages each, quickly."""
    from samvad.records import MessagesAdded
    from samvad.testing.model import raw_message

    async with store_at(url) as store:

        async def one(number: int) -> None:
            key = UserKey("default", f"user {number}")
            session = StoredSession(f"s {number}", key.user_id, b"{}", 1, 2)
            kept = StoredInterruption("i", session.id, 3, b"{}")
            sessions = (SessionSet(session), InterruptionAdded(kept)) if number % 10 == 0 else ()
            changes = (
                ProfileSet(StoredProfile(b"{}", 1, 1)),
                *sessions,
                MessagesAdded(tuple(raw_message(n, f"{number}-{n}", n) for n in range(1, messages + 1))),
            )
            await store.commit(Commit(key, Version(0, 0), changes))

        for start in range(0, users, 50):
            await asyncio.gather(*(one(number) for number in range(start, min(start + 50, users))))
