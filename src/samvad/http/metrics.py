"""GET /metrics: requests by route, and what the service holds and waits for. Never an id, never content.

Requests are counted in plain lists on the event loop and turned into Prometheus families when asked for:
a Histogram of the client library takes a lock for each observation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from samvad.sessions.journaled import JournaledStore

if TYPE_CHECKING:
    from samvad.live.service import LiveService
    from samvad.runtime import Samvad

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class _RouteMeter:
    __slots__ = ("buckets", "seconds", "statuses")

    def __init__(self) -> None:
        self.buckets = [0] * (len(_BOUNDS_S) + 1)
        self.seconds = 0.0
        self.statuses: dict[int, int] = {}


class Metrics(Collector):
    """Counts requests, and reads the service's own counters when Prometheus asks."""

    def __init__(self, samvad: Samvad) -> None:
        self._samvad = samvad
        self.live: LiveService | None = None  # once there was a live conversation
        self._meters: dict[str, _RouteMeter] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        meter = self._meters.get(route)
        if meter is None:
            meter = self._meters[route] = _RouteMeter()
        meter.buckets[bisect_left(_BOUNDS_S, seconds)] += 1
        meter.seconds += seconds
        meter.statuses[status] = meter.statuses.get(status, 0) + 1

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The families, as the client library wants them."""
        yield from self._requests()
        samvad = self._samvad
        lanes, cache = samvad.core.lanes, samvad.cache
        yield _gauge("samvad_users_in_memory", "Users whose record is in memory.", len(cache))
        yield _gauge("samvad_cache_bytes", "Estimated memory of these records.", cache.bytes_held)
        yield _counter("samvad_cache_hits", "Records found in memory.", cache.hits)
        yield _counter("samvad_cache_misses", "Records not found in memory.", cache.misses)
        yield _counter("samvad_cache_evictions", "Records dropped from memory.", cache.evictions)
        yield _counter("samvad_loads", "Records read from the store.", lanes.loads)
        yield _counter("samvad_retries", "Operations applied again after a refused commit.", lanes.retries)
        yield _gauge(
            "samvad_operations_waiting", "Operations not in the store yet.", lanes.operations_waiting
        )
        yield _gauge(
            "samvad_store_up", "1 where the last thing asked of the store worked.", not lanes.degraded
        )
        yield _counter(
            "samvad_idempotent_replays", "Requests answered from a receipt.", samvad.core.receipts.replays
        )
        yield _gauge(
            "samvad_interruption_sessions",
            "Sessions with interruptions in memory.",
            samvad.interruptions.session_count,
        )
        store = samvad.store
        for name, text in (
            ("commits_written", "Commits on the disk."),
            ("groups_written", "Groups of them."),
        ):
            value = getattr(store, name, None)
            if value is not None:
                yield _counter(f"samvad_store_{name}", text, value)

        if isinstance(store, JournaledStore):
            yield from self._journal(store)
        if samvad.cost.bills:
            billed = CounterMetricFamily(
                "samvad_billed",
                "Documents read, written and deleted as Firestore bills them, since the data directory was first used.",
                labels=("operation",),
            )
            for operation in ("reads", "writes", "deletes"):
                billed.add_metric((operation,), getattr(samvad.cost.total, operation))
            yield billed
            yield _counter(
                "samvad_billed_messages", "Messages that these brought there.", samvad.cost.total.messages
            )
        if samvad.watcher is not None:
            watcher = samvad.watcher
            yield _gauge("samvad_listener_up", "1 where changes by other replicas are heard.", watcher.up)
            yield _counter(
                "samvad_listener_notices", "Changes heard, this replica's own too.", watcher.notices
            )
            yield _counter("samvad_listener_failures", "Times that listening broke off.", watcher.failures)

        if samvad.knowledge_is_open:
            shelf = samvad.knowledge.core.shelf
            yield _gauge(
                "samvad_knowledge_unreadable",
                "Documents that cannot be read and are left out of searches.",
                sum(shelf.unreadable.values()),
            )
        if self.live is not None:
            from samvad.http.live_metrics import live_families

            yield from live_families(self.live)

    def _journal(self, store: JournaledStore) -> Iterator[Metric]:
        journal, flusher, breaker = store.journal, store.flusher, store.breaker
        yield _gauge("samvad_journal_bytes", "Bytes of what waits for the store.", journal.bytes_held)
        yield _gauge("samvad_pending_memory_bytes", "About what that takes in memory.", store.memory_bytes)
        yield _gauge("samvad_journal_damages", "Damages found in it at the start.", journal.damaged)
        yield _gauge("samvad_journal_disk_bytes", "Bytes of the journal's files.", journal.disk_bytes)
        yield _gauge(
            "samvad_journal_entries_waiting",
            "Journaled operations not in the store yet.",
            flusher.entries_waiting,
        )
        yield _gauge(
            "samvad_journal_up",
            "1 where the last thing written to the journal was synced.",
            journal.fault is None,
        )
        yield _gauge(
            "samvad_lanes_parked",
            "Users of whom the store refuses an operation for ever.",
            len(flusher.parked()),
        )
        yield _gauge("samvad_breaker_open", "1 where the store is taken to be down.", breaker.is_open)
        yield _counter("samvad_breaker_openings", "Times that the store was lost.", breaker.times_opened)
        yield _counter("samvad_breaker_probes", "Questions whether the store is back.", breaker.probes)
        yield _counter(
            "samvad_flush_commits", "Commits that brought operations to the store.", flusher.commits
        )
        yield _counter("samvad_flush_entries", "Operations brought to the store.", flusher.entries_flushed)
        yield _counter("samvad_flush_failures", "Calls to the store that failed.", breaker.failures)
        yield _counter(
            "samvad_flush_rebases", "Times that pending operations were applied anew.", flusher.rebases
        )
        yield _counter(
            "samvad_flush_overtaken", "Operations that other replicas had made void.", flusher.overtaken
        )

    def _requests(self) -> Iterator[Metric]:
        total = CounterMetricFamily(
            "samvad_requests", "Requests answered, by route and status.", labels=("route", "status")
        )
        seconds = HistogramMetricFamily(
            "samvad_request_seconds", "Time from a request's head to its answer.", labels=("route",)
        )
        for route, meter in self._meters.items():
            for status, count in meter.statuses.items():
                total.add_metric((route, str(status)), count)
            cumulative, buckets = 0, []
            for bound, count in zip((*map(str, _BOUNDS_S), "+Inf"), meter.buckets, strict=True):
                cumulative += count
                buckets.append((bound, cumulative))
            seconds.add_metric((route,), buckets, meter.seconds)
        yield total
        yield seconds


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
