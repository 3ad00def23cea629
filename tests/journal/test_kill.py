"""Real processes: kill -9 at any moment, and a file size limit that bites in the middle of a write."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from samvad.sessions.journal import Journal
from tests.support import REPOSITORY, SOAK

pytestmark = [pytest.mark.anyio, pytest.mark.crash]

SEED = 20_250_110


class Killed:
    """One directory through many lives: what was acknowledged, and what was forgotten."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.acknowledged: dict[int, str] = {}
        self.forgotten: set[int] = set()
        self.highest = 0

    def live_and_die(self, run: int, lines: int) -> None:
        """Start the writer, kill it after it has told so many lines, and believe all that it told."""
        with subprocess.Popen(
            [sys.executable, REPOSITORY / "tests" / "journal" / "writer.py", self.directory, str(run)],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            for _ in range(lines):
                self.hear(process.stdout.readline())
            process.kill()
            for line in process.stdout:
                self.hear(line)
        assert process.returncode == -9

    def hear(self, line: str) -> None:
        """Take note of what the writer was told; the last line may be cut."""
        words = line.split()
        if not line.endswith("\n"):
            return
        number = int(words[1])
        if words[0] == "forget":
            self.forgotten.add(number)
        else:
            assert number > 0 and number not in self.acknowledged
            self.acknowledged[number] = words[2]

    async def check(self) -> int:
        """Compare with what a start finds; returns how many entries came back though they were forgotten."""
        journal = Journal(self.directory, segment_bytes=64 * 1024)
        replay = await journal.open()
        await journal.close()
        assert replay.entries_lost_max == 0
        found = {entry.number: entry.payload.decode() for entry in replay.entries}
        assert list(found) == sorted(found) and len(found) == len(replay.entries)
        for number, payload in self.acknowledged.items():
            assert found.get(number, payload) == payload
            assert number in found or number in self.forgotten, f"{number} is lost"
        assert len(set(found.values())) == len(found)
        back = len(found.keys() & self.forgotten)
        # What came back is forgotten no more, as far as the journal knows; what is gone stays gone.
        self.forgotten -= found.keys()
        self.acknowledged = {
            number: self.acknowledged.get(number, payload) for number, payload in found.items()
        }
        return back


async def survive(directory: Path, kills: int, seed: int) -> None:
    """Kill a writer so many times."""
    rng = random.Random(seed)
    killed = Killed(directory)
    for run in range(kills):
        before = len(killed.acknowledged)
        killed.live_and_die(run, rng.randint(1, 1_500))
        assert len(killed.acknowledged) > before
        back = await killed.check()
        assert back < 1_000, "forgetting is written down now and then"


async def test_kill_9(tmp_path: Path) -> None:
    """After each of 10 kills all that was acknowledged and not forgotten is there, once, in order."""
    await survive(tmp_path / "journal", 10, SEED)


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="SAMVAD_SOAK=1 asks for it")
@pytest.mark.parametrize("seed", range(4))
async def test_kill_9_soak(tmp_path: Path, seed: int) -> None:
    """The same with 400 kills."""
    await survive(tmp_path / "journal", 100, seed)


LIMITED = """
    import asyncio, resource, sys
    from samvad.errors import StoreUnavailable
    from samvad.sessions.journal import Journal

    async def main():
        journal = Journal(sys.argv[1], segment_bytes=64 * 1024)
        await journal.open()
        before = await journal.append(b"before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (20 * 1024, resource.RLIM_INFINITY))
        for payload in (b"refused" * 4_000, b"refused"):
            try:
                await journal.append(payload)
            except StoreUnavailable as error:
                assert "File too large" in error.message, error.message
            else:
                raise AssertionError("acknowledged over the limit")
        assert journal.fault is not None
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        after = await journal.append(b"after")
        assert after > before and journal.fault is None
        await journal.close()
        replay = await journal.open()
        assert [(each.number, each.payload) for each in replay.entries] == [(before, b"before"), (after, b"after")]
        assert replay.damages == []
        await journal.close()

    asyncio.run(main())
"""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """A write that the system cuts short is refused, and nothing of it is found later; then writing goes on."""
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path / "journal")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
