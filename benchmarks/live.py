"""What live conversations cost: 200 at once on one core, and time to the first chunk with and without keeping.

The whole path from a provider's event to the frame that is handed to the network runs in one process, over SQLite;
the socket itself is left out. Each chunk carries the moment at which the provider made it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.measure import Options, Spread, Unavailable, one_core
from benchmarks.report import Bound, Section, Table, spread

T = TypeVar("T")

CONVERSATIONS = 200
CHUNKS_PER_S = 20
P99_MS_MAX = 20.0
RATIO_MAX = 1.05
FIRSTS = 40

INTRODUCTION = (
    f"{CONVERSATIONS} conversations on one core, begun within a second, {CHUNKS_PER_S} chunks a second each, from "
    "the provider's event to the frame handed to the network; kept in SQLite. Then one conversation at that pace, its "
    "turns alternately kept and not."
)


class _Wire:
    """Takes frames, and notes how old each chunk is."""

    def __init__(self) -> None:
        self.ages_ms: list[float] = []
        self.chunk_s = 0.0  # when the last chunk came
        self.done = asyncio.Event()
        self.inbound: asyncio.Queue[str | None] = asyncio.Queue()

    async def send_text(self, data: bytes) -> None:
        frame = json.loads(data)
        if frame["type"] == "text_chunk":
            self.chunk_s = time.perf_counter()
            self.ages_ms.append((self.chunk_s - float(frame["text"])) * 1000)
        elif frame["type"] in ("turn_complete", "session_ready"):
            self.done.set()

    async def send_audio(self, data: bytes) -> None:
        """There is none."""

    async def close(self, code: int, reason: str) -> None:
        """Nothing to close."""

    def abort(self) -> None:
        """Nothing to drop."""

    async def say(self, **frame: Any) -> None:
        """Send a frame and wait until it is answered."""
        self.done.clear()
        self.inbound.put_nowait(json.dumps(frame))
        await self.done.wait()


class _Provider:
    """Answers with the moments at which it does."""

    name = "clockwork"

    def __init__(self, chunks: int, pause_s: float) -> None:
        from samvad.live.providers import base

        self.base = base
        self.capabilities = base.Capabilities()
        self.chunks, self.pause_s = chunks, pause_s

    async def open(self, context: Any) -> Any:
        """One session."""
        return _Session(self)

    async def close(self) -> None:
        """Nothing is shared."""


class _Session:
    def __init__(self, provider: _Provider) -> None:
        self.provider = provider
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None

    async def events(self) -> AsyncIterator[Any]:
        while (event := await self.queue.get()) is not None:
            yield event

    async def send_text(self, text: str, *, note: str | None = None) -> None:
        self.task = asyncio.create_task(self._answer())

    async def _answer(self) -> None:
        base = self.provider.base
        for _ in range(self.provider.chunks):
            if self.provider.pause_s:
                await asyncio.sleep(self.provider.pause_s)
            self.queue.put_nowait(base.Delta(f"{time.perf_counter()} "))
        self.queue.put_nowait(base.TurnDone())

    async def interrupt(self, *, heard_text: str, played_ms: int | None) -> None:
        """Nobody interrupts."""

    async def close(self) -> None:
        self.queue.put_nowait(None)


def run(options: Options) -> Section:
    """Measure both, in each round anew."""
    try:
        from samvad.live.service import LiveService
    except ImportError as error:
        raise Unavailable(f"samvad.live: {error}") from error
    del LiveService
    p50, p99, ratios = [], [], []
    with one_core():
        for number in range(options.rounds):
            seconds = 2 if options.quick else 5
            ages = _run(_crowd(options.directory / f"crowd{number}.db", seconds))
            ages.sort()
            p50.append(ages[len(ages) // 2])
            p99.append(ages[int(len(ages) * 0.99)])
            ratios.append(_run(_firsts(options.directory / f"first{number}.db")))
    table = Table(
        "Added latency of a chunk in milliseconds; time to the first chunk, kept : not kept",
        ("p50", "p99", "ratio"),
        [(spread(p50), spread(p99), spread(ratios))],
    )
    slow, ratio = Spread.of(p99).median, Spread.of(ratios).median
    bounds = [
        Bound("live chunk p99", f"< {P99_MS_MAX:g} ms", f"{slow:.2f} ms", slow < P99_MS_MAX),
        Bound("first chunk, kept : not kept", f"< {RATIO_MAX}", f"{ratio:.3f}", ratio < RATIO_MAX),
    ]
    return Section("Live conversations", INTRODUCTION, [table], bounds)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """On the server's own loop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def _crowd(path: Path, seconds: int) -> list[float]:
    from samvad import open_samvad
    from samvad.live.connection import Connection
    from samvad.live.service import LiveService

    provider = _Provider(seconds * CHUNKS_PER_S, 1 / CHUNKS_PER_S)
    async with open_samvad(f"sqlite:///{path}") as samvad:
        live = LiveService(samvad, lambda name: provider, provider=provider.name)
        wires, tasks = [], []
        for number in range(CONVERSATIONS):
            wire = _Wire()
            connection = Connection(live, samvad, wire)
            live.admit(connection)
            tasks.append(asyncio.create_task(connection.run(wire.inbound.get)))
            await wire.say(type="start_session", userId=f"u{number}", sessionId=f"s{number}")
            wires.append(wire)

        async def ask(number: int, wire: _Wire) -> None:
            await asyncio.sleep(number / CONVERSATIONS)  # people do not all begin in the same instant
            await wire.say(type="user_text", text="Tell me.")

        await asyncio.gather(*[ask(number, wire) for number, wire in enumerate(wires)])
        for wire in wires:
            wire.inbound.put_nowait(None)
        await asyncio.gather(*tasks)
        return [age for wire in wires for age in wire.ages_ms]


async def _firsts(path: Path) -> float:
    """Median time from the user's frame to the first chunk: kept, divided by not kept; the two in turns."""
    from samvad import open_samvad
    from samvad.live.connection import Connection
    from samvad.live.parts import LiveOptions
    from samvad.live.service import LiveService

    provider = _Provider(1, 1 / CHUNKS_PER_S)
    took: dict[bool, list[float]] = {True: [], False: []}
    async with open_samvad(f"sqlite:///{path}") as samvad:
        wires, tasks = {}, []
        for persist in (True, False):
            live = LiveService(
                samvad, lambda name: provider, provider=provider.name, options=LiveOptions(persist=persist)
            )
            wire = wires[persist] = _Wire()
            connection = Connection(live, samvad, wire)
            live.admit(connection)
            tasks.append(asyncio.create_task(connection.run(wire.inbound.get)))
            await wire.say(type="start_session", userId=f"u{persist}", sessionId=f"s{persist}")
        for _ in range(FIRSTS):
            for persist, wire in wires.items():
                began_s = time.perf_counter()
                await wire.say(type="user_text", text="Tell me.")
                took[persist].append(wire.chunk_s - began_s)  # an answer of one chunk
        for wire in wires.values():
            wire.inbound.put_nowait(None)
        await asyncio.gather(*tasks)
    return statistics.median(took[True]) / statistics.median(took[False])
