"""What the parts of the suite share: two users, small changes, and how a test gets its store."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final

from hypothesis import HealthCheck, settings

from samvad.records import (
    Change,
    Commit,
    Committed,
    InterruptionAdded,
    MessagesAdded,
    Origin,
    ProfileSet,
    ReceiptKept,
    SessionSet,
    StateSet,
    StoredInterruption,
    StoredProfile,
    StoredReceipt,
    StoredSession,
    StoredState,
    UserKey,
    UserRecord,
    Version,
)
from samvad.stores.base import Store
from samvad.testing.model import EVERYTHING, raw_message

ASHA: Final = UserKey("default", "asha")
BALA: Final = UserKey("default", "bala")
NEW: Final = Version(0, 0)


def examples(count: int) -> settings:
    """So many examples under the default profile of hypothesis, and as many times more as the loaded one asks for."""
    loaded = settings.default
    wanted = max(count, count * loaded.max_examples // 100) if loaded is not None else count
    slow = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
    return settings(max_examples=wanted, deadline=None, suppress_health_check=slow)


def messages(first_seq: int, count: int = 1, name: str = "m", at_ms: int = 1) -> MessagesAdded:
    """Messages in a row, each by its name and seq."""
    return MessagesAdded(
        tuple(raw_message(n, f"{name}{n}", at_ms) for n in range(first_seq, first_seq + count))
    )


def state(n: int = 1) -> StateSet:
    """A state that says n."""
    return StateSet(StoredState(b'{"n":%d}' % n, n, n))


def session(user: UserKey, session_id: str, active_ms: int = 1, body: bytes = b"{}") -> SessionSet:
    """A session of the user."""
    return SessionSet(StoredSession(session_id, user.user_id, body, 0, active_ms))


def receipt(key: bytes, answer: bytes = b"{}", at_ms: int = 1) -> ReceiptKept:
    """An answer that is kept."""
    return ReceiptKept(StoredReceipt(key * 32, b"f" * 32, at_ms, answer))


async def load(store: Store, user: UserKey, window: int = 1_000) -> UserRecord:
    """All of a user's record."""
    return await store.load(user, window=window, open_after_ms=-1, sessions_max=1_000)


async def page(store: Store, user: UserKey, **bounds: Any) -> tuple[list[int], bool]:
    """The seqs of a page, and if more follow."""
    wanted = {"after": None, "before": None, "limit": 100, "bytes_max": EVERYTHING} | bounds
    messages, has_more = await store.page(user, **wanted)
    return [message.seq for message in messages], has_more


async def commit(
    store: Store, user: UserKey, expected: Version, *changes: Change, origin: Origin | None = None
) -> Committed:
    """Commit these changes."""
    return await store.commit(Commit(user, expected, changes, origin))


async def fill(store: Store, user: UserKey) -> None:
    """Give a user some of everything: 7 messages, a state, a profile, 2 sessions, 3 interruptions, a receipt."""
    one, two = (f"{user.user_id} {n}" for n in (1, 2))
    kept = [StoredInterruption(f"i{n}", one if n else two, n, b'{"n":1}') for n in range(3)]
    await commit(
        store,
        user,
        NEW,
        ProfileSet(StoredProfile(b'{"language":"hi"}', 1, 1)),
        messages(1, 6),
        state(),
        receipt(user.user_id[:1].encode()),
    )
    changes: list[Change] = [
        session(user, one),
        session(user, two, 2),
        *(InterruptionAdded(each) for each in kept),
    ]
    await commit(store, user, Version(0, 1), *changes, messages(7))


class Suite(ABC):
    """A part of the suite.

    `random_examples` is how many pieces of random work are tried under the default profile of hypothesis, and a
    fifth as many with restarts; a store behind a network may want fewer.
    """

    random_examples: ClassVar[int] = 60

    @abstractmethod
    async def open_store(self) -> Store:
        """A new, empty store, open. It is asked for once or twice in a test, and closed at its end."""

    def run(self, test: Callable[[Store], Awaitable[None]]) -> None:
        """Run a test over a new store, and close that at the end."""

        async def main() -> None:
            store = await self.open_store()
            try:
                await test(store)
            finally:
                await store.close()

        asyncio.run(main())
