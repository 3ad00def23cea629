"""An hour of conversation with Gemini Live, compressed in time: the line ends in every way, and so does the server."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import websockets

from samvad.testing.gemini import FakeGeminiLive, Say, Step, UserTurn
from tests.cli.processes import Server
from tests.live.gemini import MODES, said, talking
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio

TURNS = 30
GO_AWAYS = {2, 5, 8, 14, 20, 26}
ABORTS = {4, 11, 23}
EXPIRIES = {7, 17}
KILL = 15


def answer(turn: UserTurn) -> Sequence[Step]:
    """A short answer, soon heard."""
    return [Say(f"Answer to {turn.text}.", ms_per_word=1)]


async def is_true(value: bool) -> bool:
    """For waiting."""
    return value


async def disturb(fake: FakeGeminiLive, number: int) -> bool:
    """End the line as this turn's number wants it; whether it was ended."""
    (line,) = fake.open_connections
    if number in GO_AWAYS:
        await line.go_away(30)
    elif number in ABORTS | EXPIRIES:
        if number in EXPIRIES:
            fake.expire_handles()
        line.abort()
    else:
        return False
    await wait_until_async(
        lambda: is_true(not line.is_open and len(fake.open_connections) == 1), "the line is renewed", 60
    )
    return True


@pytest.mark.parametrize("mode", MODES)
async def test_an_hour_with_the_provider(mode: str) -> None:
    """Each turn is answered once, one dial a cause, and the model remembers all of it at the end."""
    async with FakeGeminiLive(answer=answer) as fake, talking(fake, mode) as talk:
        for number in range(TURNS):
            assert await talk.ask(f"question {number}") == f"Answer to question {number}."
            await disturb(fake, number)
        causes = len(GO_AWAYS | ABORTS | EXPIRIES)
        assert len(fake.connections) == 1 + causes
        assert fake.setups_refused == len(EXPIRIES)
        await talk.ask("last")
        assert fake.connections[-1].memory == said(talk.kept)


@pytest.mark.crash
@pytest.mark.parametrize("mode", MODES)
async def test_an_hour_through_the_server(mode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through `samvad serve` and its WebSocket, with a kill -9: each turn is stored once, in order, as it was heard."""
    async with FakeGeminiLive(answer=answer) as fake:
        for name, value in {**fake.environment(mode), "SAMVAD_LIVE_PROVIDER": mode}.items():
            monkeypatch.setenv(name, value)
        with Server(tmp_path) as first:
            await converse(first, fake, range(KILL))
            first.signal(signal.SIGKILL)
            first.process.wait()
        with Server(tmp_path) as second:
            await converse(second, fake, range(KILL, TURNS))
            _, body = second.request("GET", "/api/session/asha/history?limit=1000")
        told = [(message["role"], message["content"]) for message in body["messages"]]
        expected = [
            pair
            for number in range(TURNS)
            for pair in (("user", f"question {number}"), ("assistant", f"Answer to question {number}."))
        ]
        assert told == expected
        assert [message["seq"] for message in body["messages"]] == list(range(1, 2 * TURNS + 1))
        causes = len(GO_AWAYS | ABORTS | EXPIRIES) + 1
        assert len(fake.connections) <= 1 + causes
        known = [text for role, text in fake.connections[-1].memory if role == "user"]
        assert known[-1] == f"question {TURNS - 1}" and len(known) == len(set(known))


async def converse(server: Server, fake: FakeGeminiLive, numbers: range) -> None:
    """Put these questions, each after the answer to the one before."""
    host, port = server.address
    address = f"ws://{host}:{port}/api/live"
    async with websockets.connect(address, subprotocols=["samvad.v1"]) as socket:  # type: ignore[list-item]

        async def until(kind: str) -> dict[str, Any]:
            while True:
                raw = await socket.recv()
                frame = json.loads(raw) if isinstance(raw, str) else {"type": "audio"}
                assert frame["type"] != "error", frame
                if frame["type"] == kind:
                    return dict(frame)

        await socket.send(json.dumps({"type": "start_session", "userId": "asha", "sessionId": "hour"}))
        await until("session_ready")
        for number in numbers:
            await socket.send(json.dumps({"type": "user_text", "text": f"question {number}"}))
            done = await until("turn_complete")
            assert not done["interrupted"]
            await disturb(fake, number)
