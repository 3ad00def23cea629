"""``python -m benchmarks [names…]``: run benchmarks, print the report, write it to a file."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

from benchmarks import NAMES, readme
from benchmarks.measure import REPOSITORY, ROUNDS_DEFAULT, Options, Unavailable, progress, texts_source
from benchmarks.readme import RESULTS
from benchmarks.report import Report, Section, describe_machine, file_system

OUTPUT_HELP = f"report file (default: benchmarks/{RESULTS.name} for a whole run, none for a part of it)"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; give the exit code (1: a bound was missed and ``--check`` was given)."""
    chosen = _parse(arguments)
    rounds = chosen.rounds or (1 if chosen.quick else ROUNDS_DEFAULT)
    output = chosen.output or (None if chosen.quick or chosen.names else RESULTS)
    with tempfile.TemporaryDirectory(prefix="samvad-bench-", dir=_disk(chosen.directory)) as scratch:
        options = Options(Path(scratch), rounds=rounds, quick=chosen.quick, named=bool(chosen.names))
        report = Report(
            describe_machine(options.directory, rounds=rounds, quick=options.quick, texts=texts_source())
        )
        for name in NAMES:
            if name in (chosen.names or NAMES):
                _run_one(name, options, report)
                if output is not None:
                    output.write_text(report.markdown(), encoding="utf-8")
    print(report.markdown())
    if output is not None:
        progress(f"written: {output.name}")
    if output == RESULTS and not chosen.names:
        readme.write()
        progress("written: the figures in README.md")
    for bound in report.bounds_missed:
        progress(f"BOUND MISSED: {bound.name}: wanted {bound.wanted}, measured {bound.measured}")
    return 1 if chosen.check and (report.bounds_missed or report.not_run) else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Samvad and its peers.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(NAMES)} (default: all)"
    )
    parser.add_argument(
        "--rounds", type=int, help=f"interleaved rounds (default {ROUNDS_DEFAULT}; 1 with --quick)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="short cells, one round: orders of magnitude only"
    )
    parser.add_argument(
        "--check", action="store_true", help="exit 1 when a bound is missed or a benchmark did not run"
    )
    parser.add_argument("--output", type=Path, help=OUTPUT_HELP)
    parser.add_argument(
        "--directory", type=Path, help="where the databases are written (default: a real disk)"
    )
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return chosen


def _disk(wanted: Path | None) -> Path:
    """Choose where to write: the system's temporary directory, unless that is memory, where fsync does nothing."""
    if wanted is not None:
        return wanted
    usual = Path(tempfile.gettempdir())
    return REPOSITORY if file_system(usual) in ("tmpfs", "ramfs") else usual


def _run_one(name: str, options: Options, report: Report) -> None:
    """Run one benchmark and add what it found, or why it could not run, to the report."""
    began = time.monotonic()
    progress(f"== {name}")
    try:
        if importlib.util.find_spec(f"benchmarks.{name}") is None:
            raise Unavailable(f"there is no module benchmarks.{name}")
        module = importlib.import_module(f"benchmarks.{name}")
        report.sections.append(cast(Section, module.run(options)))
    except (Unavailable, ImportError) as error:
        progress(f"!! SKIPPED {name}: {error}")
        report.not_run.append((name, str(error)))
    else:
        progress(f"== {name} done in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
