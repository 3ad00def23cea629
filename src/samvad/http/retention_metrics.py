"""What the sweeper tells Prometheus, where there are retention rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from prometheus_client.metrics_core import Metric

from samvad.http.metric_families import counter, counters, gauge

if TYPE_CHECKING:
    from samvad.retention.sweeper import Sweeper


def retention_families(sweeper: Sweeper) -> Iterator[Metric]:
    """What went, how often and when it was swept, and how often that failed."""
    yield counters(
        "samvad_retention_swept",
        "What the retention rules removed, by kind.",
        "kind",
        msgspec.structs.asdict(sweeper.swept),
    )
    yield counter("samvad_retention_sweeps", "Sweeps that saw everyone.", sweeper.sweeps)
    yield counter("samvad_retention_failures", "Sweeps that were refused or cut short.", sweeper.failures)
    yield counter("samvad_retention_skipped", "Users who could not be swept.", sweeper.skipped)
    yield gauge("samvad_retention_sweeping", "1 while this process sweeps.", sweeper.sweeping)
    if sweeper.lease is not None:
        yield counter(
            "samvad_retention_taken_over",
            "Sweeps of another replica that had ended in the middle, taken over.",
            sweeper.lease.taken_over,
        )
    yield gauge(
        "samvad_retention_last_sweep_seconds",
        "When the last whole sweep that this process made, or heard of, began (seconds since 1970; 0: none yet).",
        (sweeper.last_ms or 0) / 1000,
    )
