"""Firestore is cut off under 200 messages a second of 50 users: no caller notices, all arrives, once, in order."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.outages import CALLS_PER_NEEDED_MAX, FAULTS, SLOW_S, Outages
from benchmarks.users import Load
from samvad.testing.proxy import Fault, FaultProxy
from tests.crash.server import Server
from tests.firestore.support import emulator, open_store
from tests.outage.load import ask, resident_mib, until_ready_says
from tests.outage.support import history
from tests.support import SOAK

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
SOAK_S = 600.0


class BoundedOutages(Outages):
    """What must hold in an outage and after it, with the report of each."""

    def __init__(self, server: Server, load: Load, proxy: FaultProxy, store: Any) -> None:
        super().__init__(load, proxy, store)
        self.server = server

    async def outage(self, fault: Fault, messages: int) -> None:
        """Cut Firestore off while so many messages are acknowledged, and see how it ends."""
        began_mib = resident_mib(self.server)
        await self.begin(fault)
        if fault != "slow":  # a slow store is there
            await until_ready_says(self.server, {"status": "degraded", "store": "down"})
            unknown = await ask(self.server, f"/api/session/nobody-{fault}/profile")
            assert unknown.status == 503 and "retry-after" in unknown.headers
        self.load.phase = fault
        if fault in ("refused", "hung"):  # through the others an answer may come, now and then
            self.load.degraded = True
        await self.load.more(messages, timeout_s=messages)
        peak_mib = resident_mib(self.server)
        outage = await self.end()
        await until_ready_says(self.server, {"status": "ready", "store": "up"})
        phase, normal, spent = self.load.phases[fault], self.load.phases["normal"], outage.spent
        sys.stderr.write(
            f"{fault:8} {outage.outage_s:5.0f} s: {len(phase.latencies_s)} appends {dict(phase.statuses)}, p99"
            f" {phase.quantile_ms(0.99):.1f} ms (normal {normal.quantile_ms(0.99):.1f}, ratio"
            f" {phase.quantile_ms(0.99) / normal.quantile_ms(0.99):.2f}), p50 {phase.quantile_ms(0.5):.1f} ms"
            f" (normal {normal.quantile_ms(0.5):.1f}); {phase.reads_degraded} of {phase.reads} reads degraded;"
            f" {outage.waiting} waiting; {began_mib:.0f} to {peak_mib:.0f} MiB; drained in"
            f" {outage.drained_s:.1f} s; {outage.calls} calls in the outage, of them"
            f" {spent['samvad_breaker_probes_total']:.0f} probes, for {outage.needed:.0f} needed; commits"
            f" {spent['samvad_flush_commits_total']:.0f}, failures"
            f" {spent['samvad_flush_failures_total']:.0f}, rebases {spent['samvad_flush_rebases_total']:.0f}\n"
        )
        assert outage.calls_per_needed <= CALLS_PER_NEEDED_MAX
        if fault in ("refused", "hung"):
            assert phase.reads_degraded == phase.reads > 0
            assert outage.waiting >= messages * 0.9

    async def close(self) -> None:
        """Stop the server cleanly, and compare the whole of what was said with what Firestore has."""
        assert await asyncio.to_thread(self.server.stop) == 0
        assert self.load.wrong == []
        for phase in self.load.phases.values():
            assert phase.statuses.keys() == {200} and phase.durabilities.keys() == {"journaled"}
        for name, said in self.load.said.items():
            assert await history(self.store, name) == said


async def run(tmp_path: Path, faults: tuple[Fault, ...], messages: int) -> None:
    """One server, one outage after the other."""
    async with FaultProxy("127.0.0.1", emulator().port, delay_s=SLOW_S) as proxy:
        project = emulator().new_project()
        environment = {"FIRESTORE_EMULATOR_HOST": proxy.address}
        with Server(tmp_path, "--store", f"firestore://{project}", environment=environment) as server:
            await asyncio.to_thread(server.start)
            store = await open_store(project)
            load = Load(server.port)
            outages = BoundedOutages(server, load, proxy, store)
            async with load.running():
                load.phase = "warm"
                await load.more(400)
                load.phase = "normal"
                await load.more(min(max(400, messages), 6_000))
                for fault in faults:
                    await outages.outage(fault, messages)
            await outages.close()
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
