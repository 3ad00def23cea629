"""How long erasing a user takes with 100,000 users in the store, encryption off and on, while others talk.

Each user has a state, a session and ten messages. They are brought to the store directly, a commit each; what is
measured goes through the service. `benchmarks.erasing_firestore` does the same on Firestore.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import msgspec

from benchmarks.measure import Options, Unavailable, load_pairs, one_core, progress
from benchmarks.report import Bound, Section, Table, number
from samvad import Samvad, open_samvad
from samvad.clock import rfc3339
from samvad.records import (
    Commit,
    MessagesAdded,
    SessionSet,
    StateSet,
    StoredMessage,
    StoredSession,
    StoredState,
    UserKey,
    Version,
    made_id,
)

USERS = 100_000
USERS_QUICK = 5_000
MESSAGES = 10
ERASED = 200
APPENDS_PER_S = 50
AT_ONCE = 1_000
WANTED_S = 1.0
SAID = "What documents do I need?"
LANGUAGE = b'{"language":"en","conversationContext":{"topic":"home loans"}}'


def made_key() -> str:
    """A master key."""
    return base64.b64encode(os.urandom(32)).decode()


async def fill(samvad: Samvad, users: int) -> None:
    """Bring the users to the store."""
    now_ms = samvad.core.clock.now_ms()
    texts = [text for pair in load_pairs(500) for text in pair]
    at = rfc3339(now_ms)

    def message(user: int, seq: int) -> StoredMessage:
        message_id = made_id(seq, f"{user:020x}")
        body = msgspec.json.encode(
            {
                "seq": seq,
                "id": message_id,
                "role": ("assistant", "user")[seq % 2],
                "content": texts[(user * MESSAGES + seq) % len(texts)],
                "timestamp": at,
            }
        )
        return StoredMessage(seq, message_id, ("assistant", "user")[seq % 2], now_ms, body)

    def commit(number_: int) -> Commit:
        user = UserKey("default", f"user-{number_}")
        said = tuple(message(number_, seq) for seq in range(1, MESSAGES + 1))
        session = StoredSession(f"session-{number_}", user.user_id, b'{"language":"en"}', now_ms, now_ms)
        changes = (StateSet(StoredState(LANGUAGE, now_ms, 1)), SessionSet(session), MessagesAdded(said))
        return Commit(user, Version(0, 0), changes)

    numbers = iter(range(users))
    while group := list(islice(numbers, AT_ONCE)):
        await asyncio.gather(*(samvad.store.commit(commit(number_)) for number_ in group))


@asynccontextmanager
async def talking(say: Callable[[int], Awaitable[object]], others: Iterable[int]) -> AsyncIterator[None]:
    """Others append 50 messages a second for as long as this is open, one after the other."""
    done = asyncio.Event()

    async def talk() -> None:
        for number_ in others:
            if done.is_set():
                return
            await say(number_)
            await asyncio.sleep(1 / APPENDS_PER_S)

    task = asyncio.create_task(talk())
    yield
    done.set()
    await task


async def _measure(directory: Path, users: int, master_key: str | None) -> tuple[float, list[float]]:
    """Seconds that filling took, and seconds of each erasing."""
    took_s: list[float] = []
    async with open_samvad(f"sqlite:///{directory / 'samvad.db'}", master_key=master_key) as samvad:
        began_s = time.perf_counter()
        await fill(samvad, users)
        filled_s = time.perf_counter() - began_s
        chance = random.Random(20250110)
        chosen = chance.sample(range(users), ERASED)
        others = [number_ for number_ in chance.sample(range(users), 2_000) if number_ not in set(chosen)]

        async def say(number_: int) -> None:
            await samvad.append_to_user_history(f"user-{number_}", "user", SAID)

        async with talking(say, others):
            for number_ in chosen:
                began_s = time.perf_counter()
                cleared = await samvad.clear_user_data(f"user-{number_}")
                took_s.append(time.perf_counter() - began_s)
                if not cleared.sessions:
                    raise Unavailable("a user who was to be erased was not there")
    return filled_s, took_s


def run(options: Options) -> Section:
    """Once without encryption, once with it."""
    users = USERS_QUICK if options.quick else USERS
    rows, bounds = [], []
    for name, key in (("off", None), ("on", made_key())):
        directory = options.directory / f"erasing-{name}"
        directory.mkdir()
        progress(f"erasing: encryption {name}")
        with one_core():
            filled_s, took_s = asyncio.run(_measure(directory, users, key))
        took_s.sort()
        p99_s = took_s[int(0.99 * len(took_s))]
        middle_s, size = took_s[len(took_s) // 2], (directory / "samvad.db").stat().st_size
        cells = (middle_s * 1000, p99_s * 1000, took_s[-1] * 1000, size / 2**20, filled_s)
        rows.append((f"encryption {name}", *map(number, cells)))
        bounds.append(
            Bound(
                f"erasing a user of {users:,}, encryption {name}: p99",
                f"< {WANTED_S:g} s",
                f"{number(p99_s)} s",
                p99_s < WANTED_S,
            )
        )
    columns = ("SQLite", "p50 ms", "p99 ms", "longest ms", "MiB of the database", "filled in s")
    table = Table("Milliseconds to erase a user", columns, rows)
    return Section(
        "Erasing",
        f"{users:,} users with a state, a session and {MESSAGES} messages each; {ERASED} of them are erased through "
        f"the service, one after the other, while others append {APPENDS_PER_S} messages a second.",
        [table],
        bounds,
    )
