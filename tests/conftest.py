"""What all tests share: one event loop, no settings from outside, repeatable random inputs."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from anyio._backends._asyncio import TestRunner

from tests.support import REPOSITORY, SOAK, under_ci

# Hundreds of servers are started: where Python was told to leave no bytecode beside the sources, each of them would
# compile all it imports anew (with Firestore's client that is two thirds of a start).
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ["PYTHONPYCACHEPREFIX"] = str(REPOSITORY / ".pytest_cache" / "bytecode")

# Under CI the same inputs each time, so that a red run is red again on any machine; elsewhere new ones are
# tried, and failures are remembered. Time is no measure of right: the machine may be busy.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True, derandomize=under_ci())
hypothesis.settings.register_profile(
    "soak", deadline=None, print_blob=True, max_examples=5_000, stateful_step_count=200
)
hypothesis.settings.load_profile("soak" if SOAK else "default")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Async tests run on asyncio's own loop: the server's choice of loop must not matter to what is right."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings, credentials or emulator of the developer who runs it."""
    for name in list(os.environ):
        if name.startswith("SAMVAD_") and name != "SAMVAD_SOAK":
            monkeypatch.delenv(name)
    for name in ("FIRESTORE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS", "PROJECT_ID", "LOCATION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session", autouse=True)
def _late_events_of_grpc() -> Iterator[None]:
    """Let pass what gRPC has to tell a loop that is closed.

    It has one queue of events for all the loops of a process, which only tests have: that an earlier test's call was
    cancelled may be read in a later test's loop, whose test has nothing to do with it.
    """
    collect = TestRunner._exception_handler

    def handler(self: TestRunner, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        callback = "PollerCompletionQueue" in "".join(traceback.format_exception(error)) if error else False
        if not (callback and isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            collect(self, loop, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TestRunner, "_exception_handler", handler)
        yield


@pytest.fixture
def database_path(tmp_path: Path) -> Path:
    """Where a test may make its SQLite database; there is nothing yet."""
    return tmp_path / "samvad.db"
