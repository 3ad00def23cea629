"""A project or credentials that Firestore refuses only after the server has begun to serve."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from samvad.http.app import create_app
from tests.firestore.google import Google
from tests.firestore.support import make_store
from tests.google_server import Refusal
from tests.http.support import Api
from tests.journaled.support import opened
from tests.support import wait_until_async

grpc = pytest.importorskip("grpc")
pytestmark = pytest.mark.anyio


async def test_told_soon_though_nobody_writes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`/readyz` says why, and so does one line of the log; writes go on in the journal meanwhile."""
    late = threading.Event()
    why = Refusal(grpc.StatusCode.PERMISSION_DENIED, "Permission denied on resource project wrong.")

    def answer(method: str, request: Any) -> Refusal | None:
        late.wait(30)
        return why

    with Google(answer) as google:
        store = make_store("wrong", emulator_host=google.address, attempts_max=2)
        async with opened(store, tmp_path / "j") as samvad:  # after one second it serves all the same
            api = Api(samvad, create_app(samvad))
            assert (await api.ok("GET", "/readyz"))["status"] == "ready"
            late.set()
            with caplog.at_level(logging.ERROR):

                async def told() -> bool:
                    ready = await api.ok("GET", "/readyz")
                    return ready["status"] == "degraded" and "project wrong" in ready.get("fault", "")

                await wait_until_async(told, "/readyz says why")
            lines = [r for r in caplog.records if "the store cannot be used" in r.getMessage()]
            assert len(lines) == 1 and "project wrong" in lines[0].getMessage()
