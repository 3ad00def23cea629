"""What live conversations cost: 200 at once on one core, and time to the first chunk with and without keeping.

From one end to the other: a chat endpoint sends a chunk, the server reads it with OpenAI's client, and hands it to a
WebSocket. Each chunk carries the moment at which the endpoint sent it. The server has one core, the endpoint and the
clients have another. Beside it runs a relay that does nothing but hand on the pieces.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import http
from benchmarks.http import Running, cpu_s
from benchmarks.live_load import Clockwork, crowd, firsts
from benchmarks.measure import Options, Spread, Unavailable, progress
from benchmarks.report import Bound, Section, Table, spread

T = TypeVar("T")

CONVERSATIONS = 200
CHUNKS_PER_S = 20
P99_MS_MAX = 20.0
RATIO_MAX = 1.05
FIRSTS = 60

INTRODUCTION = (
    f"{CONVERSATIONS} conversations, begun within a second, {CHUNKS_PER_S} chunks a second each, from a chat endpoint "
    "through OpenAI's client to a WebSocket; the server on one core, endpoint and clients on another; kept in SQLite. "
    "The added latency of a chunk is the time from its sending to its arrival. `relay` is OpenAI's client and "
    "Starlette's WebSocket with nothing between. Then one conversation, asked in turns of a server that keeps what is "
    "said and of one that does not."
)


def server(name: str, data_dir: Path, base_url: str, core: int) -> AbstractContextManager[Running]:
    """Run one of the servers on one core."""
    return http.server(name, data_dir, core, base_url, module="benchmarks.live_servers")


def run(options: Options) -> Section:
    """Measure all, in each round anew."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Unavailable("two cores are needed: one for the server, one for the load")
    found: dict[str, list[tuple[float, float, float, float]]] = {"relay": [], "samvad": []}
    ratios: dict[float, list[float]] = {1 / CHUNKS_PER_S: [], 0.0: []}
    os.sched_setaffinity(0, {cores[0]})
    try:
        for number in range(options.rounds):
            for name, measured in found.items():
                progress(f"live: round {number + 1}, {name}")
                folder = options.directory / f"{name}{number}"
                measured.append(_run(_crowd(name, folder, 2 if options.quick else 5, cores[-1])))
            for pause_s, ratio in ratios.items():
                progress(f"live: round {number + 1}, first chunk after {pause_s * 1000:g} ms")
                folder = options.directory / f"first{number}-{pause_s:g}"
                ratio.append(_run(_firsts(folder, pause_s, cores[-1])))
    finally:
        os.sched_setaffinity(0, set(cores))
    crowds = Table(
        "Added latency of a chunk in milliseconds, and the server's processor time for it in µs",
        ("server", "p50", "p99", "slowest", "CPU µs a chunk"),
        [(name, *(spread(column) for column in zip(*rows, strict=True))) for name, rows in found.items()],
        notes=("The processor time hardly depends on what else the machine does.",),
    )
    paused, at_once = ratios.values()
    first = Table(
        "Time to the first chunk, kept : not kept",
        ("the endpoint's first chunk comes", "ratio"),
        [(f"after {1000 / CHUNKS_PER_S:g} ms", spread(paused)), ("at once", spread(at_once))],
    )
    slow, ratio = Spread.of([row[1] for row in found["samvad"]]).median, Spread.of(paused).median
    bounds = [
        Bound("live chunk p99", f"< {P99_MS_MAX:g} ms", f"{slow:.2f} ms", slow < P99_MS_MAX),
        Bound("first chunk, kept : not kept", f"< {RATIO_MAX}", f"{ratio:.3f}", ratio < RATIO_MAX),
    ]
    return Section("Live conversations", INTRODUCTION, [crowds, first], bounds)


def _run(work: Coroutine[Any, Any, T]) -> T:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def _crowd(name: str, folder: Path, seconds: int, core: int) -> tuple[float, float, float, float]:
    """p50, p99 and most of the latencies in ms, and the processor time of the server for a chunk in µs."""
    clock = Clockwork(seconds * CHUNKS_PER_S, 1 / CHUNKS_PER_S)
    await clock.start()
    with server(name, folder, clock.url, core) as running:
        await crowd(running.url, 2)  # what is imported late is imported now
        before_s = cpu_s(running.process)
        ages_ms = sorted(age_s * 1000 for age_s in await crowd(running.url, CONVERSATIONS))
        cpu_us = (cpu_s(running.process) - before_s) * 1e6 / len(ages_ms)
    if clock.late > len(ages_ms) / 100:
        progress(f"live: the endpoint itself was late for {clock.late} of {len(ages_ms)} chunks")
    return ages_ms[len(ages_ms) // 2], ages_ms[int(len(ages_ms) * 0.99)], ages_ms[-1], cpu_us


async def _firsts(folder: Path, pause_s: float, core: int) -> float:
    """Median time from the user's frame to the first chunk: kept, divided by not kept."""
    clock = Clockwork(1, pause_s)
    await clock.start()
    with (
        server("samvad", folder / "kept", clock.url, core) as kept,
        server("unkept", folder / "unkept", clock.url, core) as unkept,
    ):
        await firsts([kept.url, unkept.url], 3)
        took = await firsts([kept.url, unkept.url], FIRSTS)
    return statistics.median(took[0]) / statistics.median(took[1])
