"""README claims what was measured: its figures are those of the last whole run of the benchmarks."""

from __future__ import annotations

from benchmarks import readme


def test_the_figures_in_readme_are_those_of_the_last_run() -> None:
    """`make bench` writes both; whoever changes one by hand is told."""
    block = readme.BLOCK.search(readme.README.read_text(encoding="utf-8"))
    assert block is not None
    assert block[0] == readme.figures(readme.RESULTS.read_text(encoding="utf-8"))
