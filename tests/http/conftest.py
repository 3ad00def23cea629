"""The HTTP API in process, over each store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.http.support import Api, HandClock, opened


@pytest.fixture
def clock() -> HandClock:
    """Time stands still until the test moves it."""
    return HandClock()


@pytest.fixture(params=["memory", "sqlite"])
def store_url(request: pytest.FixtureRequest, database_path: Path) -> str:
    """Each store that needs no other process."""
    return "memory://" if request.param == "memory" else f"sqlite:///{database_path}"


@pytest.fixture
async def api(store_url: str, clock: HandClock) -> AsyncIterator[Api]:
    """The application over an empty store, on the clock of the test."""
    async with opened(store_url, clock=clock) as found:
        yield found


@pytest.fixture
async def plain(clock: HandClock) -> AsyncIterator[Api]:
    """The application over the memory store alone: for what no store has a part in."""
    async with opened(clock=clock) as found:
        yield found
