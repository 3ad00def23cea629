"""What every benchmark measures with: the closed loop, medians and spread, one core, texts to say.

Durations are seconds unless the name says otherwise. Nothing here knows any engine.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("SAMVAD_BENCH_DATA") or REPOSITORY.parent / "shared" / "data")
"""Public data sets, which are not shipped: `dialogues/sgd-dev.jsonl`, `xquad/xquad.en.json`, `xquad/xquad.hi.json`."""
DIALOGUES = DATA / "dialogues" / "sgd-dev.jsonl"

ROUNDS_DEFAULT = 3
CELL_S = 1.0
CELL_S_QUICK = 0.3


class Unavailable(Exception):
    """A benchmark or an engine cannot run here; the text says why, in one line."""


@dataclass(frozen=True)
class Options:
    """How much to measure, and where the databases may be written."""

    directory: Path
    """An empty directory on the disk to be measured; the caller removes it."""
    rounds: int = ROUNDS_DEFAULT
    quick: bool = False
    named: bool = False
    """The benchmark was asked for by its name: it may take its time."""

    @property
    def cell_s(self) -> float:
        """Seconds for which one number is measured, in each round."""
        return CELL_S_QUICK if self.quick else CELL_S


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, with the lowest and the highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise one value per round; ``ValueError`` when there is none."""
        if not values:
            raise ValueError("no round gave a value")
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Sample:
    """What one closed loop did."""

    elapsed_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def per_second(self) -> float:
        """Operations that succeeded, a second."""
        return len(self.latencies_s) / self.elapsed_s if self.elapsed_s else 0.0

    def quantile_ms(self, share: float) -> float:
        """Latency in milliseconds below which ``share`` of the operations stayed; 0 when there were none."""
        if not self.latencies_s:
            return 0.0
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


async def closed_loop(
    operation: Callable[[int, int], Awaitable[object]], *, callers: int, seconds: float
) -> Sample:
    """Let ``callers`` callers repeat ``operation(caller, turn)``, each waiting for its answer, for ``seconds``.

    No caller starts another operation after the time is up, and those under way are waited for: the time
    they take counts. A raised error is counted by its type and is not an operation.
    """
    sample = Sample()
    gc.collect()
    begin = time.perf_counter()
    deadline = begin + seconds

    async def caller(number: int) -> None:
        turn = 0
        now = time.perf_counter()
        while now < deadline:
            try:
                await operation(number, turn)
            except Exception as error:  # a peer's failure is a result of the benchmark: counted and shown
                sample.errors[describe_error(error)] += 1
                now = time.perf_counter()
            else:
                started, now = now, time.perf_counter()
                sample.latencies_s.append(now - started)
            turn += 1

    await asyncio.gather(*(caller(number) for number in range(callers)))
    sample.elapsed_s = time.perf_counter() - begin
    return sample


def describe_error(error: BaseException) -> str:
    """Name an error in at most 80 characters, the innermost cause where a driver's error is wrapped."""
    first_line = str(getattr(error, "orig", error)).partition("\n")[0]
    return f"{type(error).__name__}: {first_line}"[:80]


@contextmanager
def one_core() -> Iterator[None]:
    """Let this process, and the threads and processes started meanwhile, run on one core only.

    Does nothing where the system has no such call (macOS, Windows).
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def load_pairs(count_max: int = 5000) -> list[tuple[str, str]]:
    """Give (user text, assistant text) pairs of real dialogues, or made-up ones where those are not found."""
    if DIALOGUES.exists():
        return _dialogue_pairs(count_max)
    return _generated_pairs(min(count_max, 500))


def texts_source() -> str:
    """Say in a few words where :func:`load_pairs` takes its texts from."""
    return "Schema-Guided Dialogue, dev set" if DIALOGUES.exists() else "generated (dialogues not found)"


def _dialogue_pairs(count_max: int) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    with DIALOGUES.open(encoding="utf-8") as lines:
        for line in lines:
            turns = json.loads(line)["turns"]
            for said, answered in zip(turns[::2], turns[1::2], strict=False):
                pairs.append((said["content"], answered["content"]))
            if len(pairs) >= count_max:
                break
    return pairs[:count_max]


def _generated_pairs(count: int) -> list[tuple[str, str]]:
    chance = random.Random(20250110)
    words = (
        "book",
        "a",
        "table",
        "for",
        "two",
        "tomorrow",
        "please",
        "at",
        "half",
        "past",
        "seven",
        "station",
    )

    def text(length: int) -> str:
        return " ".join(chance.choice(words) for _ in range(length)).capitalize() + "."

    return [(text(chance.randint(4, 20)), text(chance.randint(8, 30))) for _ in range(count)]


def progress(text: str) -> None:
    """Tell whoever is waiting what is being measured, on standard error."""
    print(text, file=sys.stderr, flush=True)
