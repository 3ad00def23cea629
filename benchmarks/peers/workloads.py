"""What is measured on one engine: does it keep what it says, how fast is it, how does it grow.

Each function opens the engine on a new file in ``directory``, measures, closes and removes the file, and gives
a plain dict, since it runs in a process of the engine's own (see :mod:`benchmarks.peers.process`).
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import Sample, closed_loop, load_pairs
from benchmarks.peers.engine import WINDOW, Engine, Message, create

SESSIONS_AT_ONCE = 50
VERIFY_SESSIONS = 3
VERIFY_PAIRS = 5
GROWTH_SHARE = 5
"""A session under measurement may grow by one part in this many before another takes its place …"""
GROWTH_PAIRS_MIN = 5
"""… but gets this many pairs at least, so that not every append is the first one on its connection."""

Result = dict[str, Any]


@asynccontextmanager
async def _opened(engine: Engine, path: Path) -> AsyncIterator[Engine]:
    await engine.open(path)
    try:
        yield engine
    finally:
        await engine.close()


def _files(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{path.name}*"))


def _remove(path: Path) -> None:
    for file in _files(path):
        file.unlink(missing_ok=True)


def _history(length: int) -> list[Message]:
    """Give ``length`` messages, user and assistant in turn, beginning with the user."""
    flat = itertools.chain.from_iterable((("user", said), ("assistant", answer)) for said, answer in _pairs())
    return list(itertools.islice(flat, length))


def _pairs() -> Iterator[tuple[str, str]]:
    return itertools.cycle(load_pairs())


def _summary(sample: Sample) -> Result:
    return {
        "per_second": sample.per_second,
        "p50_ms": sample.quantile_ms(0.5),
        "p99_ms": sample.quantile_ms(0.99),
        "operations": len(sample.latencies_s),
        "errors": dict(sample.errors),
    }


async def verify(name: str, directory: Path) -> Result:
    """Append to a few sessions, close, open the file again with a new object, and compare every text."""
    path = directory / "verify.db"
    wanted: dict[str, list[str]] = {f"session-{number}": [] for number in range(VERIFY_SESSIONS)}
    async with _opened(create(name), path) as engine:
        pairs = _pairs()
        for session_id in list(wanted) * VERIFY_PAIRS:
            pair = next(pairs)
            await engine.append_pair(session_id, *pair)
            wanted[session_id] += pair
        durability = engine.durability(path)
    async with _opened(create(name), path) as engine:
        found = {session_id: engine.texts(await engine.load(session_id)) for session_id in wanted}
    _remove(path)
    return {
        "durability": durability,
        "kept": sum(len(texts) for texts in found.values()),
        "wanted": sum(len(texts) for texts in wanted.values()),
        "exact": found == wanted,
    }


async def throughput(name: str, directory: Path, seconds: float) -> Result:
    """Appends of a pair and loads of the last 100, one session and 50 at once, each for ``seconds``.

    Every session begins with 100 messages. Callers append each to a session of its own, and load one session
    after another, so that an engine that answers without waiting does not load the same one for ever.
    """
    path = directory / "throughput.db"
    pairs = _pairs()
    many = [f"session-{number}" for number in range(SESSIONS_AT_ONCE)]
    found: Result = {}
    async with _opened(create(name, window=WINDOW), path) as engine:

        async def append(caller: int, _: int) -> None:
            await engine.append_pair(sessions[caller], *next(pairs))

        async def load(caller: int, turn: int) -> None:
            await engine.load(sessions[(caller + turn) % len(sessions)])

        for sessions in (["alone"], many):
            for session_id in sessions:
                await engine.fill(session_id, _history(WINDOW))
                await engine.warm(session_id)
            for what, operation in (("append", append), ("load", load)):
                sample = await closed_loop(operation, callers=len(sessions), seconds=seconds)
                found[f"{what} {len(sessions)}"] = _summary(sample)
    _remove(path)
    return found


async def growth(name: str, directory: Path, size: int, budget_s: float, operations_max: int) -> Result:
    """The cost of one append of a pair, and of one load of 100, on sessions that hold ``size`` messages already.

    One caller. Appends and loads take up to ``budget_s`` each; filling sessions is not counted. A session that
    has grown by a fifth (one of 10: to 20 messages) is left for a newly filled one. ``disk_bytes`` is what the
    files take at the end.
    """
    path = directory / "growth.db"
    history = _history(size)
    pairs = _pairs()
    turns = max(GROWTH_PAIRS_MIN, size // GROWTH_SHARE // 2)
    appends: list[float] = []
    loads: list[float] = []
    async with _opened(create(name), path) as engine:
        for number in itertools.count():
            if _spent(appends, budget_s, operations_max) and _spent(loads, budget_s, operations_max):
                break
            session_id = f"session-{number}"
            await engine.fill(session_id, history)
            await engine.warm(session_id)
            for _ in range(turns):
                if _spent(appends, budget_s, operations_max):
                    break
                pair = next(pairs)
                began = time.perf_counter()
                await engine.append_pair(session_id, *pair)
                appends.append(time.perf_counter() - began)
            for _ in range(turns):
                if _spent(loads, budget_s, operations_max):
                    break
                began = time.perf_counter()
                await engine.load(session_id)
                loads.append(time.perf_counter() - began)
        disk_bytes = sum(file.stat().st_size for file in _files(path))
    _remove(path)
    return {
        "append_ms": statistics.median(appends) * 1000,
        "load_ms": statistics.median(loads) * 1000,
        "appends": len(appends),
        "loads": len(loads),
        "disk_bytes": disk_bytes,
    }


def _spent(took_s: list[float], budget_s: float, operations_max: int) -> bool:
    return len(took_s) >= operations_max or sum(took_s) >= budget_s


async def appends(name: str, directory: Path, callers: int, seconds: float) -> Result:
    """Appends of one message, each caller to a user of its own, for ``seconds``. For engines with ``append_one``."""
    path = directory / "appends.db"
    texts = itertools.cycle(said for said, _ in load_pairs())
    async with _opened(create(name), path) as opened:
        engine: Any = opened

        async def append(caller: int, _: int) -> None:
            await engine.append_one(f"user-{caller}", next(texts))

        for caller in range(callers):
            await append(caller, 0)
        sample = await closed_loop(append, callers=callers, seconds=seconds)
    _remove(path)
    return _summary(sample)


WORKLOADS: dict[str, Callable[..., Coroutine[Any, Any, Result]]] = {
    "verify": verify,
    "throughput": throughput,
    "growth": growth,
    "appends": appends,
}
