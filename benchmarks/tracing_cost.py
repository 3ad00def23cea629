"""What traces cost: `python -m benchmarks.tracing_cost`, which needs the extra `otel`.

The processor time of this process for an append, with traces on and off in turn, through the library and through the
HTTP application without a network. Spans are batched and encoded as for a collector, and then dropped.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from samvad import open_samvad, tracing
from samvad.http.app import create_app

CALLERS: Final = 20
APPENDS: Final = 100  # of each caller in one block
BLOCKS: Final = 30  # of each kind
Append = Callable[[str, str], Awaitable[None]]


def provider() -> Any:
    """A provider whose spans go the whole way, but for the network."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Encoded(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            encode_spans(spans).SerializeToString()
            return SpanExportResult.SUCCESS

    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(Encoded(), max_queue_size=100_000))
    return made


def over_http(app: Any) -> Append:
    """An append as a request to the application."""

    async def append(user: str, text: str) -> None:
        body = json.dumps({"role": "user", "content": text}).encode()
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": f"/api/session/{user}/history",
            "raw_path": f"/api/session/{user}/history".encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        told: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(event: Any) -> None:
            told.append(event)

        await app(scope, receive, send)
        assert told[0]["status"] == 200, told

    return append


async def block(append: Append, after: Callable[[], object]) -> float:
    """Microseconds of the processor for each append, with what comes `after` them all."""

    async def caller(n: int) -> None:
        for turn in range(APPENDS):
            await append(f"user {n}", f"What documents do I need for it, {turn}?")

    before_s = time.process_time()
    await asyncio.gather(*map(caller, range(CALLERS)))
    after()
    return (time.process_time() - before_s) / (CALLERS * APPENDS) * 1e6


async def compared(name: str, append: Append, traces: Any) -> str:
    """One row: the medians of both, and of their ratio in pairs."""
    off, on = [], []
    for turn in range(BLOCKS + 1):
        for traced in (True, False) if turn % 2 else (False, True):
            tracing.use(traces) if traced else tracing.stop()
            taken = await block(append, traces.force_flush)
            if turn:  # the first is to warm up
                (on if traced else off).append(taken)
    ratios = sorted(a / b for a, b in zip(on, off, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[-len(ratios) // 4]
    return (
        f"| {name} | {statistics.median(off):.0f} | {statistics.median(on):.0f} "
        f"| {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f}) |"
    )


async def main() -> None:
    """Print a table."""
    traces = provider()
    print("| append | µs, traces off | µs, traces on | ratio: median and middle half |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        async with open_samvad(f"sqlite:///{Path(folder) / 'samvad.db'}") as samvad:

            async def append(user: str, text: str) -> None:
                await samvad.append_to_user_history(user, "user", text)

            print(await compared("through the library", append, traces))
            print(await compared("over HTTP, without a network", over_http(create_app(samvad)), traces))
    traces.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
