"""Firestore is cut off under 200 messages a second of 50 users: no caller notices, all arrives, once, in order."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from samvad.records import UserKey
from samvad.testing.proxy import Fault, FaultProxy
from tests.crash.server import Server
from tests.firestore.support import emulator, open_store
from tests.outage.load import Load, ask, metrics, resident_mib, until_ready_says
from tests.outage.support import history
from tests.support import SOAK, wait_until_async

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
DRAIN_S_MAX = 120.0
SOAK_S = 600.0
FAULTS: tuple[Fault, ...] = ("refused", "hung", "reset", "trickle", "slow")
CALLS_PER_NEEDED_MAX = 1.1


class Outages:
    """A server with its users, the proxy between it and Firestore, and a look at Firestore past both."""

    def __init__(self, server: Server, load: Load, proxy: FaultProxy, store: Any) -> None:
        self.server = server
        self.load = load
        self.proxy = proxy
        self.store = store
        self.told: list[str] = []

    def tell(self, line: str) -> None:
        """A line of the report, on standard error (pytest -s shows it)."""
        self.told.append(line)
        sys.stderr.write(line + "\n")

    async def arrived(self, counts: dict[str, int]) -> bool:
        """Whether Firestore has so many messages of each user."""
        for name, count in counts.items():
            record = await self.store.load(
                UserKey("default", name), window=1, open_after_ms=0, sessions_max=1
            )
            if record.seq < count:
                return False
            counts[name] = 0
        return True

    async def outage(self, fault: Fault, messages: int) -> None:
        """Cut Firestore off while so many messages are acknowledged, and see how it ends."""
        before, begun_s = await metrics(self.server), time.monotonic()
        began_mib = resident_mib(self.server)
        self.proxy.fault = fault
        if fault != "slow":  # a slow store is there
            await until_ready_says(self.server, {"status": "degraded", "store": "down"})
            unknown = await ask(self.server, f"/api/session/nobody-{fault}/profile")
            assert unknown.status == 503 and "retry-after" in unknown.headers
        self.load.phase = fault
        if fault in ("refused", "hung"):  # through the others an answer may come, now and then
            self.load.degraded = True
        await self.load.more(messages, timeout_s=messages)
        during = await metrics(self.server)
        peak_mib = resident_mib(self.server)
        waiting = during["samvad_journal_entries_waiting"]
        counts = {name: len(said) for name, said in self.load.said.items()}
        self.load.phase, self.load.degraded = "return", None
        self.proxy.fault = None
        returned_s = time.monotonic()
        await wait_until_async(lambda: self.arrived(counts), "all has arrived", DRAIN_S_MAX)
        drained_s = time.monotonic() - returned_s
        await until_ready_says(self.server, {"status": "ready", "store": "up"})
        after = await metrics(self.server)
        spent = {name: after[name] - before[name] for name in after}
        outage_s = returned_s - begun_s
        needed = len(self.load.names) * outage_s  # each user's document once a second
        calls = sum(
            during[name] - before[name]
            for name in (
                "samvad_flush_commits_total", "samvad_flush_failures_total",
                "samvad_breaker_probes_total", "samvad_flush_rebases_total",
            )
        )  # fmt: skip
        phase, normal = self.load.phases[fault], self.load.phases["normal"]
        self.tell(
            f"{fault:8} {outage_s:5.0f} s: {len(phase.append_s)} appends {dict(phase.statuses)}, p99"
            f" {phase.quantile_ms(0.99):.1f} ms (normal {normal.quantile_ms(0.99):.1f}, ratio"
            f" {phase.quantile_ms(0.99) / normal.quantile_ms(0.99):.2f}), p50 {phase.quantile_ms(0.5):.1f} ms"
            f" (normal {normal.quantile_ms(0.5):.1f}); {phase.reads_degraded} of {phase.reads} reads degraded;"
            f" {waiting:.0f} waiting; {began_mib:.0f} to {peak_mib:.0f} MiB; drained in {drained_s:.1f} s;"
            f" {calls:.0f} calls in the outage, of them {spent['samvad_breaker_probes_total']:.0f} probes, for"
            f" {needed:.0f} needed; commits {spent['samvad_flush_commits_total']:.0f}, failures"
            f" {spent['samvad_flush_failures_total']:.0f}, rebases {spent['samvad_flush_rebases_total']:.0f}"
        )
        assert calls <= CALLS_PER_NEEDED_MAX * needed
        if fault in ("refused", "hung"):
            assert phase.reads_degraded == phase.reads > 0
            assert waiting >= messages * 0.9

    async def end(self) -> None:
        """Stop the server cleanly, and compare the whole of what was said with what Firestore has."""
        assert await asyncio.to_thread(self.server.stop) == 0
        assert self.load.wrong == []
        for phase in self.load.phases.values():
            assert phase.statuses.keys() == {200} and phase.durabilities.keys() == {"journaled"}
        for name, said in self.load.said.items():
            assert await history(self.store, name) == said


async def run(tmp_path: Path, faults: tuple[Fault, ...], messages: int) -> None:
    """One server, one outage after the other."""
    async with FaultProxy("127.0.0.1", emulator().port, delay_s=0.02) as proxy:
        project = emulator().new_project()
        environment = {"FIRESTORE_EMULATOR_HOST": proxy.address}
        with Server(tmp_path, "--store", f"firestore://{project}", environment=environment) as server:
            await asyncio.to_thread(server.start)
            store = await open_store(project)
            load = Load(server)
            outages = Outages(server, load, proxy, store)
            async with load.running():
                load.phase = "warm"
                await load.more(400)
                load.phase = "normal"
                await load.more(min(max(400, messages), 6_000))
                for fault in faults:
                    await outages.outage(fault, messages)
            await outages.end()
            await store.close()


async def test_every_way_to_be_away(tmp_path: Path) -> None:
    """Refused, hung, reset in mid-reply, trickling, slow: 2 s each under load, on one server, one after the other."""
    await run(tmp_path, FAULTS, 400)


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="SAMVAD_SOAK=1 asks for it")
@pytest.mark.parametrize("fault", FAULTS)
async def test_ten_minutes_soak(tmp_path: Path, fault: Fault) -> None:
    """Ten minutes away, 120,000 messages."""
    await run(tmp_path, (fault,), round(SOAK_S * 200))
