"""The part of GET /metrics that tells of live conversations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import Metric

from samvad.http.metric_families import counter, counters, gauge, histogram

if TYPE_CHECKING:
    from samvad.live.service import LiveService


def live_families(live: LiveService) -> Iterator[Metric]:
    """The families, as the client library wants them."""
    meter = live.meter
    yield gauge("samvad_live_connections", "Open sockets.", len(live.connections))
    yield gauge(
        "samvad_live_conversations",
        "Open conversations, those included that wait for their client to come back.",
        len(live.conversations),
    )
    yield counters("samvad_live_turns", "Turns that are over.", "outcome", meter.turns)
    yield counters("samvad_live_interruptions", "Answers interrupted.", "type", meter.interruptions)
    yield counter(
        "samvad_live_false_alarms",
        "Of these, those that were none: the answer went on.",
        meter.false_alarms,
    )
    yield counters("samvad_live_provider_errors", "Failures of who answers.", "code", meter.faults)
    yield counters(
        "samvad_live_provider_reconnects", "Lines to it that were renewed.", "memory", meter.reconnects
    )
    yield counters("samvad_live_tool_calls", "Functions called by the model.", "outcome", meter.tool_calls)
    yield counters("samvad_live_warnings", "Warnings before a limit.", "form", meter.warnings)
    yield counters("samvad_live_ended", "Connections ended by the server.", "reason", meter.ended)
    yield counter(
        "samvad_live_slow_reader_bytes",
        "Bytes dropped that waited for clients who read too slowly.",
        meter.slow_reader_bytes,
    )
    yield gauge(
        "samvad_live_outbox_bytes",
        "Bytes that wait for clients to read them.",
        sum(each.outbox.bytes_waiting for each in live.connections),
    )
    yield gauge(
        "samvad_live_writes_waiting",
        "What was said and waits for the store.",
        sum(each.keeper.waiting for each in live.conversations.values()),
    )
    yield histogram(
        "samvad_live_first_piece_seconds",
        "From the end of what the user said to the first of the answer.",
        meter.first,
    )
