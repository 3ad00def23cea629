"""What operators see of live conversations: counted right, without names, content or labels without bound."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from samvad.http.live_metrics import live_families
from samvad.live.providers import base
from samvad.live.service import LiveService
from samvad.testing.scripted import Call, Emit, Say, ScriptedProvider, Wait
from tests.live.support import Client, talking

pytestmark = pytest.mark.anyio


class Seen:
    """The families as Prometheus has them."""

    def __init__(self, live: LiveService) -> None:
        class Families(Collector):
            def collect(self):  # type: ignore[no-untyped-def]
                return live_families(live)

        self.registry = CollectorRegistry()
        self.registry.register(Families())

    def __call__(self, name: str, **labels: str) -> float | None:
        """The value of a sample, None where there is none."""
        return self.registry.get_sample_value(f"samvad_live_{name}", labels)

    @property
    def labels(self) -> set[str]:
        """All labels' values."""
        return {
            value
            for family in self.registry.collect()
            for sample in family.samples
            for value in sample.labels.values()
        }


async def test_turns_interruptions_and_faults_are_counted() -> None:
    """Each by its kind; the time to the first piece once a turn."""
    script = {
        "long": [Say("A long answer, "), Wait()],
        "fail": [Emit(base.Failed("secret_code_of_another_package", "x", retryable=True))],
        "again": [Emit(base.Reconnected(resumed=True, reason="x")), Say("Back.")],
        "look": [Call("c-1", "nothing", {})],
        "": [Say("Fine."), Say(" Really.")],
    }
    async with talking(ScriptedProvider(script)) as (live, _):
        seen, client = Seen(live), Client(live)
        await client.start(userId="user_secret", sessionId="session_secret")
        assert (seen("connections"), seen("conversations")) == (1, 1)
        for text in ("hello", "fail", "again", "look"):
            client.say(text)
            await client.next("turn_complete")
        client.say("long")
        await client.next("text_chunk")
        client.send({"type": "interrupt"})
        await client.next("turn_complete")
        assert [seen("turns_total", outcome=each) for each in ("complete", "failed", "interrupted")] == [
            3,
            1,
            1,
        ]
        assert seen("interruptions_total", type="BARGE_IN") == 1
        assert seen("provider_errors_total", code="other") == 1
        assert seen("provider_reconnects_total", memory="resumed") == 1
        assert seen("tool_calls_total", outcome="failed") == 1
        assert seen("first_piece_seconds_count") == 4, "of the one that failed nothing came"
        client.send({"type": "end_session"})
        await client.next("session_ended")
        await client.leave()
        assert seen("ended_total", reason="ended") == 1
        assert (seen("connections"), seen("conversations")) == (0, 0)
        assert not [label for label in seen.labels if "secret" in label]


async def test_a_slow_reader_is_counted_in_bytes() -> None:
    """What was dropped, and that it was cut off."""
    provider = ScriptedProvider({"": [Say("x" * 1_000) for _ in range(200)]})
    async with talking(provider, outbox_bytes_max=50_000) as (live, _):
        seen, client = Seen(live), Client(live)
        await client.start()
        client.pipe.readable.clear()
        client.say("much, please")
        await client.task
        await client.leave()
        assert seen("ended_total", reason="slow_reader") == 1
        assert 50_000 < (seen("slow_reader_bytes_total") or 0) < 60_000
