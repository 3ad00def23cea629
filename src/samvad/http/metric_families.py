"""The parts of GET /metrics that tell of credentials, limits, the audit log, encryption, the store and the process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from samvad.meters import Histogram
from samvad.sessions.journaled import JournaledStore

if TYPE_CHECKING:
    from samvad.auth.audit import AuditLog
    from samvad.auth.authenticator import Authenticator
    from samvad.http.rate_limits import Limiter
    from samvad.runtime import Samvad


Label = str | tuple[str, ...]  # the name of a label, or of several: then the keys are tuples as well


def gauge(name: str, text: str, value: float) -> Metric:
    """One number that goes up and down."""
    return GaugeMetricFamily(name, text, value=value)


def counter(name: str, text: str, value: float) -> Metric:
    """One number that grows."""
    return CounterMetricFamily(name, text, value=value)


def gauges(name: str, text: str, label: Label, values: Mapping[Any, float]) -> Metric:
    """Numbers that go up and down, by one label or several."""
    return _labelled(GaugeMetricFamily, name, text, label, values)


def counters(name: str, text: str, label: Label, values: Mapping[Any, float]) -> Metric:
    """Numbers that grow, by one label or several."""
    return _labelled(CounterMetricFamily, name, text, label, values)


def _labelled(
    kind: type[CounterMetricFamily | GaugeMetricFamily],
    name: str,
    text: str,
    label: Label,
    values: Mapping[Any, float],
) -> Metric:
    family = kind(name, text, labels=(label,) if isinstance(label, str) else label)
    for value, number in values.items():
        family.add_metric((value,) if isinstance(label, str) else value, number)
    return family


def histograms(name: str, text: str, label: str, found: Mapping[str, Histogram]) -> Metric:
    """Histograms, by one label."""
    family = HistogramMetricFamily(name, text, labels=(label,))
    for value, each in found.items():
        family.add_metric((value,), *_filled(each))
    return family


def histogram(name: str, text: str, found: Histogram) -> Metric:
    """One histogram."""
    family = HistogramMetricFamily(name, text)
    family.add_metric((), *_filled(found))
    return family


def _filled(found: Histogram) -> tuple[list[tuple[str, float]], float]:
    bounds = (*map(str, found.bounds), "+Inf")
    return list(zip(bounds, accumulate(found.buckets), strict=True)), found.total


# --- the store ---------------------------------------------------------------------------------------------


def store_families(samvad: Samvad) -> Iterator[Metric]:
    """Calls to the store, what waits for its disk, and who has been told what of their writes."""
    told = samvad.core.lanes.acknowledged.seconds
    yield counters(
        "samvad_writes_acknowledged",
        "Writes that were acknowledged, by how far they had got then.",
        "durability",
        {durability: each.count for durability, each in told.items()},
    )
    yield histograms(
        "samvad_write_ack_seconds", "From a write to its acknowledgement, without HTTP.", "durability", told
    )
    meter = samvad.store_meter
    outcomes = dict(meter.outcomes)
    commits = meter.commits_ok
    if not isinstance(samvad.store, JournaledStore) and not commits:  # each write is a commit, counted there
        commits = getattr(samvad.store, "commits_written", 0)
        outcomes |= {("commit", code): n for code, n in samvad.core.lanes.acknowledged.refused.items()}
    yield counters(
        "samvad_store_calls",
        "Calls to the store, by kind and outcome.",
        ("call", "outcome"),
        {("commit", "ok"): commits, **outcomes},
    )
    seconds = {kind: each for kind, each in meter.seconds.items() if each.count}
    yield histograms("samvad_store_call_seconds", "How long these took.", "call", seconds)
    store: Any = samvad.store
    journal = getattr(store, "journal", None)
    writers = {"journal": journal, "database": getattr(store, "inner", store)}
    groups = {
        each: found
        for each, writer in writers.items()
        if (found := getattr(writer, "groups", None)) is not None
    }
    if groups:
        yield histograms(
            "samvad_sync_seconds",
            "How long a group of writes took to be on the disk.",
            "of",
            {each: found.seconds for each, found in groups.items()},
        )
        yield histograms(
            "samvad_sync_group_size",
            "How many writes such a group had.",
            "of",
            {each: found.sizes for each, found in groups.items()},
        )
    engine = getattr(store, "inner", store)
    queued = {of: getattr(engine, f"{of}_queued", 0) for of in ("commits", "reads")}
    yield gauges("samvad_store_queue", "What waits for the store's own threads.", "of", queued)
    if (replaced := getattr(engine, "replaced", None)) is not None:
        yield gauge(
            "samvad_database_replaced", "1 where its files were changed beneath the server.", replaced
        )
    place = journal.directory if journal is not None else getattr(store, "path", None)
    if isinstance(place, Path) and (free := _free(place.parent)) is not None:
        yield gauge("samvad_disk_free_bytes", "What is free on the disk of the data directory.", free)


def _free(directory: Path) -> int | None:
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def encryption_families(sealed: Any) -> Iterator[Metric]:
    """Keys in memory, made and destroyed, and what could not be read for want of one."""
    keys = sealed.data_keys
    yield gauge("samvad_encryption_keys_held", "Users whose keys are in memory.", keys.held)
    yield counter("samvad_encryption_keys_made", "Keys made for a user's life.", keys.made)
    yield counter("samvad_encryption_keys_destroyed", "Erasings that destroyed keys.", keys.destroyed)
    yield gauge("samvad_encryption_waiting", "Commits that wait for a key.", sealed.waiting)
    yield counter(
        "samvad_encryption_messages_gone",
        "Messages read of which the key is not there any more.",
        sealed.opened.messages_gone,
    )
    yield counter(
        "samvad_encryption_unreadable",
        "Parts read that are not what was sealed there.",
        sealed.opened.unreadable,
    )


# --- who may ask, and what is noted of it ------------------------------------------------------------------


def auth_families(auth: Authenticator) -> Iterator[Metric]:
    """Refused credentials, and whether the keys are known."""
    yield counters("samvad_auth_refusals", "Credentials refused, by reason.", "reason", auth.refusals)
    yield gauge("samvad_auth_credentials_held", "Credentials remembered as good.", auth.credentials_held)
    yield counter("samvad_auth_keys_failures", "Times that the keys could not be read.", auth.readings_failed)
    fresh = auth.keyring.fresh or not auth.required
    yield gauge("samvad_auth_keys_fresh", "1 where the keys were read lately enough to be trusted.", fresh)


def limit_families(limiter: Limiter) -> Iterator[Metric]:
    """Requests refused because somebody asks too much."""
    yield counters(
        "samvad_limit_refusals", "Requests refused, by the quota used up.", "quota", limiter.refusals
    )
    yield gauge("samvad_limit_windows", "Windows of quotas in memory.", len(limiter.windows))
    yield gauge("samvad_limit_requests_waiting", "Requests that wait for their turn.", len(limiter.pacing))
    yield gauge("samvad_limit_refusals_held", "Refusals that wait to be told.", len(limiter.holding))
    if limiter.shared_up is not None:
        yield gauge(
            "samvad_limit_shared_up", "1 where the windows of all replicas can be asked.", limiter.shared_up
        )


def audit_families(log: AuditLog) -> Iterator[Metric]:
    """The audit log: whether it can be written, and what waits for it."""
    yield gauge("samvad_audit_up", "1 where the audit log can be written.", log.fault is None)
    yield gauge("samvad_audit_waiting", "Entries that wait to be written.", log.waiting)
    yield counter("samvad_audit_entries", "Entries written.", log.written)


# --- the knowledge base ------------------------------------------------------------------------------------


def knowledge_families(shelf: Any) -> Iterator[Metric]:
    """The search engine's process, once there was something to find."""
    engine = shelf.engine
    yield gauge("samvad_knowledge_engine_up", "1 where the search engine's process runs.", engine.is_up)
    yield counter("samvad_knowledge_engine_starts", "Times that it was started.", engine.starts)
    yield counter("samvad_knowledge_engine_faults", "Requests to it that failed.", engine.faults)
    yield histograms(
        "samvad_knowledge_engine_seconds", "How long requests to it took.", "request", engine.seconds
    )
    yield gauge(
        "samvad_knowledge_unreadable",
        "Documents that cannot be read and are left out of searches.",
        sum(shelf.unreadable.values()),
    )
    failures = 0 if shelf.embedding is None else shelf.embedding.queries_failed
    yield counter("samvad_knowledge_embedder_failures", "Queries that got no vector.", failures)
