"""The settings that say what is told of the server's work; a part of `samvad.settings.Settings`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from samvad.settings_limits import LimitSettings


class ObservingSettings(LimitSettings, frozen=True, kw_only=True):
    """Logs and traces, beside their level and form."""

    access_log: Annotated[
        bool,
        Meta(
            description="Log a line for each request that is answered; those that fail with 5xx have one anyway."
        ),
    ] = False
    otel: Annotated[
        Literal["off", "on"],
        Meta(
            description="Whether traces are sent to an OpenTelemetry collector (OTLP over HTTP); where it is and all "
            "else is said by OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT."
        ),
    ] = "off"
    log_secret: Annotated[
        Annotated[str, Meta(min_length=16)] | None,  # of a union, msgspec bounds the parts alone
        Meta(
            description="Secret under which users' ids are hashed in logs and traces, the same for all replicas; "
            "left out, a key is kept in the data directory.",
            extra={"secret": True},
        ),
    ] = None
