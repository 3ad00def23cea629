"""GET /metrics tells what happens: each number moves with what it counts, and no id is in any of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from samvad import open_samvad
from samvad.auth import api_keys
from samvad.auth.audit import AuditLog
from samvad.auth.authenticator import Authenticator
from samvad.clock import SystemClock
from samvad.errors import TooManyRequests, Unauthenticated
from samvad.http.app import create_app
from samvad.http.metrics import Metrics
from samvad.http.rate_limits import Limiter, quotas
from samvad.live.parts import LiveOptions
from samvad.live.service import LiveService
from samvad.runtime import Samvad
from samvad.settings import Settings
from samvad.stores.memory import MemoryStore
from samvad.testing.scripted import ScriptedProvider
from tests.auth.world import Socket, world
from tests.encryption.test_at_rest import new_key, service
from tests.http.support import Api
from tests.journaled.faulty import FaultyStore
from tests.journaled.support import drained, opened
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio


def read(samvad_or_metrics: Samvad | Metrics) -> dict[str, float]:
    """All samples as Prometheus would read them, by name and labels: `name{label="value"}`."""
    metrics = samvad_or_metrics if isinstance(samvad_or_metrics, Metrics) else Metrics(samvad_or_metrics)
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for name, labels, value, *_ in family.samples:
            told = ",".join(f'{label}="{text}"' for label, text in sorted(labels.items()))
            found[f"{name}{{{told}}}" if told else name] = value
    return found


async def test_writes_by_how_far_they_got(tmp_path: Path) -> None:
    """On SQLite all are `stored`; their commits, groups and syncs are counted, and their loads."""
    async with open_samvad(f"sqlite:///{tmp_path}/samvad.db") as samvad:
        for n in range(5):
            await samvad.append_to_user_history("asha", "user", f"number {n}")
        await samvad.page_history("asha")
        seen = read(samvad)
    assert seen['samvad_writes_acknowledged_total{durability="stored"}'] == 5
    assert seen['samvad_write_ack_seconds_count{durability="stored"}'] == 5
    assert seen['samvad_store_calls_total{call="commit",outcome="ok"}'] == 5
    assert seen['samvad_store_calls_total{call="load",outcome="ok"}'] == 1
    assert seen['samvad_store_call_seconds_count{call="load"}'] == 1
    assert (
        seen['samvad_sync_group_size_sum{of="database"}'] == seen["samvad_store_commits_written_total"] == 5
    )
    assert seen['samvad_sync_seconds_count{of="database"}'] == seen["samvad_store_groups_written_total"]
    assert seen['samvad_store_queue{of="commits"}'] == seen['samvad_store_queue{of="reads"}'] == 0
    assert seen["samvad_disk_free_bytes"] > 0


async def test_memory_claims_no_more_than_is_true() -> None:
    """Of a store in memory, and of one that is written to behind the caller's back, nothing is `stored`."""
    for settings in ({}, {"durability": "memory"}):
        async with open_samvad("memory://", **settings) as samvad:
            await samvad.append_to_user_history("asha", "user", "Hello")
            seen = read(samvad)
        assert [name for name in seen if name.startswith("samvad_writes_acknowledged")] == [
            'samvad_writes_acknowledged_total{durability="memory"}'
        ]


async def test_an_outage(tmp_path: Path) -> None:
    """What waits and for how long, the breaker, failed calls, an erasing that is pending; then all of it is over."""
    store = FaultyStore(MemoryStore())
    await store.store.open()
    async with opened(store, tmp_path / "journal") as samvad:
        await samvad.append_to_user_history("asha", "user", "before")
        await drained(samvad)
        store.down = True
        await samvad.append_to_user_history("asha", "user", "during")
        await samvad.append_to_user_history("bala", "user", "during")

        async def is_open() -> bool:
            return read(samvad)["samvad_breaker_open"] == 1

        await wait_until_async(is_open, "the breaker is open")
        cleared = await samvad.clear_user_data("bala")
        assert cleared.pending
        down = read(samvad)
        store.down = False
        await drained(samvad)
        await samvad.clear_user_data("asha")
        up = read(samvad)
    assert down["samvad_store_up"] == 0
    assert down["samvad_journal_entries_waiting"] == 3
    assert down["samvad_flush_lanes"] == 2
    assert down["samvad_erasures_pending"] == 1
    assert down["samvad_flush_oldest_seconds"] > 0
    assert down['samvad_writes_acknowledged_total{durability="journaled"}'] == 4
    failed = [name for name in down if name.startswith("samvad_store_calls") and "store_unavailable" in name]
    assert failed and all(down[name] >= 1 for name in failed)  # of which kind depends on who came first
    assert down["samvad_flush_lag_seconds_count"] == 1
    assert 0 < down["samvad_journal_bytes"] < down["samvad_journal_bytes_max"]
    assert down['samvad_sync_group_size_sum{of="journal"}'] >= 4
    assert (
        up["samvad_breaker_open"] == up["samvad_erasures_pending"] == up["samvad_flush_oldest_seconds"] == 0
    )
    assert up["samvad_flush_lag_seconds_count"] == 5
    assert up['samvad_writes_acknowledged_total{durability="stored"}'] == 1  # the store said what it removed


async def test_who_is_refused() -> None:
    """Credentials by the reason, which only the operator learns; requests by the quota that is used up."""
    clock = SystemClock()
    auth = Authenticator(clock, required=True)
    limiter = Limiter(clock, quotas(Settings(limit_refused=1)))
    await auth.ready()
    for token in (None, "sk-other", api_keys.PREFIX + "nothing"):
        with pytest.raises(Unauthenticated):
            await auth.identify(token)
    scope = {"client": ("192.0.2.7", 1), "headers": []}
    limiter.refused(scope)
    with pytest.raises(TooManyRequests):
        limiter.refused(scope)
    async with open_samvad("memory://") as samvad:
        seen = read(Metrics(samvad, auth, limiter))
    for reason in ("form", "key", "none"):
        assert seen[f'samvad_auth_refusals_total{{reason="{reason}"}}'] == 1
    assert seen["samvad_auth_keys_fresh"] == 1
    assert seen['samvad_limit_refusals_total{quota="refused"}'] == 1
    assert seen["samvad_limit_windows"] == 1


async def test_the_audit_log_that_cannot_be_written(tmp_path: Path) -> None:
    """It is 0, and says how much waits; then it is 1 again."""
    log = AuditLog(tmp_path, SystemClock())
    async with open_samvad("memory://") as samvad:
        metrics = Metrics(samvad)
        metrics.audit = log
        assert log.key
        log.directory.rename(tmp_path / "away")
        log.start()
        log.note("local", "default", "clearUserData", 200)

        async def broken() -> bool:
            return read(metrics)["samvad_audit_up"] == 0

        await wait_until_async(broken, "the audit log cannot be written")
        (tmp_path / "away").rename(log.directory)

        async def written() -> bool:
            return read(metrics)["samvad_audit_entries_total"] == 1

        await wait_until_async(written, "it is written")
        log.stop()
        assert read(metrics)["samvad_audit_up"] == 1
        assert read(metrics)["samvad_audit_waiting"] == 0


async def test_keys(tmp_path: Path) -> None:
    """Keys made, held and destroyed; and what is not as it was sealed."""
    path, key = tmp_path / "samvad.db", new_key()
    async with service(path, key) as samvad:
        await samvad.append_to_user_history("asha", "user", "Hello")
        await samvad.append_to_user_history("bala", "user", "Hello")
        await samvad.clear_user_data("bala")
        seen = read(samvad)
        assert seen["samvad_encryption_keys_made_total"] == 2
        assert seen["samvad_encryption_keys_held"] == 1
        assert seen["samvad_encryption_keys_destroyed_total"] == 1
        assert seen["samvad_encryption_messages_gone_total"] == seen["samvad_encryption_waiting"] == 0


async def test_a_loop_that_stands_still_is_noticed() -> None:
    """Work that holds the event loop makes its timer late."""
    async with open_samvad("memory://") as samvad:
        app = create_app(samvad)
        api = Api(samvad, app)
        await api.get("/metrics")  # from the first scrape on
        until_s = time.perf_counter() + 0.3
        while time.perf_counter() < until_s:
            pass

        async def late() -> bool:
            seen = read(app.metrics)
            return seen["samvad_loop_lag_seconds_count"] > seen['samvad_loop_lag_seconds_bucket{le="0.1"}']

        await wait_until_async(late, "the timer was late")


async def test_no_request_is_lost_count_of() -> None:
    """By route and status, those that are refused too; none is under way when all are answered."""
    async with open_samvad("memory://") as samvad:
        app = create_app(samvad)
        api = Api(samvad, app)
        for status, method, path in (
            (200, "GET", "/healthz"),
            (404, "GET", "/api/session/asha/state"),
            (404, "GET", "/nowhere"),
            (405, "POST", "/healthz"),
        ):
            assert (await api(method, path)).status == status
        seen = read(app.metrics)
    assert seen['samvad_requests_total{route="healthz",status="200"}'] == 1
    assert seen['samvad_requests_total{route="none",status="404"}'] == 1
    assert seen['samvad_requests_total{route="none",status="405"}'] == 1
    assert sum(value for name, value in seen.items() if name.startswith("samvad_requests_total")) == 4
    assert seen["samvad_requests_under_way"] == seen["samvad_event_streams"] == 0


async def test_a_documents_search(tmp_path: Path) -> None:
    """The search engine's requests, once there are any."""
    async with open_samvad(f"sqlite:///{tmp_path}/samvad.db") as samvad:
        assert not any(name.startswith("samvad_knowledge") for name in read(samvad))
        await samvad.knowledge.add_text("Greeting", "How to greet people.")
        await samvad.knowledge.search("greet")
        seen = read(samvad)
    assert seen["samvad_knowledge_engine_up"] == seen["samvad_knowledge_engine_starts_total"] == 1
    assert seen['samvad_knowledge_engine_seconds_count{request="search"}'] == 1


async def test_a_socket_that_is_refused_counts_as_refused() -> None:
    """A live conversation too many is 503 in the measures, and no conversation."""
    async with world() as here:
        provider, options = ScriptedProvider({}), LiveOptions(sockets_max=1)
        live = LiveService(here.samvad, lambda name: provider, options=options)
        app = create_app(here.samvad, auth=here.auth, live=lambda: live)
        here = here._replace(api=Api(here.samvad, app))
        sockets = [Socket(here, here.token("asha")) for _ in range(2)]
        assert (await sockets[0].next())["type"] == "websocket.accept"
        assert (await sockets[1].next())["type"] == "websocket.http.response.start"
        await sockets[1].task
        seen = read(app.metrics)
        assert seen['samvad_requests_total{route="live",status="503"}'] == 1
        assert 'samvad_requests_total{route="live",status="101"}' not in seen
        await sockets[0].close()
