"""The comparison: all engines in interleaved rounds, and the tables that show it."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import Options, Unavailable, one_core, progress
from benchmarks.peers.engine import ENGINES, FLOOR, OURS
from benchmarks.peers.process import EngineFailed, EngineProcess
from benchmarks.peers.workloads import SESSIONS_AT_ONCE
from benchmarks.report import Bound, Section, Table, number, ratio, spread

SIZES = (10, 100, 1_000, 10_000)
SIZES_QUICK = (10, 100, 1_000)
SIZE_BASE = {"append": 10, "load": 100}
"""The history that a longer one is compared with: a load of 100 has 100 to give from there on."""
OPERATIONS_MAX = 2_000
APPEND_RATIO_MIN = 10.0
GROWTH_RATIO_MAX = 1.10
CELLS = ("append 1", f"append {SESSIONS_AT_ONCE}", "load 1", f"load {SESSIONS_AT_ONCE}")

GROWTH_NOTES = (
    "One caller. Median of each round's operations, then of the rounds; the last ratio is that of each round.",
    "Sessions of 10 messages are measured while they grow to 20, longer ones while they grow by a fifth.",
    "A load of a session of 10 gives no more than it has.",
)

INTRODUCTION = (
    "One append = a user's and an assistant's message, acknowledged as saved; one load = the last 100 messages. "
    "Each library keeps all its sessions in one SQLite file, with the settings it ships with, in a process of its "
    "own on one core; one caller (1), and 50 callers each with a session of its own (50)."
)


@dataclass
class Results:
    """All that was found about one engine; a list holds one entry a round."""

    process: EngineProcess
    verified: dict[str, Any] = field(default_factory=dict)
    throughput: list[dict[str, Any]] = field(default_factory=list)
    growth: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    failure: str = ""

    def rates(self, cell: str) -> list[float]:
        """Operations a second in each round."""
        return [found[cell]["per_second"] for found in self.throughput]

    def rate(self, cell: str) -> float:
        """The median of the rounds; 0 when there is none."""
        return statistics.median(self.rates(cell)) if self.throughput else 0.0

    def costs(self, what: str, size: int) -> list[float]:
        """Milliseconds of one operation at a history of ``size`` messages, in each round."""
        return [found[f"{what}_ms"] for found in self.growth.get(size, [])]


def compare(options: Options) -> Section:
    """Run all rounds and write the section."""
    sizes = SIZES_QUICK if options.quick else SIZES
    missing: list[str] = []
    with one_core(), ExitStack() as stack:
        engines: dict[str, Results] = {}
        for name in ENGINES:
            try:
                engines[name] = Results(stack.enter_context(EngineProcess(name, options.directory)))
            except Unavailable as error:
                progress(f"!! SKIPPED engine {error}")
                missing.append(str(error))
        if not engines:
            raise Unavailable("none of the engines is installed")
        for results in engines.values():
            _verify(results)
        for round_number in range(options.rounds):
            _round(engines, options, round_number, sizes)
    tables = [
        _versions(engines),
        *_throughput(engines),
        *(_growth(engines, what, sizes) for what in ("append", "load")),
    ]
    failures = [results.failure for results in engines.values() if results.failure]
    notes = [
        *(f"**NOT RUN**: {text}" for text in missing),
        *(f"**GIVEN UP**: {text}" for text in failures),
        *(f"{name}: {results.process.note}" for name, results in engines.items() if results.process.note),
    ]
    return Section("The same work on other libraries", INTRODUCTION, tables, _bounds(engines, sizes), notes)


def _verify(results: Results) -> None:
    """Check that what an engine calls saved is in the file; an engine that loses it is still measured, and named."""
    name = results.process.name
    found = _ask(results, "verify")
    if found is not None:
        results.verified = found
        if not found["exact"]:
            progress(
                f"!! {name} DOES NOT KEEP what it says: {found['kept']} of {found['wanted']} after opening again"
            )


def _round(engines: dict[str, Results], options: Options, number: int, sizes: tuple[int, ...]) -> None:
    """Give each engine its turn at each workload; every other round takes the sizes from the largest down."""
    for name, results in engines.items():
        progress(f"   round {number + 1}/{options.rounds}: {name}: throughput")
        found = _ask(results, "throughput", seconds=options.cell_s)
        if found is not None:
            results.throughput.append(found)
    for size in sizes if number % 2 == 0 else sizes[::-1]:
        for name, results in engines.items():
            progress(f"   round {number + 1}/{options.rounds}: {name}: {size:,} messages of history")
            found = _ask(results, "growth", size=size, budget_s=options.cell_s, operations_max=OPERATIONS_MAX)
            if found is not None:
                results.growth.setdefault(size, []).append(found)


def _ask(results: Results, workload: str, **arguments: Any) -> dict[str, Any] | None:
    """Run a workload unless the engine was given up; ``None`` when there is no answer."""
    if results.failure:
        return None
    try:
        return results.process.ask(workload, **arguments)
    except EngineFailed as error:
        progress(f"!! GIVEN UP {error}")
        results.failure = str(error)
        return None


def _versions(engines: dict[str, Results]) -> Table:
    rows = []
    for name, results in engines.items():
        found = results.verified
        kept = (
            "–" if not found else "yes" if found["exact"] else f"**no: {found['kept']} of {found['wanted']}**"
        )
        version = f"{results.process.version}".strip() or "this repository"
        rows.append((name, version, found.get("durability", "–"), kept))
    columns = ("engine", "version", "how it commits (journal, synchronous)", "all there after opening again")
    notes = ("All of these fsync each commit, except where it says OFF or NORMAL.",)
    return Table("Engines, as they ship", columns, rows, notes)


def _throughput(engines: dict[str, Results]) -> list[Table]:
    rate_rows = []
    latency_rows = []
    for name, results in engines.items():
        if not results.throughput:
            continue
        rate_rows.append((name, *(spread(results.rates(cell)) for cell in CELLS)))
        p50 = (spread([found[cell]["p50_ms"] for found in results.throughput]) for cell in CELLS)
        p99 = number(statistics.median(found[CELLS[1]]["p99_ms"] for found in results.throughput))
        latency_rows.append((name, *p50, p99, _errors(results)))
    if OURS in engines:
        best = {cell: _best_peer(engines, cell) for cell in CELLS}
        rate_rows.append(
            (
                "**samvad / best peer**",
                *(
                    f"**{ratio(engines[OURS].rate(cell), rate)}** ({name})"
                    for cell, (name, rate) in best.items()
                ),
            )
        )
    latency_columns = ("engine", *(f"{cell}: p50 ms" for cell in CELLS), f"{CELLS[1]}: p99 ms", "errors")
    return [
        Table("Operations a second", ("engine", *CELLS), rate_rows),
        Table("Waiting for the answer", latency_columns, latency_rows),
    ]


def _errors(results: Results) -> str:
    counts: dict[str, int] = {}
    for found in results.throughput:
        for cell in CELLS:
            for text, count in found[cell]["errors"].items():
                counts[text] = counts.get(text, 0) + count
    return "; ".join(f"{count} × {text}" for text, count in sorted(counts.items())) or "none"


def _best_peer(engines: dict[str, Results], cell: str) -> tuple[str, float]:
    peers = {name: results.rate(cell) for name, results in engines.items() if name not in (OURS, FLOOR)}
    name = max(peers, key=lambda peer: peers[peer], default="none")
    return name, peers.get(name, 0.0)


def _growth(engines: dict[str, Results], what: str, sizes: tuple[int, ...]) -> Table:
    rows = []
    for name, results in engines.items():
        if not results.growth:
            continue
        cells = [spread(results.costs(what, size)) for size in sizes]
        largest = results.growth.get(sizes[-1], [])
        mebibytes = [found["disk_bytes"] / 2**20 for found in largest]
        grown = _growth_ratio(results, what, sizes)
        extra = (spread(mebibytes), f"{largest[-1]['appends']:,}") if what == "append" and largest else ()
        rows.append((name, *cells, f"{grown:.2f}×" if grown else "–", *extra))
    columns = ["engine", *(f"{size:,}" for size in sizes), f"{sizes[-1]:,} / {SIZE_BASE[what]:,}"]
    if what == "append":
        columns += [f"MiB on disk after {sizes[-1]:,}", "… and this many appends"]
    title = f"Milliseconds of one {what}, by messages of history"
    return Table(title, columns, rows, GROWTH_NOTES)


def _growth_ratio(results: Results, what: str, sizes: tuple[int, ...]) -> float:
    """The cost at the longest history as a multiple of that at the base: median of the rounds, 0 for none."""
    ratios = [
        most / least
        for least, most in zip(
            results.costs(what, SIZE_BASE[what]), results.costs(what, sizes[-1]), strict=False
        )
        if least
    ]
    return statistics.median(ratios) if ratios else 0.0


def _bounds(engines: dict[str, Results], sizes: tuple[int, ...]) -> list[Bound]:
    cell = CELLS[1]
    ours = engines.get(OURS)
    fastest, best = _best_peer(engines, cell)
    multiple = ours.rate(cell) / best if ours is not None and best else 0.0
    grown = _growth_ratio(ours, "append", sizes) if ours is not None else 0.0
    return [
        Bound(
            f"durable appends of {SESSIONS_AT_ONCE} sessions at once, samvad / best peer ({fastest})",
            f"≥ {APPEND_RATIO_MIN:.0f}×",
            f"{number(multiple)}×" if multiple else "not run",
            multiple >= APPEND_RATIO_MIN,
        ),
        Bound(
            f"append at {sizes[-1]:,} messages of history / at {SIZE_BASE['append']:,}",
            f"≤ {GROWTH_RATIO_MAX:.2f}×",
            f"{grown:.2f}×" if grown else "not run",
            0.0 < grown <= GROWTH_RATIO_MAX,
        ),
    ]
