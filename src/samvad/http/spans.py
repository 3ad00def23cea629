"""A span for each request, and for each live connection as long as it lasts (OpenTelemetry's conventions for HTTP).

The address of a request names users and sessions, so `url.path` is left out: `http.route` says which route it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from samvad import tracing
from samvad.http.asked import Asked

_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "QUERY"}
)


@contextmanager
def server_span(scope: dict[str, Any], asked: Asked) -> Iterator[None]:
    """The span of what `asked` is about, below the span that the client names in `traceparent`."""
    method = scope.get("method", "GET")
    method = method if method in _METHODS else "_OTHER"
    attributes = {
        "http.request.method": method,
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
        "samvad.request.id": asked.request_id,
    }
    name = "HTTP" if method == "_OTHER" else method
    parent = tracing.parent_of(scope["headers"])
    span = tracing.begin(name, attributes, kind="SERVER", context=parent)
    error: BaseException | str | None = None
    try:
        with tracing.under(span):
            yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        path = asked.path if asked.route is None else asked.route.path
        if path is not None:
            span.update_name(f"{name} {path}")
            span.set_attribute("http.route", path)
        if asked.status:
            span.set_attribute("http.response.status_code", asked.status)
            if asked.status >= 500:
                error = error or asked.code or str(asked.status)
        whose = asked.user()
        if whose is not None:
            span.set_attributes(tracing.user_attributes(*whose))
        tracing.finish(span, error)
