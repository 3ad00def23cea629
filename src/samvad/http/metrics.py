"""GET /metrics: requests by route, and what the service holds and waits for. Never an id, never content.

Requests are counted in plain lists on the event loop and turned into Prometheus families when asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from samvad import __version__, limits
from samvad.http.loop_lag import LoopLag
from samvad.http.metric_families import (
    audit_families,
    auth_families,
    counter,
    counters,
    encryption_families,
    gauge,
    gauges,
    histogram,
    histograms,
    knowledge_families,
    limit_families,
    store_families,
)
from samvad.meters import Histogram
from samvad.sessions.journaled import JournaledStore

if TYPE_CHECKING:
    from samvad.auth.audit import AuditLog
    from samvad.auth.authenticator import Authenticator
    from samvad.http.rate_limits import Limiter
    from samvad.live.service import LiveService
    from samvad.runtime import Samvad

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Metrics(Collector):
    """Counts requests, and reads the service's own counters when Prometheus asks."""

    def __init__(
        self,
        samvad: Samvad,
        auth: Authenticator | None = None,
        limiter: Limiter | None = None,
        streams: Callable[[], int] = lambda: 0,
    ) -> None:
        self._samvad = samvad
        self._auth = auth
        self._limiter = limiter
        self._streams = streams
        self.audit: AuditLog | None = None  # where one is kept
        self.live: LiveService | None = None  # once there was a live conversation
        self.lag = LoopLag(samvad)
        self.under_way = 0
        self._answered: dict[tuple[str, int], Histogram] = {}  # by route and status
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        seen = self._answered.get((route, status))
        if seen is None:
            seen = self._answered[route, status] = Histogram()
        seen.add(seconds)

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The families, as the client library wants them."""
        samvad = self._samvad
        yield gauges("samvad_build_info", "The version, as a label.", "version", {__version__: 1})
        yield from self._requests()
        yield histogram(
            "samvad_loop_lag_seconds", "How late the event loop was, 20 times a second.", self.lag.seconds
        )
        yield from self._memory(samvad)
        yield from store_families(samvad)
        store = samvad.store
        for name, text in (
            ("commits_written", "Commits on the disk."),
            ("groups_written", "Groups of them."),
        ):
            value = getattr(store, name, None)
            if value is not None:
                yield counter(f"samvad_store_{name}", text, value)
        if isinstance(store, JournaledStore):
            yield from self._journal(store)
            store = store.inner
        if hasattr(store, "data_keys"):
            yield from encryption_families(store)
        if self._auth is not None:
            yield from auth_families(self._auth)
        if self._limiter is not None:
            yield from limit_families(self._limiter)
        if self.audit is not None:
            yield from audit_families(self.audit)
        if samvad.cost.bills:
            billed = {op: getattr(samvad.cost.total, op) for op in ("reads", "writes", "deletes")}
            yield counters(
                "samvad_billed",
                "Documents read, written and deleted as Firestore bills them, since the data directory was first used.",
                "operation",
                billed,
            )
            yield counter(
                "samvad_billed_messages", "Messages that these brought there.", samvad.cost.total.messages
            )
        if samvad.watcher is not None:
            watcher = samvad.watcher
            yield gauge("samvad_listener_up", "1 where changes by other replicas are heard.", watcher.up)
            yield counter(
                "samvad_listener_notices", "Changes heard, this replica's own too.", watcher.notices
            )
            yield counter("samvad_listener_failures", "Times that listening broke off.", watcher.failures)
        if samvad.knowledge_is_open:
            yield from knowledge_families(samvad.knowledge.core.shelf)
        if samvad.options.retention_is_on:
            from samvad.http.retention_metrics import retention_families

            yield from retention_families(samvad.sweeper)
        if self.live is not None:
            from samvad.http.live_metrics import live_families

            yield from live_families(self.live)

    def _memory(self, samvad: Samvad) -> Iterator[Metric]:
        lanes, cache = samvad.core.lanes, samvad.cache
        yield gauge("samvad_users_in_memory", "Users whose record is in memory.", len(cache))
        yield gauge("samvad_cache_bytes", "Estimated memory of these records.", cache.bytes_held)
        yield gauge("samvad_cache_bytes_max", "What that may grow to.", samvad.options.cache_bytes_max)
        yield counter("samvad_cache_hits", "Records found in memory.", cache.hits)
        yield counter("samvad_cache_misses", "Records not found in memory.", cache.misses)
        yield counter("samvad_cache_evictions", "Records dropped from memory.", cache.evictions)
        yield counter("samvad_loads", "Records read from the store.", lanes.loads)
        yield counter("samvad_retries", "Operations applied again after a refused commit.", lanes.retries)
        yield gauge("samvad_operations_waiting", "Operations not in the store yet.", lanes.operations_waiting)
        yield gauge(
            "samvad_store_up", "1 where the last thing asked of the store worked.", not lanes.degraded
        )
        yield counter(
            "samvad_idempotent_replays", "Requests answered from a receipt.", samvad.core.receipts.replays
        )
        yield gauge("samvad_feed_subscriptions", "Who follows a user's timeline.", len(samvad.feed))
        yield gauge(
            "samvad_interruption_sessions",
            "Sessions with interruptions in memory.",
            samvad.interruptions.session_count,
        )

    def _journal(self, store: JournaledStore) -> Iterator[Metric]:
        journal, flusher, breaker = store.journal, store.flusher, store.breaker
        yield gauge("samvad_journal_bytes", "Bytes of what waits for the store.", journal.bytes_held)
        yield gauge(
            "samvad_journal_bytes_max", "What that may grow to.", self._samvad.options.journal_bytes_max
        )
        yield gauge("samvad_pending_memory_bytes", "About what that takes in memory.", store.memory_bytes)
        yield gauge(
            "samvad_pending_memory_bytes_max", "What that may grow to.", limits.PENDING_MEMORY_BYTES_MAX
        )
        yield gauge("samvad_journal_damages", "Damages found in it at the start.", journal.damaged)
        yield gauge("samvad_journal_disk_bytes", "Bytes of the journal's files.", journal.disk_bytes)
        yield gauge(
            "samvad_journal_entries_waiting",
            "Journaled operations not in the store yet.",
            flusher.entries_waiting,
        )
        yield gauge(
            "samvad_journal_up",
            "1 where the last thing written to the journal was synced.",
            journal.fault is None,
        )
        yield gauge(
            "samvad_flush_lanes", "Users of whom something is on its way to the store.", flusher.lanes
        )
        yield gauge(
            "samvad_lanes_parked",
            "Users of whom the store refuses an operation for ever.",
            len(flusher.parked()),
        )
        yield gauge(
            "samvad_erasures_pending", "Erasings that the store does not have yet.", flusher.index.erasings
        )
        yield gauge("samvad_breaker_open", "1 where the store is taken to be down.", breaker.is_open)
        yield counter("samvad_breaker_openings", "Times that the store was lost.", breaker.times_opened)
        yield counter("samvad_breaker_probes", "Questions whether the store is back.", breaker.probes)
        yield gauge(
            "samvad_flush_oldest_seconds",
            "For how long the operation that waits for longest has waited.",
            flusher.oldest_s(),
        )
        yield histogram("samvad_flush_lag_seconds", "From the journal to the store.", flusher.lag)
        yield counter(
            "samvad_flush_commits", "Commits that brought operations to the store.", flusher.commits
        )
        yield counter("samvad_flush_entries", "Operations brought to the store.", flusher.entries_flushed)
        yield counter("samvad_flush_failures", "Calls to the store that failed.", breaker.failures)
        yield counter(
            "samvad_flush_rebases", "Times that pending operations were applied anew.", flusher.rebases
        )
        yield counter(
            "samvad_flush_overtaken", "Operations that other replicas had made void.", flusher.overtaken
        )

    def _requests(self) -> Iterator[Metric]:
        answered = {(route, str(status)): seen.count for (route, status), seen in self._answered.items()}
        seconds: defaultdict[str, Histogram] = defaultdict(Histogram)
        for (route, _), seen in self._answered.items():
            seconds[route].add_all(seen)
        yield counters(
            "samvad_requests", "Requests answered, by route and status.", ("route", "status"), answered
        )
        yield histograms(
            "samvad_request_seconds",
            "Time from a request's head to its answer.",
            "route",
            seconds,
        )
        yield gauge("samvad_requests_under_way", "Requests, streams and sockets open now.", self.under_way)
        yield gauge("samvad_event_streams", "Open streams of events.", self._streams())
