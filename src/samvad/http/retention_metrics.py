"""What the sweeper tells Prometheus, where there are retention rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

if TYPE_CHECKING:
    from samvad.retention.sweeper import Sweeper


def retention_families(sweeper: Sweeper) -> Iterator[Metric]:
    """What went, how often and when it was swept, and how often that failed."""
    swept = CounterMetricFamily(
        "samvad_retention_swept", "What the retention rules removed, by kind.", labels=("kind",)
    )
    for kind, count in msgspec.structs.asdict(sweeper.swept).items():
        swept.add_metric((kind,), count)
    yield swept
    yield CounterMetricFamily("samvad_retention_sweeps", "Sweeps that saw everyone.", value=sweeper.sweeps)
    yield CounterMetricFamily(
        "samvad_retention_failures", "Sweeps that were refused or cut short.", value=sweeper.failures
    )
    yield CounterMetricFamily(
        "samvad_retention_skipped", "Users who could not be swept.", value=sweeper.skipped
    )
    yield GaugeMetricFamily(
        "samvad_retention_sweeping", "1 while this process sweeps.", value=int(sweeper.sweeping)
    )
    if sweeper.lease is not None:
        yield CounterMetricFamily(
            "samvad_retention_taken_over",
            "Sweeps of another replica that had ended in the middle, taken over.",
            value=sweeper.lease.taken_over,
        )
    yield GaugeMetricFamily(
        "samvad_retention_last_sweep_seconds",
        "When the last whole sweep that this process made, or heard of, began (seconds since 1970; 0: none yet).",
        value=(sweeper.last_ms or 0) / 1000,
    )
