"""Two replicas, one erases: at every interleaving what was acknowledged before goes, and what comes after stays."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from samvad.errors import StoreUnavailable
from samvad.stores.base import Capabilities
from samvad.stores.memory import MemoryStore
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import (
    QUICK,
    abandon,
    bytes_in,
    contents,
    drained,
    in_order,
    service,
    turns,
)
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio
CANARY = "canary-2b8e"


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=pytest.mark.soak) if n >= 15 else n for n in range(1_000)]
)
async def test_races(tmp_path: Path, seed: int) -> None:
    """Appends, flushes, loads, notices, outages and a restart on two replicas race an erasing on one of them."""
    chance = random.Random(seed)
    store = MemoryStore()
    await store.open()
    lines = [FaultyStore(store, seed), FaultyStore(store, seed + 1)]
    for line in lines:
        line.capabilities = Capabilities(durable=True, shared=True, tells=True)
        line.cut = chance.choice([0.0, 0.0, 0.3])
    patience = QUICK._replace(write_interval_s=chance.choice([0.0, 0.002, 0.01]))
    homes = [tmp_path / "0", tmp_path / "1"]
    samvads = [await service(lines[n], homes[n], patience=patience).open() for n in (0, 1)]
    old: list[str] = []
    new: list[str] = []
    asking, erased = asyncio.Event(), asyncio.Event()

    async def speaker(number: int) -> None:
        for turn in range(6):
            after = erased.is_set()
            content = f"{CANARY}.{number}.{turn}."
            await samvads[number % 2].append_to_user_history("asha", "user", content)
            if after:
                new.append(content)
            elif not asking.is_set():
                old.append(content)
            await turns(chance.randrange(60))

    async def reader(number: int) -> None:
        for _ in range(6):
            try:
                profile = await samvads[number].get_user_profile("asha")
            except StoreUnavailable:
                continue
            assert profile.history_length <= 24
            await turns(chance.randrange(40))

    async def outage() -> None:
        if chance.random() < 0.5:
            lines[0].down = True
            await turns(chance.randrange(300))
            lines[0].down = False

    async def eraser() -> None:
        await turns(chance.randrange(120))
        asking.set()
        cleared = await samvads[1].clear_user_data("asha")
        if not cleared.pending:
            erased.set()

    work: list[Any] = [speaker(n) for n in range(4)] + [reader(0), reader(1), outage(), eraser()]
    chance.shuffle(work)
    await asyncio.gather(*work)
    if chance.random() < 0.5:
        await abandon(samvads[0])
        samvads[0] = await service(lines[0], homes[0], patience=patience).open()
    for line in lines:
        line.cut = 0.0
    await drained(*samvads)
    history = await contents(store, "asha")
    assert not set(history) & set(old)
    assert set(new) <= set(history)
    for number in range(4):
        assert in_order([c for c in new if c.split(".")[1] == str(number)], history)

    async def same() -> bool:
        shown = [await samvad.get_user_profile("asha") for samvad in samvads]
        return all([m.content for m in profile.conversation_history] == history for profile in shown)

    await wait_until_async(same, "both replicas show the same")

    async def scrubbed() -> bool:
        return not any(bytes_in(home, content.encode()) for home in homes for content in old)

    await wait_until_async(scrubbed, "the journals are scrubbed")
    for samvad in samvads:
        await samvad.aclose()
