"""What one replica writes is soon known on the others, and who listens there is told; an erasing empties them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from samvad.errors import StoreUnavailable
from samvad.interruptions import InterruptionContextManager
from samvad.records import StoredMessage, UserKey, UserRecord
from samvad.runtime import Options, Samvad
from samvad.stores.base import Capabilities
from samvad.stores.memory import MemoryStore
from tests.firestore.support import make_store
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import QUICK, bytes_in, drained, journaled, opened, store_of
from tests.support import SOAK, wait_until_async

pytestmark = pytest.mark.anyio
ASHA = UserKey("default", "asha")
BOUND_S = 2.0 if SOAK else 10.0  # promised are 2 s; a machine that is busy with other tests takes longer
SLOW = QUICK._replace(write_interval_s=60.0)
PATIENT = QUICK._replace(erase_wait_s=30.0)  # on a busy machine too, an erasing is answered once it is done


class Shared:
    """One database, and a line of its own to it for each replica."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.memory = MemoryStore()
        self.project: str | None = None
        self.lines: list[Any] = []

    async def line(self) -> FaultyStore:
        """A replica's connection."""
        store: Any = self.memory
        if self.kind == "firestore":
            store = make_store(self.project, attempts_max=2)
            self.project = store.project
        await store.open()
        line = FaultyStore(store)
        line.capabilities = Capabilities(durable=True, shared=True, tells=True)
        self.lines.append(store)
        return line

    async def close(self) -> None:
        """Let everything go."""
        for line in self.lines:
            await line.close()


@pytest.fixture(params=["memory", "firestore"])
async def shared(request: pytest.FixtureRequest) -> AsyncIterator[Shared]:
    """An empty database."""
    database = Shared(request.param)
    yield database
    await database.close()


def open_files() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def listening(*samvads: Samvad) -> None:
    """Wait until all hear of changes."""

    async def up() -> bool:
        return all(samvad.watcher is not None and samvad.watcher.up for samvad in samvads)

    await wait_until_async(up, "the listeners are up")


async def reads(samvad: Samvad) -> list[str]:
    """What a replica shows of asha."""
    return [m.content for m in (await samvad.get_user_profile("asha")).conversation_history]


async def soon(samvad: Samvad, wanted: list[str]) -> None:
    """Wait, for as long as is promised, until a replica shows this."""

    async def shown() -> bool:
        return await reads(samvad) == wanted

    await wait_until_async(shown, f"within {BOUND_S} s it shows {wanted}", timeout_s=BOUND_S)


async def test_a_write_is_read_on_the_other_replica(shared: Shared, tmp_path: Path) -> None:
    """Within two seconds, both ways, while the user is in the memory of both."""
    async with (
        opened(await shared.line(), tmp_path / "a") as a,
        opened(await shared.line(), tmp_path / "b") as b,
    ):
        await listening(a, b)
        assert await reads(b) == []
        said: list[str] = []
        for turn, samvad in enumerate([a, b, a, a, b]):
            said.append(f"m{turn}")
            await samvad.append_to_user_history("asha", "user", said[-1])
            await soon(a, said)
            await soon(b, said)
        await drained(a, b)
        await a.save_user_state("asha", {"topic": "loan"})

        async def there() -> bool:
            state = await b.get_user_state("asha")
            return state is not None and state.state == {"topic": "loan"}

        await wait_until_async(there, "the state is there", timeout_s=BOUND_S)


async def test_who_follows_is_told(shared: Shared, tmp_path: Path) -> None:
    """`on_published` of the other replica: each message, in order, with its seq; a moved one again, with its id."""
    async with (
        opened(await shared.line(), tmp_path / "a") as a,
        opened(await shared.line(), tmp_path / "b", patience=SLOW) as b,
    ):
        await listening(a, b)
        told: list[StoredMessage] = []

        def published(key: UserKey, record: UserRecord, new: tuple[StoredMessage, ...]) -> None:
            assert key == ASHA and set(new) <= set(record.window)
            told.extend(new)

        b.core.lanes.on_published.append(published)
        b.core.lanes.is_followed = lambda key: True
        await reads(b)
        for turn in range(5):
            await a.append_to_user_history("asha", "user", f"m{turn}")

        async def all_five() -> bool:
            return [m.seq for m in told] == [1, 2, 3, 4, 5]

        await wait_until_async(all_five, "all are told", timeout_s=BOUND_S)
        await b.append_to_user_history("asha", "user", "zero")
        assert store_of(b).flusher.lanes == 1
        await store_of(b).drain(20.0)
        mine = await b.append_to_user_history("asha", "user", "mine")
        assert (mine.seq, told[-1].seq) == (7, 7)
        await a.append_to_user_history("asha", "user", "theirs")

        async def moved() -> bool:
            return [(m.seq, m.id) for m in told[-1:]] == [(8, mine.message_id)]

        await wait_until_async(moved, "the moved message is told again", timeout_s=BOUND_S)
        assert [m.seq for m in told] == [1, 2, 3, 4, 5, 6, 7, 7, 8]


async def test_followed_though_not_in_memory(shared: Shared, tmp_path: Path) -> None:
    """Somebody follows a user whose record has left the memory of this replica: they are told all the same."""
    async with (
        opened(await shared.line(), tmp_path / "a") as a,
        opened(await shared.line(), tmp_path / "b") as b,
    ):
        await listening(a, b)
        told: list[int] = []
        b.core.lanes.on_published.append(lambda key, record, new: told.extend(m.seq for m in new))
        b.core.lanes.is_followed = lambda key: key == ASHA
        await a.append_to_user_history("asha", "user", "one")
        await a.append_to_user_history("ravi", "user", "nobody follows this")

        async def one() -> bool:
            return told == [1]

        await wait_until_async(one, "it is told", timeout_s=BOUND_S)
        assert b.core.lanes.peek(UserKey("default", "ravi")) is None


async def test_an_erasing_empties_the_others(shared: Shared, tmp_path: Path) -> None:
    """Cache, journal and interruptions in memory, within two seconds; with the store away nothing of it is read."""
    canary = "canary-91d2"
    async with (
        opened(await shared.line(), tmp_path / "a", patience=SLOW) as a,
        opened(await shared.line(), tmp_path / "b", patience=PATIENT) as b,
    ):
        await listening(a, b)
        await a.save_session("phone", "asha")
        await a.append_to_user_history("asha", "user", canary)
        await store_of(a).drain(20.0)
        await a.append_to_user_history("asha", "user", f"{canary} pending")
        assert isinstance(a.interruptions, InterruptionContextManager)
        a.interruptions.push("phone", "asha", type="BARGE_IN", full_text=f"{canary} told you", heard_text="")
        await b.append_to_user_history("ravi", "user", "stays")
        assert not (await b.clear_user_data("asha")).pending

        async def clean() -> bool:
            record = a.core.lanes.peek(ASHA)
            in_memory = record is not None and record.window != ()
            return not (in_memory or a.interruptions.users() or bytes_in(tmp_path / "a", canary.encode()))

        await wait_until_async(clean, "nothing is left of it", timeout_s=BOUND_S)
        assert not a.core.owners
        assert await reads(a) == []
        told = await a.append_to_user_history("asha", "user", "new life")
        assert told.seq == 1
        assert await reads(a) == ["new life"]


async def test_erased_while_this_replica_reads_from_memory(shared: Shared, tmp_path: Path) -> None:
    """Told of the erasing and then cut off from the store: 503, not what was erased."""
    line = await shared.line()
    async with opened(line, tmp_path / "a") as a, opened(await shared.line(), tmp_path / "b") as b:
        await listening(a, b)
        await a.append_to_user_history("asha", "user", "secret")
        await drained(a)
        await b.clear_user_data("asha")

        async def gone() -> bool:
            return a.core.lanes.peek(ASHA) is None

        await wait_until_async(gone, "it has left the memory", timeout_s=BOUND_S)
        line.down = True
        with pytest.raises(StoreUnavailable):
            await a.get_user_profile("asha")
        line.down = False


async def test_after_an_outage(shared: Shared, tmp_path: Path) -> None:
    """The listener goes on when the store is back, and what was written and erased meanwhile is known."""
    line = await shared.line()
    async with opened(line, tmp_path / "a") as a, opened(await shared.line(), tmp_path / "b") as b:
        await listening(a, b)
        for user in ("asha", "ravi"):
            await a.append_to_user_history(user, "user", "one")
        await drained(a)
        assert a.watcher is not None
        line.down = True
        a.watcher.again()
        await b.append_to_user_history("asha", "user", "two")
        await b.clear_user_data("ravi")
        await drained(b)

        async def down() -> bool:
            return a.watcher is not None and a.watcher.failures > 0 and not a.watcher.up

        await wait_until_async(down, "the listener has broken off")
        line.down = False
        await listening(a)
        await soon(a, ["one", "two"])

        async def gone() -> bool:
            return (await a.get_user_profile("ravi")).history_length == 0

        await wait_until_async(gone, "the erasing is known", timeout_s=BOUND_S)


async def test_a_fault_does_not_end_it(shared: Shared, tmp_path: Path) -> None:
    """An exception in whatever follows a notice is logged, and the next change is heard."""
    async with (
        opened(await shared.line(), tmp_path / "a") as a,
        opened(await shared.line(), tmp_path / "b") as b,
    ):
        await listening(a, b)
        assert b.watcher is not None
        faults: list[str] = []

        def published(key: UserKey, record: UserRecord, new: tuple[StoredMessage, ...]) -> None:
            faults.append(key.user_id)

        def followed(key: UserKey) -> bool:
            if not faults:
                published(key, UserRecord((0, 0)), ())  # type: ignore[arg-type]
                raise ValueError("a fault of ours")
            return False

        b.core.lanes.is_followed = followed
        await a.append_to_user_history("ravi", "user", "x")

        async def failed() -> bool:
            return bool(faults)

        await wait_until_async(failed, "it has failed")
        await reads(b)
        await a.append_to_user_history("asha", "user", "one")
        await wait_until_async(failed, "it has failed")

        async def heard() -> bool:
            return await reads(b) == ["one"]

        await wait_until_async(heard, "the next one is heard")


async def test_opening_and_closing_leaks_nothing(shared: Shared, tmp_path: Path) -> None:
    """20 times open, listen, write, close: no task, no thread, no descriptor is left over."""
    before = (0, 0, 0)
    for turn in range(20):
        line = await shared.line()
        async with opened(line, tmp_path / "j") as samvad:
            await listening(samvad)
            await samvad.append_to_user_history("asha", "user", "x")
            await drained(samvad)
        await line.store.close()
        now = (
            len(asyncio.all_tasks()),
            threading.active_count(),
            open_files(),
        )
        before = before if turn > 1 else now
        assert now <= tuple(count + 2 for count in before)


async def test_no_listener(tmp_path: Path) -> None:
    """None on a store that tells nothing, and none where the setting is off."""
    store = MemoryStore()
    async with opened(FaultyStore(store), tmp_path / "a") as samvad:
        assert samvad.watcher is None
    line = FaultyStore(store)
    line.capabilities = Capabilities(durable=True, shared=True, tells=True)
    quiet = Samvad(journaled(line, tmp_path / "b"), options=Options(listen=False))
    assert quiet.watcher is None


async def test_what_cannot_be_read_is_an_outage() -> None:
    """A server whose stream of changes holds bytes that are no message: to be asked again, and no fault of ours."""
    import grpc
    from google.protobuf.timestamp_pb2 import Timestamp

    async def garbage(requests: Any, context: Any) -> AsyncIterator[bytes]:
        await anext(aiter(requests))
        yield b"\xff\xff\xff"
        await context.done()

    handler = grpc.stream_stream_rpc_method_handler(garbage)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("google.firestore.v1.Firestore", {"Listen": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    store = make_store("garbled", emulator_host=f"127.0.0.1:{port}")
    store._client.open()
    store._listener._told_until = Timestamp(seconds=1_000)
    try:
        async with asyncio.timeout(30):
            with pytest.raises(StoreUnavailable, match="cannot be read"):
                await anext(store._listener.notices())
    finally:
        await store._client.close()
        await server.stop(None)
