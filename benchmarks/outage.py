"""Firestore cut off under load, in each of the ways in which that happens: what an append takes, and what it costs.

One real `samvad serve` before Google's emulator, with a proxy between them that fails on purpose. Stretches with
and without a fault take turns, so that what else the machine does meets both; each is compared with its neighbours.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.firestore import running_emulator, server
from benchmarks.measure import Options, Spread, Unavailable, progress
from benchmarks.outages import CALLS_PER_NEEDED_MAX, FAULTS, SLOW_S, Outage, Outages
from benchmarks.report import Bound, Section, Table, number, spread
from benchmarks.users import MESSAGES_PER_S, USERS, Load, Phase
from samvad.testing.proxy import Fault, FaultProxy

P99_RATIO_MAX = 2.0
NORMAL_S = 2.5
# A call that gets no answer, or one byte at a time, is given up after some seconds: what follows is seen as well.
AWAY_S: dict[Fault, float] = {"refused": 3.5, "hung": 8.0, "reset": 3.5, "trickle": 8.0, "slow": 3.5}
WARM_MESSAGES = 2 * MESSAGES_PER_S
WHAT: dict[Fault, str] = {
    "refused": "connections are refused",
    "hung": "nothing passes",
    "reset": "reset in the middle of a reply",
    "trickle": f"replies come a byte every {SLOW_S * 1000:g} ms",
    "slow": f"each packet comes {SLOW_S * 1000:g} ms later",
}


@dataclass(frozen=True)
class Stretch:
    """Firestore away for a while, and the appends just before and just after that."""

    outage: Outage
    away: Phase
    normal: Phase
    returning: Phase

    def ratio(self, share: float) -> float:
        """The latency of appends while it was away, of that of its neighbours."""
        return self.away.quantile_ms(share) / self.normal.quantile_ms(share)


def run(options: Options) -> Section:
    """Every fault in turn, round after round, on one server."""
    with running_emulator() as emulator:
        found, load = asyncio.run(_measure(emulator, options))
    if load.wrong:
        raise Unavailable(f"{len(load.wrong)} answers were wrong, the first: {load.wrong[0]}")
    rows, calls, bounds = [], [], []
    for fault in FAULTS:
        stretches = found[fault]
        rows.append(_latency_row(fault, stretches))
        calls.append(_calls_row(fault, stretches))
        ratio = Spread.of([each.ratio(0.99) for each in stretches]).median
        spent = max(each.outage.calls_per_needed for each in stretches)
        bounds += [
            Bound(f"append p99, Firestore away ({fault}) / normal", f"<= {P99_RATIO_MAX:g}", f"{ratio:.2f}",
                  ratio <= P99_RATIO_MAX),
            Bound(f"calls to Firestore while away ({fault}) / needed", f"<= {CALLS_PER_NEEDED_MAX}",
                  f"{spent:.2f}", spent <= CALLS_PER_NEEDED_MAX),
        ]  # fmt: skip
    total = sum(len(phase.latencies_s) for phase in load.phases.values())
    bounds.append(
        Bound("appends acknowledged, Firestore there or away", "all", f"{load.acknowledged:,} of {total:,}",
              load.acknowledged == total)
    )  # fmt: skip
    return _section(rows, calls, bounds, load)


async def _measure(emulator: Any, options: Options) -> tuple[dict[Fault, list[Stretch]], Load]:
    """The stretches of each fault, one a round; and what was said, all of which Firestore has."""
    from samvad.stores.firestore import FirestoreStore

    project = emulator.new_project()
    found: dict[Fault, list[Stretch]] = {fault: [] for fault in FAULTS}
    scale = 0.5 if options.quick else 1.0
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(FaultProxy("127.0.0.1", emulator.port, delay_s=SLOW_S))
        flags = ("--store", f"firestore://{project}")
        serving = server(options.directory / "outage", *flags, emulator_host=proxy.address)
        load = Load(await asyncio.to_thread(stack.enter_context, serving))  # it needs the proxy to start
        store = FirestoreStore(project, emulator_host=emulator.host)
        await store.open()
        stack.push_async_callback(store.close)
        outages = Outages(load, proxy, store)

        async def stretch(name: str, seconds: float) -> Phase:
            load.phase = name
            await asyncio.sleep(seconds * scale)
            return load.phases[name]

        async with load.running():
            load.phase = "warm"
            await load.more(WARM_MESSAGES)
            before = await stretch("normal", NORMAL_S)
            for round_number in range(options.rounds):
                progress(f"   outage, round {round_number + 1}/{options.rounds}")
                for fault in FAULTS:
                    turn = f"{fault} {round_number}"
                    await outages.begin(fault)
                    away = await stretch(f"away, {turn}", AWAY_S[fault])
                    outage = await outages.end(f"returning, {turn}")
                    returning = load.phases[load.phase]
                    after = await stretch(f"after {turn}", NORMAL_S)
                    beside = Phase(latencies_s=before.latencies_s + after.latencies_s)
                    found[fault].append(Stretch(outage, away, beside, returning))
                    before = after
        await outages.drained()
        for name, said in load.said.items():
            if (has := await outages.arrived(name)) != len(said):
                raise Unavailable(f"Firestore has {has} messages of a user who said {len(said)}")
    return found, load


def _latency_row(fault: Fault, stretches: list[Stretch]) -> tuple[str, ...]:
    """p50 and p99, and what they are of those of the neighbours."""
    cells = [WHAT[fault], number(sum(len(each.away.latencies_s) for each in stretches))]
    for share in (0.5, 0.99):
        cells += [
            spread([each.away.quantile_ms(share) for each in stretches]),
            spread([each.normal.quantile_ms(share) for each in stretches]),
            spread([each.ratio(share) for each in stretches]),
        ]
    cells.append(spread([each.returning.quantile_ms(0.99) for each in stretches]))
    return tuple(cells)


def _calls_row(fault: Fault, stretches: list[Stretch]) -> tuple[str, ...]:
    """What an outage made waiting, how long that took to flow out, and the calls meanwhile."""
    outages = [each.outage for each in stretches]
    return (
        WHAT[fault],
        spread([each.outage_s for each in outages]),
        spread([each.waiting for each in outages]),
        spread([each.drained_s for each in outages]),
        spread([each.calls for each in outages]),
        spread([each.needed for each in outages]),
        spread([each.calls_per_needed for each in outages]),
    )


def _section(
    rows: list[tuple[str, ...]], calls: list[tuple[str, ...]], bounds: list[Bound], load: Load
) -> Section:
    latencies = Table(
        "What an append takes while Firestore is away",
        ("Firestore", "appends", "p50 ms", "normal", "ratio", "p99 ms", "normal", "ratio", "p99 ms, returning"),
        rows,
        (
            "Away begins with the fault, before the server knows of it. Normal: the stretches before and after.",
            "Returning: until all has arrived. The benchmark asks Firestore for that meanwhile, which costs it time.",
        ),
    )  # fmt: skip
    arriving = Table(
        "Calls to Firestore while it is away, and what waits",
        ("Firestore", "away s", "waiting at the end", "arrived after s", "calls", "needed", "calls a needed one"),
        calls,
        (
            "Needed: one a second for each user who speaks. Calls: all begun, probes and looks at the head too.",
            "Arrived: from the return until Firestore has all that was acknowledged by then, though users speak on.",
        ),
    )  # fmt: skip
    introduction = (
        f"`samvad serve` before Google's emulator, and a proxy between them that fails on purpose; {USERS} users "
        f"together send {MESSAGES_PER_S} messages a second, and read now and then. Stretches with and without a fault "
        f"take turns. All {load.acknowledged:,} messages that were acknowledged are in Firestore, none twice."
    )
    return Section("Firestore away", introduction, [latencies, arriving], bounds)
