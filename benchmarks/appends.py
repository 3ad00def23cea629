"""Durable appends through the service against plain group commit on SQLite: what our rules cost.

Both encode a message as JSON and wait for the fsync of its group; the plain one knows nothing else.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any

from benchmarks.measure import Options, Unavailable, one_core, progress
from benchmarks.peers.engine import FLOOR, OURS
from benchmarks.peers.process import EngineFailed, EngineProcess
from benchmarks.report import Section, Table, number, spread

CALLERS = (1, 10, 50, 100)

INTRODUCTION = (
    "One append = one message of a user, acknowledged when it is fsynced. Each caller has a user of its own and waits "
    "for its answer. Plain: a queue, a writer thread, a transaction a group; no users, no rules, no cache."
)


def run(options: Options) -> Section:
    """Measure both at each number of callers, in turn, round after round."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    try:
        with one_core(), ExitStack() as stack:
            engines = [stack.enter_context(EngineProcess(name, options.directory)) for name in (OURS, FLOOR)]
            for number_of_round in range(options.rounds):
                progress(f"   round {number_of_round + 1}/{options.rounds}")
                for callers in CALLERS:
                    for engine in engines:
                        sample = engine.ask("appends", callers=callers, seconds=options.cell_s)
                        found.setdefault((engine.name, callers), []).append(sample)
    except EngineFailed as error:
        raise Unavailable(str(error)) from error
    return Section("Durable appends against plain group commit", INTRODUCTION, [_table(found)])


def _table(found: dict[tuple[str, int], list[dict[str, Any]]]) -> Table:
    rows = []
    for callers in CALLERS:
        ours, plain = found[OURS, callers], found[FLOOR, callers]
        ratios = [
            a["per_second"] / b["per_second"] for a, b in zip(ours, plain, strict=True) if b["per_second"]
        ]
        rows.append(
            (
                f"{callers}",
                spread([sample["per_second"] for sample in ours]),
                spread([sample["per_second"] for sample in plain]),
                spread(ratios),
                _latency(ours),
                _latency(plain),
                f"{sum(sum(sample['errors'].values()) for sample in (*ours, *plain))}",
            )
        )
    columns = (
        "callers", "samvad, messages/s", "plain, messages/s", "samvad / plain",
        "samvad p50 / p99 ms", "plain p50 / p99 ms", "errors",
    )  # fmt: skip
    return Table("Messages a second", columns, rows, ("The ratio is that of each round, then the median.",))


def _latency(samples: list[dict[str, Any]]) -> str:
    return " / ".join(
        number(statistics.median(sample[key] for sample in samples)) for key in ("p50_ms", "p99_ms")
    )
