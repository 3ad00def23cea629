"""The search engine over 100,000 passages, and appends while it searches, beside FTS5 as it comes.

Processor time, not time by the clock: what else runs on the machine weighs less on it. Each side has a process of its
own, on one core, so that its memory is its own too.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import apsw

from benchmarks.knowledge_texts import PASSAGES_PER_DOCUMENT, documents, questions
from benchmarks.measure import Sample, closed_loop, one_core, progress
from samvad import open_samvad

_T = TypeVar("_T")
DOCUMENTS_AT_ONCE = 10
RESULTS = 3
APPENDERS = 10
SEARCHERS = 2
SLICES = 10


class Scale(NamedTuple):
    """What one side did: passages a second, milliseconds of a query, and memory at most, in MiB."""

    passages: int
    passages_per_s: float
    p50_ms: float
    p99_ms: float
    filled_mib: float
    peak_mib: float
    file_mib: float


def measured(side: str, directory: Path, passages: int, queries: int) -> Scale:
    """Fill and ask one side, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with one_core(), ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_SIDES[side], directory, passages, queries).result()


def _samvad(directory: Path, passages: int, queries: int, *, sealed: bool = False) -> Scale:
    """Our engine, as the process that searches runs it; `sealed`: in memory, with a sealed copy of the index."""
    from samvad.knowledge.engine import Engine
    from samvad.knowledge.records import Filter
    from samvad.knowledge.worker import make_steady
    from tests.knowledge.lists import SCOPE, stored

    engine = Engine(directory, sealed=sealed)
    engine.unlock(SCOPE, os.urandom(32))
    make_steady()
    filled = 0.0
    texts = enumerate(documents(passages))
    for batch in _batches(texts):
        made = [stored(f"d{number}", f"Document {number}", text, "") for number, text in batch]
        begin = time.process_time()
        engine.put(made)
        filled += time.process_time() - begin
    filled_mib = _peak_mib()
    took = _asked(queries, lambda query: engine.search(query, [SCOPE], Filter(), RESULTS))
    engine.close()
    path = engine.path(SCOPE)
    assert path is not None
    return _scale(passages, filled, took, filled_mib, path)


def _plain(directory: Path, passages: int, queries: int) -> Scale:
    """FTS5 with its default tokenizer, any of the words of a query, its BM25; the passages are given to it as such."""
    path = directory / "plain.db"
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "off")
    connection.execute("CREATE VIRTUAL TABLE words USING fts5 (body)")
    filled = 0.0
    for batch in _batches(documents(passages)):
        rows = [(piece,) for text in batch for piece in text.split("\n\n")]
        begin = time.process_time()
        with connection:
            connection.executemany("INSERT INTO words (body) VALUES (?)", rows)
        filled += time.process_time() - begin

    def ask(query: str) -> None:
        words = " OR ".join(f'"{word}"' for word in re.findall(r"[^\s\"]+", query))
        sql = "SELECT body FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?"
        list(connection.execute(sql, (words, RESULTS)))

    filled_mib = _peak_mib()
    return _scale(passages, filled, _asked(queries, ask), filled_mib, path)


def _sealed(directory: Path, passages: int, queries: int) -> Scale:
    return _samvad(directory, passages, queries, sealed=True)


_SIDES = {"samvad": _samvad, "sealed": _sealed, "plain": _plain}


def _batches(texts: Iterator[_T]) -> Iterator[list[_T]]:
    while batch := list(islice(texts, DOCUMENTS_AT_ONCE)):
        yield batch


def _asked(queries: int, ask: Callable[[str], object]) -> list[float]:
    took = []
    for query in questions()[:queries]:
        begin = time.process_time()
        ask(query)
        took.append(1_000 * (time.process_time() - begin))
    return sorted(took)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _scale(passages: int, filled: float, took: list[float], filled_mib: float, path: Path) -> Scale:
    return Scale(
        passages,
        passages / filled,
        took[len(took) // 2],
        took[min(len(took) - 1, int(0.99 * len(took)))],
        filled_mib,
        _peak_mib(),
        path.stat().st_size / 2**20,
    )


def appends_while_searching(directory: Path, rounds: int, seconds: float) -> list[tuple[Sample, Sample, int]]:
    """Appends of some callers alone, and again while others search without a pause; with how many searches."""
    return asyncio.run(_appends(directory, rounds, seconds))


def _add(whole: Sample, part: Sample) -> None:
    whole.elapsed_s += part.elapsed_s
    whole.latencies_s += part.latencies_s


async def _appends(directory: Path, rounds: int, seconds: float) -> list[tuple[Sample, Sample, int]]:
    asked = questions()
    found = []
    async with open_samvad(f"sqlite:///{directory / 'appends.db'}") as samvad:
        for number, text in enumerate(documents(100 * PASSAGES_PER_DOCUMENT)):
            await samvad.knowledge.add_text(f"Document {number}", text)
        searches = 0

        async def append(caller: int, turn: int) -> None:
            await samvad.append_to_user_history(f"user-{caller}", "user", f"message {turn}")

        async def search(stop: asyncio.Event, first: int) -> None:
            nonlocal searches
            at = first
            while not stop.is_set():
                await samvad.knowledge.search(asked[at % len(asked)])
                at += SEARCHERS
                searches += 1

        await closed_loop(append, callers=APPENDERS, seconds=seconds / 4)
        for number in range(rounds):
            progress(f"knowledge: appends, round {number + 1}")
            alone, beside, searches = Sample(), Sample(), 0
            # By turns, a short while each: what else the machine does weighs on both alike.
            for _ in range(SLICES):
                _add(alone, await closed_loop(append, callers=APPENDERS, seconds=seconds / SLICES))
                stop = asyncio.Event()
                searching = [asyncio.create_task(search(stop, first)) for first in range(SEARCHERS)]
                _add(beside, await closed_loop(append, callers=APPENDERS, seconds=seconds / SLICES))
                stop.set()
                await asyncio.gather(*searching)
            found.append((alone, beside, searches))
    return found
