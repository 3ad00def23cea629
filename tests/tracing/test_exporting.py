"""`SAMVAD_OTEL=on`: the server sends its traces to a collector, and is held up by none."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from samvad import __version__
from tests.cli.processes import Server, refusal, run
from tests.live.support import dialled
from tests.support import wait_until
from tests.tracing.support import Collector

pytestmark = pytest.mark.anyio
CANARY, USER = "canary-31c8", "asha.canary@example.org"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The setting is on, and nothing else of OpenTelemetry is set."""
    monkeypatch.setenv("SAMVAD_OTEL", "on")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("SAMVAD_LOG_LEVEL", "debug")
    return monkeypatch


async def test_a_collector_gets_everything_and_nobodys_words(on: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Over OTLP as it is on the wire: a request and a live turn, with the parents that callers have named."""
    carried = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    with Collector() as collector:
        on.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        on.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=mine")
        with Server(tmp_path, "--data-dir", str(tmp_path / "data")) as server:
            async with dialled(server.url, additional_headers=carried) as line:
                await line.start(userId=USER, sessionId=f"{USER} {CANARY}")
                await line.send({"type": "user_text", "text": CANARY})
                await line.next("turn_complete")
            status, _ = server.request("POST", f"/api/session/{USER}/state", {"note": CANARY})
            assert status == 200
            wait_until(
                lambda: any(s.name == "POST /api/session/{userId}/state" for s in collector.spans()),
                "the request's span is there",
            )
            server.signal()
            assert server.exit_code() == 0
            logged = "".join(server.errors)
        spans = {span.name: span for span in collector.spans()}
    assert collector.bytes.count(CANARY.encode()) == collector.bytes.count(b"asha") == 0
    assert logged.count(CANARY) == logged.count("asha") == 0
    socket_span, turn = spans["GET /api/live"], spans["invoke_agent samvad"]
    assert (socket_span.trace_id.hex(), socket_span.parent_span_id.hex()) == (TRACE, PARENT)
    assert (turn.trace_id.hex(), turn.parent_span_id) == (TRACE, socket_span.span_id)
    assert spans["chat extractive"].parent_span_id == turn.span_id
    assert "commit sqlite" in spans
    resource = {
        each.key: each.value.string_value
        for each in collector.requests[0].resource_spans[0].resource.attributes
    }
    assert (resource["service.name"], resource["service.version"]) == ("samvad", __version__)
    assert all(headers["x-tenant"] == "mine" for headers in collector.headers)


def test_a_collector_that_is_not_there(on: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Requests are answered all the same, and the server stops in time, with 0."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        on.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with Server(tmp_path) as server:
            assert server.request("POST", f"/api/session/{USER}/state", {"a": 1})[0] == 200
            server.signal()
            assert server.exit_code() == 0


def test_a_way_to_the_collector_that_there_is_not(on: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line, and exit code 2."""
    on.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf" in refusal(["serve", "--port", "0"], tmp_path)
    on.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    on.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")  # smaller than what is sent at once
    assert "OpenTelemetry's variables (OTEL_…) cannot be" in refusal(["serve", "--port", "0"], tmp_path)


def test_packages_that_are_missing(on: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The line says which extra has them."""
    empty = tmp_path / "shadow" / "opentelemetry"
    empty.mkdir(parents=True)
    (empty / "__init__.py").write_text("")
    on.setenv("PYTHONPATH", str(empty.parent))
    # What is put before the path stands first, as the installed packages come last.
    assert "pip install 'samvad-sessions[otel]'" in refusal(["serve", "--port", "0"], tmp_path)
    on.setenv("SAMVAD_OTEL", "off")
    assert run(["serve", "--port", "-1"], tmp_path).returncode == 2  # as far as that, without them
