"""What an interruption costs while someone is speaking: push and peek of ``InterruptionContextManager``.

Both are synchronous and touch no I/O, so they are timed in a plain loop.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Options, Spread, Unavailable, load_pairs, one_core
from benchmarks.report import Bound, Section, Table, number, spread

SESSIONS = 1_000
OPERATIONS = 50_000
OPERATIONS_QUICK = 10_000
NS_MAX = 20_000

INTRODUCTION = (
    f"{SESSIONS:,} sessions in turn, each with its stack of three full after the first pushes; assistant texts as "
    "dialogues have them, heard to the half."
)


def run(options: Options) -> Section:
    """Time pushes and peeks, in each round on a new manager."""
    try:
        from samvad.interruptions import InterruptionContextManager
    except ImportError as error:
        raise Unavailable(f"samvad.interruptions: {error}") from error
    operations = OPERATIONS_QUICK if options.quick else OPERATIONS
    texts = [(answer, answer[: len(answer) // 2]) for _, answer in load_pairs()]
    means: dict[str, list[float]] = {"push": [], "peek": []}
    slow: dict[str, list[float]] = {"push": [], "peek": []}
    with one_core():
        for _ in range(options.rounds):
            manager: Any = InterruptionContextManager()
            said = itertools.cycle(texts)

            def push(session_id: str, manager: Any = manager, said: Any = said) -> None:
                full_text, heard_text = next(said)
                manager.push(session_id, "user", type="BARGE_IN", full_text=full_text, heard_text=heard_text)

            def peek(session_id: str, manager: Any = manager) -> None:
                manager.peek(session_id)

            for name, operation in (("push", push), ("peek", peek)):
                mean_ns, p99_ns = _time(operation, operations)
                means[name].append(mean_ns)
                slow[name].append(p99_ns)
    rows = [(name, spread(means[name]), spread(slow[name])) for name in means]
    bounds = [
        Bound(f"interruption {name}", f"< {NS_MAX:,} ns", f"{number(middle)} ns", middle < NS_MAX)
        for name in means
        for middle in (Spread.of(means[name]).median,)
    ]
    table = Table("Nanoseconds of one operation", ("what", "mean", "p99"), rows)
    return Section("Interruptions", INTRODUCTION, [table], bounds)


def _time(operation: Callable[[str], None], count: int) -> tuple[float, float]:
    """Give the mean and the 99th percentile of one call, in nanoseconds.

    The mean is of a loop with no clock in it; the percentile includes reading the clock, some 50 ns.
    """
    session_ids = [f"session-{number % SESSIONS}" for number in range(count)]
    gc.collect()
    began = time.perf_counter_ns()
    for session_id in session_ids:
        operation(session_id)
    mean_ns = (time.perf_counter_ns() - began) / count
    took = []
    for session_id in session_ids:
        began = time.perf_counter_ns()
        operation(session_id)
        took.append(time.perf_counter_ns() - began)
    took.sort()
    return mean_ns, float(took[int(0.99 * count)])
