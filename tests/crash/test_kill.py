"""A real server is killed under load, again and again: nothing acknowledged is lost, doubled or out of order.

SIGKILL shows what the process kept to itself; that the disk really has it is shown in test_power_loss.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from samvad import limits
from tests.crash.replay import Replay, whole_history
from tests.crash.server import Connection, Server
from tests.support import SOAK, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.crash]

SEED = 20_250_110


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server on an empty data directory, running."""
    with Server(tmp_path / "data") as server:
        yield server.start()


def holds_database(server: Server) -> bool:
    """Whether the process has locked its database: it is about to recover what a crash has left."""
    lock = server.database.with_name(server.database.name + ".lock")
    return not server.is_running or lock.read_text().strip() == str(server.pid)


async def survive(server: Server, replay: Replay, kills: int) -> list[str]:
    """Kill the server so many times under load, sometimes while it starts, and look at all it has each time."""
    rng = random.Random(f"kills {replay.seed}")
    for number in range(kills):
        await replay.run(rng.randint(150, 600), lambda: server.send(signal.SIGKILL))
        assert server.wait() == -signal.SIGKILL, server.told()
        if number % 3 == 2:
            server.spawn()
            wait_until(lambda: holds_database(server), "the server has locked its database")
            server.kill()
        server.start()
        if complaints := await replay.complaints():
            return [f"after kill {number + 1} of {kills}:", *complaints]
    await replay.run(None)
    return await replay.complaints(all_of_it=True)


async def test_kill_9_under_load(server: Server) -> None:
    """After each of 10 kills, every acknowledged message is there once, in order; what was erased is not."""
    replay = Replay(lambda: server.port, seed=SEED)
    assert await survive(server, replay, 10) == []
    assert replay.messages_acknowledged > 1_500
    assert replay.refusals == 0
    assert server.stop() == 0


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="SAMVAD_SOAK=1 asks for it")
@pytest.mark.parametrize("seed", range(4))
async def test_kill_9_soak(server: Server, seed: int) -> None:
    """The same with 200 kills in all."""
    replay = Replay(lambda: server.port, seed=seed, connections=8 << seed)
    assert await survive(server, replay, 50) == []
    assert server.stop() == 0


async def test_too_early_answers_are_caught(tmp_path: Path) -> None:
    """A server that answers before it has written loses messages to kill -9, and this test sees them."""
    with Server(tmp_path / "data", "--durability", "memory").start() as server:
        replay = Replay(lambda: server.port, seed=SEED, durability="memory")
        complaints = await survive(server, replay, 20)
    # It ends with the first kill that lost something: messages, or what was set last.
    assert any("is lost" in line or "it must be one of" in line for line in complaints)


async def test_erased_stays_erased(server: Server) -> None:
    """What was acknowledged before a refresh is not back after a kill, nor by sending its requests again."""
    message = {"role": "user", "content": "Forget this."}
    key = {"Idempotency-Key": "a message"}
    requests = [
        ("/api/session/user_1/history", message, {}),
        ("/api/session/user_1/history", message, key),
        ("/api/session/user_1/state", {"secret": 1}, {}),
        ("/api/session/create", {"sessionId": "session_1", "userId": "user_1"}, {}),
    ]
    async with await Connection.open(server.port) as connection:
        for path, body, headers in requests:
            (await connection.post(path, body, headers)).check()
        erased = await connection.post(
            "/api/session/refresh", {"userId": "user_1"}, {"Idempotency-Key": "erase"}
        )
        cleared = erased.check()["cleared"]
        assert (cleared["userState"], cleared["userProfile"], cleared["sessions"]) == (True, True, 1)
    for _ in range(2):
        server.kill()
        server.start()
        async with await Connection.open(server.port) as connection:
            again = await connection.post(
                "/api/session/refresh", {"userId": "user_1"}, {"Idempotency-Key": "erase"}
            )
            assert again.check()["cleared"] == cleared
            answer = await connection.post("/api/session/user_1/history", message, key)
            assert answer.status == 409 and answer.json["code"] == "user_erased", answer
            assert await whole_history(connection, "user_1") == []
            assert (await connection.get("/api/session/user_1/state")).status == 404
            assert (await connection.get("/api/session/session_1")).status == 404
            assert (await connection.get("/api/session/user_1/profile")).check()["profile"][
                "historyLength"
            ] == 0


async def stop_under_load(server: Server, replay: Replay) -> None:
    """SIGTERM after some hundred acknowledgements: the server ends in good order and in time."""
    began_s = time.monotonic()

    def stop() -> None:
        nonlocal began_s
        began_s = time.monotonic()
        server.send(signal.SIGTERM)

    await replay.run(400, stop)
    assert server.wait() == 0, server.told()
    assert time.monotonic() - began_s < limits.DRAIN_S_MAX
    assert not [line for line in server.log if "Traceback" in line], server.told()


async def test_sigterm_under_load(server: Server) -> None:
    """SIGTERM under load: exit code 0, within 8 s, and what was acknowledged is there at the next start."""
    replay = Replay(lambda: server.port, seed=SEED + 1, connections=32)
    for _ in range(3):
        await stop_under_load(server, replay)
        server.start()
        assert await replay.complaints() == []
    await replay.run(None)
    assert await replay.complaints(all_of_it=True) == []


async def test_sigterm_keeps_what_is_only_in_memory(tmp_path: Path) -> None:
    """With --durability memory the answers say so, and a stop in good order loses nothing all the same."""
    with Server(tmp_path / "data", "--durability", "memory").start() as server:
        replay = Replay(lambda: server.port, seed=SEED + 2, connections=32, durability="memory")
        for _ in range(3):
            await stop_under_load(server, replay)
            server.start()
            assert await replay.complaints() == []
        await replay.run(None)
        assert await replay.complaints(all_of_it=True) == []


async def test_a_second_server_is_refused(server: Server) -> None:
    """While a server has the database, another one ends with code 2 and one line; after a kill the next may have it."""
    with Server(server.data_dir) as second:
        second.spawn()
        assert second.wait() == 2
        assert len(second.log) == 1 and str(server.pid) in second.log[0], second.told()
    server.kill()
    server.start()
    async with await Connection.open(server.port) as connection:
        answer = await connection.post("/api/session/user_1/history", {"role": "user", "content": "Hello"})
        assert answer.check()["seq"] == 1
