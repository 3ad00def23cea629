"""kill -9, with the store up and with the store down: nothing acknowledged is missing, nothing there twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from samvad.clock import SystemClock
from samvad.stores.urls import store_from_url
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import contents, drained, in_order, opened
from tests.support import REPOSITORY

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
TALKER = Path(__file__).with_name("talker.py")


def killed_after(lines: int, *arguments: object) -> list[str]:
    """What a talker said that was acknowledged before it was killed."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, str(TALKER), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(lines)]
    process.kill()
    told += process.stdout.read().splitlines(keepends=True)
    process.wait()
    process.stdout.close()
    return [line.strip() for line in told if line.endswith("\n")]


async def test_kill(tmp_path: Path) -> None:
    """Killed five times, the store being down in every other life, also twice in a row."""
    told: list[str] = []
    for turn, weather in enumerate(["up", "down", "down", "up", "down"]):
        told += killed_after(20 + 15 * turn, tmp_path / "inner.db", tmp_path / "j", turn, weather)
    store = store_from_url(f"sqlite:///{tmp_path / 'inner.db'}", SystemClock())
    await store.open()
    async with opened(FaultyStore(store), tmp_path / "j") as samvad:
        await drained(samvad)
        for user in ("asha", "ravi"):
            said = [line.split()[1] for line in told if line.startswith(user)]
            history = await contents(store, user)
            assert len(said) > 50 and in_order(said, history)
            # What was under way when it was killed may be there as well: one for each life, and once.
            assert len(history) <= len(said) + 5
            assert len(set(history)) == len(history)
    await store.close()
