"""Traces as the settings want them: OpenTelemetry's SDK, and an exporter that speaks OTLP over HTTP."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from samvad import __version__, tracing
from samvad.errors import SetupError

if TYPE_CHECKING:
    from samvad.settings import Settings

_LAST_S: Final = 2.0  # for what is still to be sent when the server stops
_PROTOCOL: Final = "http/protobuf"


def trace(settings: Settings) -> Callable[[], None]:
    """Turn traces on where the settings want them; what is returned sends what is left, within two seconds.

    SetupError where the packages are missing, or the collector is to be spoken to in another way.
    """
    if settings.otel == "off":
        return lambda: None
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if os.environ.get(name, _PROTOCOL) != _PROTOCOL:
            raise SetupError(f"{name} must be {_PROTOCOL}; Samvad speaks no other.")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SetupError(
            "Traces need more packages: pip install 'samvad-sessions[otel]', or set SAMVAD_OTEL=off."
        ) from None
    named = {SERVICE_VERSION: __version__}
    if "service.name" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        named[SERVICE_NAME] = os.environ.get("OTEL_SERVICE_NAME") or tracing.NAME
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    try:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        raise SetupError(f"OpenTelemetry's variables (OTEL_…) cannot be: {error}") from None
    tracing.use(provider)

    def end() -> None:
        tracing.stop()
        # A collector that does not answer holds nobody up: what it was to have is given up then.
        last = threading.Thread(target=provider.shutdown, name="samvad-traces-last", daemon=True)
        last.start()
        last.join(_LAST_S)

    return end
