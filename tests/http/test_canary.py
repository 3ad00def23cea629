"""What people say, and who they are, is in no log at any level, no measure, no trace and no audit entry."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samvad import logs, open_samvad
from samvad.auth import audit
from samvad.auth.audit import AuditLog
from samvad.clock import SystemClock
from samvad.http.app import SamvadApp
from samvad.http.asked import log_answered
from samvad.http.auditing import Auditing
from samvad.sessions import validation
from tests.auth.test_audit import requested
from tests.tracing.support import Spans, traced

pytestmark = pytest.mark.anyio
CANARY = "canary-9e04"
USER = "asha.canary@example.org"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that is logged from DEBUG on, by every logger, as the server would write it."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    logs.configure("debug", "json", stream)
    for name in logging.root.manager.loggerDict:
        logging.getLogger(name).setLevel(logging.NOTSET)  # those of others too, whom `configure` keeps quiet
    yield stream
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def spans() -> Iterator[Spans]:
    """Traces are on."""
    with traced() as found:
        yield found


@pytest.mark.parametrize("encrypted", [False, True])
async def test_nothing_that_was_said_is_logged_or_measured(
    tmp_path: Path, logged: io.StringIO, spans: Spans, encrypted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At DEBUG, of every logger; of requests that succeed, that are refused, and that a fault of ours ends."""
    key = base64.b64encode(os.urandom(32)).decode() if encrypted else None
    async with open_samvad(f"sqlite:///{tmp_path}/samvad.db", master_key=key) as samvad:
        app = SamvadApp(samvad)
        app.access_log = log_answered
        log = AuditLog(tmp_path, SystemClock())
        app.on_access.append(Auditing(log, "all", app.router.routes, samvad.core.clock).note)
        user, session = f"/api/session/{USER}", "/api/session/s1"
        interruption = {"type": "BARGE_IN", "fullText": f"{CANARY} two three", "heardText": CANARY}
        created = {"sessionId": "s1", "userId": USER, "metadata": {"x": CANARY}}
        requests: list[tuple[int, str, str, Any]] = [
            (200, "POST", f"{user}/state", {"note": CANARY}),
            (200, "POST", f"{user}/history", {"role": "user", "content": CANARY, "metadata": {"x": CANARY}}),
            (200, "PATCH", f"{user}/profile", {"preferences": {"note": CANARY}}),
            (200, "POST", "/api/session/create", created),
            (200, "POST", f"{session}/interruptions", interruption),
            (200, "POST", "/api/knowledge/add-text", {"title": CANARY, "content": f"About the {CANARY}."}),
            (200, "POST", "/api/knowledge/search", {"query": CANARY}),
            (200, "GET", f"{user}/profile", None),
            (400, "POST", f"{user}/history", {"role": CANARY, "content": CANARY}),
            (400, "POST", f"{user}/state", [CANARY]),
            (409, "POST", "/api/session/create", created | {"userId": f"not {USER}"}),
            (404, "POST", f"/api/{CANARY}", {"x": CANARY}),
            (200, "POST", "/api/session/refresh", {"userId": USER}),
        ]
        for status, method, path, body in requests:
            assert await requested(app, method, path, body) == status, path

        def fails(*args: Any, **more: Any) -> Any:
            raise ValueError(f"{CANARY} {USER} {args} {more}")

        monkeypatch.setattr(validation, "check_object", fails)
        monkeypatch.setattr("samvad.sessions.service.check_object", fails)
        assert await requested(app, "POST", f"{user}/state", {"note": CANARY}) == 500
        measured = app.metrics.render().decode()
        log.stop()
    assert len(list(audit.entries(log.directory))) >= len(requests) - 1
    lines = logged.getvalue()
    noted = " ".join(path.read_text() for path in log.directory.glob("*.jsonl"))
    assert "samvad_requests" in measured
    traces = spans.text()
    assert [text.count(CANARY) for text in (lines, measured, noted, traces)] == [0, 0, 0, 0]
    assert [text.count("asha") for text in (lines, measured, noted, traces)] == [0, 0, 0, 0]
    assert len(spans.named("POST /api/session/{userId}/state")) == 3
    told = [json.loads(line) for line in lines.splitlines()]
    (failed,) = [line for line in told if line["message"] == "a handler failed"]
    assert "check_object" in failed["exception"] or "_save_state" in failed["exception"]
    assert failed["user"] == logs.user_hash("default", USER)
    answered = [line for line in told if line["message"] == "request answered"]
    assert len(answered) == len(requests) + 1
    assert len({line["request"] for line in answered}) == len(answered)
    assert [(line["route"], line["status"]) for line in answered][1] == ("appendToUserHistory", 200)
    assert [line["user"] for line in answered[:3]] == [failed["user"]] * 3
    assert all(line["ms"] >= 0 for line in answered)
