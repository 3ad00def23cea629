"""A process that talks to a service behind a journal and prints what was acknowledged; it is killed by its test.

python talker.py DATABASE JOURNAL TURN up|down
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from samvad.clock import SystemClock
from samvad.stores.urls import store_from_url
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import service


async def main(database: str, journal: str, turn: str, weather: str) -> None:
    """Append and merge without end, each line on standard output after its answer."""
    store = store_from_url(f"sqlite:///{database}", SystemClock())
    await store.open()
    inner = FaultyStore(store)
    inner.down = weather == "down"
    samvad = await service(inner, Path(journal)).open()
    for number in range(100_000):
        for user in ("asha", "ravi"):
            await samvad.append_to_user_history(user, "user", f"{turn}.{number}")
            sys.stdout.write(f"{user} {turn}.{number}\n")
            sys.stdout.flush()
        await samvad.save_user_state("asha", {"turn": turn, "number": number})


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
