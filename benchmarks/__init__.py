"""Speed and cost of Samvad, side by side with its peers and with the floor it stands on.

``python -m benchmarks [names…]`` runs the benchmarks named in :data:`NAMES` (all of them by default) and
writes one Markdown report. A benchmark is a module or package ``benchmarks.<name>`` with one function::

    def run(options: measure.Options) -> report.Section: ...

It prints its progress through :func:`benchmarks.measure.progress` (standard error) and returns its tables;
everything else (the machine's table, the file, the bounds) is done here. A benchmark that cannot run
raises :class:`benchmarks.measure.Unavailable` with one line that says why; it is then reported as not run.
"""

from __future__ import annotations

NAMES = (
    "http",
    "locks",
    "neighbours",
    "erasing",
    "erasing_firestore",
    "appends",
    "peers",
    "firestore",
    "outage",
    "footprint",
    "interruptions",
    "live",
    "knowledge",
)
"""Every benchmark, in the order in which they run."""
