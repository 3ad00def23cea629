"""Samvad beside the session stores of other libraries: the same appends and loads, on SQLite files.

:func:`run` is the benchmark; :mod:`benchmarks.peers.engine` says what an engine is, each other module is one.
"""

from __future__ import annotations

from benchmarks.measure import Options
from benchmarks.report import Section


def run(options: Options) -> Section:
    """Compare all engines that are installed."""
    from benchmarks.peers.compare import compare

    return compare(options)
