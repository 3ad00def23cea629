"""Memory is flat under appends without end: what grows is the database.

The load runs in a process of its own. Every 10,000 appends it stops, so that nothing is on its way, collects
garbage, gives freed memory back to the system (malloc_trim) and notes its resident set. A line fitted through what
it noted after the warm-up tells the growth per 100,000 appends. The bound of the cache is small, so that it is full,
and evicting, long before; those who talk at one time hold half of it at most (a record in use cannot be evicted, and
how many there are is chance). SQLite's page caches, which fill and empty as its readers come and go, are taken out
and held against their own bounds.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

import samvad
from samvad.runtime import Samvad, open_samvad
from tests.support import REPOSITORY, SOAK

pytestmark = pytest.mark.crash

USERS = 400
DEVICES = 100  # their users' records are half of what the cache may hold
WARM_UP_APPENDS = 160_000  # until windows, page caches and the allocator are full: flat from about there
APPENDS_PER_VISIT = 50
STRIDE = (
    157  # users are visited in turn, though not in the order of their names: the warm-up fills every window
)
NOTE_EVERY_APPENDS = 10_000
CACHE_BYTES_MAX = 8 << 20
GROWTH_BYTES_MAX = 1 << 20  # per 100,000 appends
SQLITE_BYTES_MAX = (
    32 << 20
)  # the page caches of the writer (16 MiB) and of two readers (4 MiB each), and what is around


class Note(NamedTuple):
    """After so many appends: the resident set, how much of it SQLite holds, and the cache by its own count; bytes."""

    appends: int
    resident_bytes: int
    sqlite_bytes: int
    cache_bytes: int


def resident_bytes() -> int:
    """The resident set without what is mapped from files (the index of the log)."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def growth_bytes(points: list[tuple[int, int]]) -> float:
    """The slope of the line of least squares through (appends, bytes), per 100,000 appends."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    above = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return 100_000 * above / sum((x - mean_x) ** 2 for x, _ in points)


async def load(path: str, appends: int) -> list[Note]:
    """Devices that each say a few things to one user and go on to the next; returns what was noted."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)
    done = 0
    visits = itertools.count()
    rngs = [random.Random(number) for number in range(DEVICES)]

    async def device(samvad: Samvad, number: int, until: int) -> None:
        nonlocal done
        while done < until:
            visit = next(visits)
            user_id = f"user_{visit * STRIDE % USERS}"
            for _ in range(APPENDS_PER_VISIT):
                message = {"role": "user", "content": "x" * rngs[number].randint(20, 150)}
                if number % 2:
                    message["id"] = f"{number}-{done}"
                await samvad.append_many(user_id, [message])
                done += 1
            await samvad.save_session(f"session_of_{user_id}", user_id)
            await samvad.save_user_state(user_id, {"visit": visit})

    notes: list[Note] = []
    # Memory is the question here, not the disk: no need to wait for it.
    async with open_samvad(f"sqlite:///{path}", cache_bytes_max=CACHE_BYTES_MAX, synchronous="OFF") as samvad:
        while done < appends:
            await asyncio.gather(
                *(device(samvad, number, done + NOTE_EVERY_APPENDS) for number in range(DEVICES))
            )
            gc.collect()
            trim(0)
            notes.append(Note(done, resident_bytes(), apsw.memory_used(), samvad.cache.bytes_held))
        assert samvad.cache.evictions > USERS
    return notes


def notes_of(path: Path, appends: int) -> list[Note]:
    """Run the load in a process of its own."""
    source = str(Path(samvad.__file__).parent.parent)
    arguments = json.dumps([str(path), appends])
    run = subprocess.run(
        [sys.executable, "-c", "from tests.crash.test_memory import main; main()", arguments],
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([source, str(REPOSITORY)])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return [Note(*each) for each in json.loads(run.stdout)]


def main() -> None:
    """The load as a process: [path, appends] as JSON in, notes as JSON out."""
    sys.stdout.write(json.dumps(asyncio.run(load(*json.loads(sys.argv[1])))))


def check(notes: list[Note]) -> None:
    """The resident set does not grow by more than 1 MiB per 100,000 appends; what is bounded keeps to its bounds."""
    growth = growth_bytes(
        [
            (note.appends, note.resident_bytes - note.sqlite_bytes)
            for note in notes
            if note.appends >= WARM_UP_APPENDS
        ]
    )
    assert growth < GROWTH_BYTES_MAX, f"{growth / 1024:.0f} KiB per 100,000 appends: {notes}"
    assert max(note.sqlite_bytes for note in notes) < SQLITE_BYTES_MAX, notes
    assert max(note.cache_bytes for note in notes) <= CACHE_BYTES_MAX, notes


def test_memory_is_flat(database_path: Path) -> None:
    """160,000 appends over 400 users after as many to warm up: under 1 MiB more per 100,000."""
    check(notes_of(database_path, WARM_UP_APPENDS + 160_000))


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="SAMVAD_SOAK=1 asks for it")
def test_memory_is_flat_soak(database_path: Path) -> None:
    """1,000,000 appends."""
    check(notes_of(database_path, WARM_UP_APPENDS + 1_000_000))
