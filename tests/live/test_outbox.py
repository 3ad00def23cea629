"""What waits for a client goes out in order, in few frames, and is counted in bytes."""

from __future__ import annotations

import asyncio
import json

import pytest

from samvad.live.outbox import Outbox

pytestmark = pytest.mark.anyio


class Turn:
    """Notes what was delivered."""

    def __init__(self) -> None:
        self.chars = 0

    def delivered(self, chars: int, audio_ms: float) -> None:
        self.chars = max(self.chars, chars)


class Wire:
    """A network that takes frames while `open`; `at_once` counts those that went the short way."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.frames: list[dict[str, str]] = []
        self.at_once = 0

    def write(self, data: bytes, audio: bool) -> bool:
        if not self.open.is_set():
            return False
        self.frames.append(json.loads(data))
        self.at_once += 1
        return True

    async def send_text(self, data: bytes) -> None:
        await self.open.wait()
        self.frames.append(json.loads(data))

    async def send_audio(self, data: bytes) -> None:
        await self.open.wait()


async def idle() -> None:
    """Let everybody go as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_pieces_that_wait_go_out_as_one_frame() -> None:
    """In order with all others, each turn's by itself; the turn learns what was delivered, and not before."""
    outbox, wire, first, second = Outbox(), Wire(), Turn(), Turn()
    running = asyncio.create_task(outbox.run(wire))
    await idle()
    for number in range(1, 101):
        outbox.put_text("t1", "ab", first, 2 * number)
    outbox.put(b'{"type": "pong"}')
    outbox.put_text("t1", "!", first, 201)
    outbox.put_text("t2", "next", second, 4)
    await idle()
    assert (wire.frames, first.chars) == ([], 0)
    wire.open.set()
    outbox.close()
    await running
    assert [frame.get("text", frame["type"]) for frame in wire.frames] == ["ab" * 100, "pong", "!", "next"]
    assert [frame.get("turnId") for frame in wire.frames] == ["t1", None, "t1", "t2"]
    assert (first.chars, second.chars, outbox.bytes_waiting) == (201, 4, 0)


async def test_with_nothing_before_it_a_frame_goes_out_at_once() -> None:
    """Where the network takes it; behind one that waits, it waits too."""
    outbox, wire, turn = Outbox(), Wire(), Turn()
    wire.open.set()
    running = asyncio.create_task(outbox.run(wire))
    await idle()
    outbox.put_text("t1", "one", turn, 3)
    assert (wire.at_once, turn.chars) == (1, 3)
    wire.open.clear()
    outbox.put_text("t1", "two", turn, 6)
    wire.open.set()
    outbox.put(b'{"type": "pong"}')
    assert wire.at_once == 1, "what came before it is not out yet"
    outbox.close()
    await running
    assert [frame.get("text", frame["type"]) for frame in wire.frames] == ["one", "two", "pong"]


async def test_pieces_are_counted_as_they_wait() -> None:
    """A reader that takes nothing overflows by text too, however it is put together."""
    outbox, turn = Outbox(bytes_max=10_000), Turn()
    for number in range(200):
        outbox.put_text("t1", "x", turn, number)
    assert outbox.overflowed and outbox.bytes_waiting == 0


async def test_taken_back_pieces_make_room() -> None:
    """An answer that was interrupted is dropped, with all its pieces; what others said stays."""
    outbox, wire, turn = Outbox(), Wire(), Turn()
    outbox.put(b'{"type": "pong"}')
    before = outbox.bytes_waiting
    for number in range(5):
        outbox.put_text("t1", "नमस्ते", turn, 6 * number)
    outbox.drop_answer(turn)
    assert outbox.bytes_waiting == before
    wire.open.set()
    outbox.close()
    await outbox.run(wire)
    assert [frame["type"] for frame in wire.frames] == ["pong"]
