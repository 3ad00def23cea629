"""The part of GET /metrics that tells of live conversations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from samvad.live.meter import FIRST_BOUNDS_S

if TYPE_CHECKING:
    from samvad.live.service import LiveService


def live_families(live: LiveService) -> Iterator[Metric]:
    """The families, as the client library wants them."""
    meter = live.meter
    yield GaugeMetricFamily("samvad_live_connections", "Open sockets.", value=len(live.connections))
    yield GaugeMetricFamily(
        "samvad_live_conversations",
        "Open conversations, those included that wait for their client to come back.",
        value=len(live.conversations),
    )
    yield _by("samvad_live_turns", "Turns that are over.", "outcome", meter.turns)
    yield _by("samvad_live_interruptions", "Answers interrupted.", "type", meter.interruptions)
    yield CounterMetricFamily(
        "samvad_live_false_alarms",
        "Of these, those that were none: the answer went on.",
        value=meter.false_alarms,
    )
    yield _by("samvad_live_provider_errors", "Failures of who answers.", "code", meter.faults)
    yield _by("samvad_live_provider_reconnects", "Lines to it that were renewed.", "memory", meter.reconnects)
    yield _by("samvad_live_tool_calls", "Functions called by the model.", "outcome", meter.tool_calls)
    yield _by("samvad_live_warnings", "Warnings before a limit.", "form", meter.warnings)
    yield _by("samvad_live_ended", "Connections ended by the server.", "reason", meter.ended)
    yield CounterMetricFamily(
        "samvad_live_slow_reader_bytes",
        "Bytes dropped that waited for clients who read too slowly.",
        value=meter.slow_reader_bytes,
    )
    first = HistogramMetricFamily(
        "samvad_live_first_piece_seconds", "From the end of what the user said to the first of the answer."
    )
    bounds = (*map(str, FIRST_BOUNDS_S), "+Inf")
    first.add_metric((), list(zip(bounds, accumulate(meter.first_buckets), strict=True)), meter.first_s)
    yield first


def _by(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family
