"""The report: the machine, then a section a benchmark, as Markdown tables.

Cells are text when they get here; :func:`number` and :func:`spread` make them.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Spread

PACKAGES = (
    "samvad-sessions",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "msgspec",
    "apsw",
    "openai-agents",
    "google-adk",
    "langgraph",
    "langgraph-checkpoint-sqlite",
    "aiosqlite",
    "sqlalchemy",
)
FSYNC_PROBES = 100
BUSY_LOAD = 0.5
"""A load average above this means that others use the core that engines are pinned to, and it shows: 4 ms steps."""


@dataclass(frozen=True)
class Table:
    """One table. The first column names the row and is set left, the others hold figures and are set right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Bound:
    """One figure that must hold, as a ratio or an absolute, and whether it did."""

    name: str
    wanted: str
    measured: str
    met: bool


@dataclass(frozen=True)
class Section:
    """What one benchmark found."""

    title: str
    introduction: str
    tables: Sequence[Table]
    bounds: Sequence[Bound] = ()
    notes: Sequence[str] = ()


@dataclass
class Report:
    """The whole of a run."""

    machine: Table
    sections: list[Section] = field(default_factory=list)
    not_run: list[tuple[str, str]] = field(default_factory=list)

    @property
    def bounds_missed(self) -> list[Bound]:
        """The bounds that did not hold, in the order of the report."""
        return [bound for section in self.sections for bound in section.bounds if not bound.met]

    def markdown(self) -> str:
        """Write the report."""
        parts = ["# Benchmarks", "", *_table(self.machine)]
        bounds = [bound for section in self.sections for bound in section.bounds]
        if bounds:
            rows = [(b.name, b.wanted, b.measured, "yes" if b.met else "**no**") for b in bounds]
            parts += _table(Table("Bounds", ("what", "wanted", "measured", "met"), rows))
        if self.not_run:
            parts += ["## Not run", "", *(f"- `{name}`: {reason}" for name, reason in self.not_run), ""]
        for section in self.sections:
            parts += [f"## {section.title}", "", section.introduction, ""]
            for table in section.tables:
                parts += _table(table, level=3)
            parts += [*(f"- {note}" for note in section.notes), *([""] if section.notes else [])]
        return "\n".join(parts).rstrip() + "\n"


def _table(table: Table, level: int = 2) -> list[str]:
    lines = [f"{'#' * level} {table.title}", ""]
    lines.append("| " + " | ".join(table.columns) + " |")
    lines.append("|---" + "|---:" * (len(table.columns) - 1) + "|")
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
    lines.append("")
    lines += [f"- {note}" for note in table.notes]
    return [*lines, ""] if table.notes else lines


def number(value: float) -> str:
    """Write a figure with three digits that mean something, thousands separated: 1,620; 41.3; 0.287."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return (
            f"{value:,.0f}" if abs(value) < 1000 else f"{round(value, -(len(str(int(abs(value)))) - 3)):,.0f}"
        )
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def spread(values: Sequence[float]) -> str:
    """Write the median of the rounds and, where there were several, the lowest and highest of them."""
    if not values:
        return "–"
    found = Spread.of(values)
    if len(values) == 1:
        return number(found.median)
    return f"{number(found.median)} ({number(found.low)}–{number(found.high)})"


def ratio(value: float, base: float) -> str:
    """Write ``value`` as a multiple of ``base``."""
    return f"{number(value / base)}×" if base else "–"


def describe_machine(directory: Path, *, rounds: int, quick: bool, texts: str) -> Table:
    """Say what was measured on: processor, disk, versions. No name and no path of the machine."""
    rows = [
        ("date", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        (
            "each engine runs on",
            "one core" if hasattr(os, "sched_setaffinity") else "all cores (cannot be pinned here)",
        ),
        ("memory", _memory()),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("disk", f"{file_system(directory)}, 4 KiB append and fsync {_fsync_ms(directory):.2f} ms (median)"),
        ("load at start", _load()),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("SQLite", f"standard library {sqlite3.sqlite_version}, apsw {_apsw_sqlite()}"),
        *((name, _version(name)) for name in PACKAGES),
        ("texts", texts),
        ("rounds", f"{rounds}, interleaved{', quick: read the orders of magnitude only' if quick else ''}"),
    ]
    note = (
        "Figures are medians of the rounds (lowest–highest). "
        "Ratios carry over to other machines, absolute figures do not."
    )
    return Table("Machine", ("what", "value"), rows, (note,))


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _load() -> str:
    loads = os.getloadavg()
    warning = "; **the machine was busy: do not trust these figures**" if loads[0] > BUSY_LOAD else ""
    return " ".join(f"{load:.2f}" for load in loads) + warning


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (ValueError, OSError):
        return "unknown"


def file_system(directory: Path) -> str:
    """Name the type of the file system that ``directory`` lies on (``ext4``, ``tmpfs`` …), or ``unknown``."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return kind
    for line in mounts:
        _, point, type_name, *_ = line.split()
        if directory.resolve().is_relative_to(point) and len(point) >= len(best):
            best, kind = point, type_name
    return kind


def _fsync_ms(directory: Path) -> float:
    path = directory / "fsync-probe"
    took: list[float] = []
    with path.open("wb", buffering=0) as file:
        for _ in range(FSYNC_PROBES):
            file.write(b"\0" * 4096)
            begin = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - begin)
    path.unlink()
    return statistics.median(took) * 1000


def _apsw_sqlite() -> str:
    try:
        import apsw
    except ImportError:
        return "not installed"
    return apsw.sqlite_lib_version()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
