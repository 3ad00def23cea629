"""What people say is in no log at any level, in no measure and in no audit entry, with and without encryption."""

from __future__ import annotations

import base64
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from samvad import open_samvad
from samvad.auth import audit
from samvad.auth.audit import AuditLog
from samvad.clock import SystemClock
from samvad.http.app import SamvadApp
from samvad.http.auditing import Auditing
from tests.auth.test_audit import requested

pytestmark = pytest.mark.anyio
CANARY = "canary-9e04"


@pytest.mark.parametrize("encrypted", [False, True])
async def test_nothing_that_was_said_is_logged_or_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, encrypted: bool
) -> None:
    """At DEBUG, of every logger; of requests that succeed, and of those that are refused."""
    caplog.set_level(logging.DEBUG)
    key = base64.b64encode(os.urandom(32)).decode() if encrypted else None
    async with open_samvad(f"sqlite:///{tmp_path}/samvad.db", master_key=key) as samvad:
        app = SamvadApp(samvad)
        log = AuditLog(tmp_path, SystemClock())
        app.on_access.append(Auditing(log, "all", app.router.routes).note)
        user, session = "/api/session/asha", "/api/session/s1"
        interruption = {"type": "BARGE_IN", "fullText": f"{CANARY} two three", "heardText": CANARY}
        requests: list[tuple[int, str, str, Any]] = [
            (200, "POST", f"{user}/state", {"note": CANARY}),
            (200, "POST", f"{user}/history", {"role": "user", "content": CANARY, "metadata": {"x": CANARY}}),
            (200, "PATCH", f"{user}/profile", {"preferences": {"note": CANARY}}),
            (
                200,
                "POST",
                "/api/session/create",
                {"sessionId": "s1", "userId": "asha", "metadata": {"x": CANARY}},
            ),
            (200, "POST", f"{session}/interruptions", interruption),
            (200, "POST", "/api/knowledge/add-text", {"title": CANARY, "content": f"About the {CANARY}."}),
            (200, "POST", "/api/knowledge/search", {"query": CANARY}),
            (200, "GET", f"{user}/profile", None),
            (400, "POST", f"{user}/history", {"role": CANARY, "content": CANARY}),
            (400, "POST", f"{user}/state", [CANARY]),
            (
                409,
                "POST",
                "/api/session/create",
                {"sessionId": "s1", "userId": "bala", "metadata": {"x": CANARY}},
            ),
            (404, "POST", f"/api/{CANARY}", {"x": CANARY}),
            (200, "POST", "/api/session/refresh", {"userId": "asha"}),
        ]
        for status, method, path, body in requests:
            assert await requested(app, method, path, body) == status, path
        measured = app.metrics.render().decode()
        log.stop()
    assert len(list(audit.entries(log.directory))) >= len(requests) - 1
    logged = " ".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    noted = " ".join(path.read_text() for path in log.directory.glob("*.jsonl"))
    assert "samvad_requests" in measured
    assert [text.count(CANARY) for text in (logged, measured, noted)] == [0, 0, 0]
