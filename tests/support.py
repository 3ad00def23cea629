"""Helpers for tests: `from tests.support import …`. This is the one place where a test may wait a while."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import anyio
import pytest

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parent.parent
SOAK = os.environ.get("SAMVAD_SOAK") == "1"
POLL_S = 0.01


def short_and_long(short: int, long: int) -> list[Any]:
    """How much of something a test does, as values of a parameter: in `make test`, and in `make soak`."""
    return [short, pytest.param(long, marks=pytest.mark.soak)]


def under_ci() -> bool:
    """Is this the run that decides whether a change lands?"""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def loudly_skip(reason: str) -> NoReturn:
    """Skip the test because this machine lacks something; under CI, which must have it, fail instead."""
    if under_ci():
        pytest.fail(f"CI must be able to run this test: {reason}", pytrace=False)
    pytest.skip(reason)


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """The first true value of `condition`; fails, naming `what`, where none comes in time."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s in vain until {what}")
        time.sleep(POLL_S)
    return value


async def wait_until_async(condition: Callable[[], Awaitable[T]], what: str, timeout_s: float = 30.0) -> T:
    """As `wait_until`, for a condition that must be awaited; other tasks run on meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not (value := await condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s in vain until {what}")
        await anyio.sleep(POLL_S)
    return value
