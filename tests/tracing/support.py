"""Traces for tests: the real SDK, its spans kept in memory, and a real collector that decodes what it is sent."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from samvad import tracing


class Spans:
    """What was exported so far."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()

    def all(self) -> Sequence[ReadableSpan]:
        """Every span, in the order of their ends."""
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of one name."""
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """The only one of a name."""
        (span,) = self.named(name)
        return span

    def parent(self, span: ReadableSpan) -> ReadableSpan | None:
        """The span above; None where that is not ours."""
        above = span.parent
        return next((s for s in self.all() if above is not None and s.context.span_id == above.span_id), None)

    def path(self, span: ReadableSpan) -> list[str]:
        """The names from the top down to a span."""
        above = self.parent(span)
        return [*([] if above is None else self.path(above)), span.name]

    def text(self) -> str:
        """All that the spans hold: names, attributes, events, links, status."""
        return "\n".join(span.to_json() for span in self.all())


@contextlib.contextmanager
def traced() -> Iterator[Spans]:
    """Traces are on, as an application would turn them on."""
    spans, provider = Spans(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans.exporter))
    tracing.use(provider)
    try:
        yield spans
    finally:
        tracing.stop()
        provider.shutdown()


class Collector:
    """A collector on loopback: OTLP over HTTP, as protobuf."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.bytes = b""
        self.headers: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                body = gzip.decompress(raw) if self.headers.get("content-encoding") == "gzip" else raw
                collector.bytes += body
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                assert self.path == "/v1/traces", self.path
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def spans(self) -> list[Any]:
        """All spans that came."""
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
