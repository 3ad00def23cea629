"""The table of figures in README, made of ``benchmarks/RESULTS.md``: what README claims is what was measured last.

``python -m benchmarks.readme`` writes it; a whole run of the benchmarks does so at its end.
"""

from __future__ import annotations

import re

from benchmarks.measure import REPOSITORY

README = REPOSITORY / "README.md"
RESULTS = REPOSITORY / "benchmarks" / "RESULTS.md"
BLOCK = re.compile(r"(?<=<!-- figures -->\n\n).*?(?=\n\n<!-- /figures -->)", re.DOTALL)

_HTTP = {
    "GET state": "`GET` state, requests a second",
    "GET profile, 100 messages": "`GET` profile with 100 messages",
    "POST history (ours: on the disk)": "`POST` history, fsynced before the answer",
}
_APPENDS = (
    "durable appends a second through the library, 50 sessions at once (a user's and an assistant's message)"
)


def cells(results: str, title: str) -> dict[str, list[str]]:
    """The rows of the table under a heading, by what is in their first column, without the spread."""
    _, found, after = results.partition(f"\n### {title}\n\n")
    if not found:
        raise LookupError(f"there is no table {title!r} in {RESULTS.name}")
    rows = after.split("\n\n", 1)[0].splitlines()[2:]
    split = [[cell.strip().strip("*") for cell in row.strip("|").split("|")] for row in rows]
    return {first: [cell.split(" (")[0].strip("*×") for cell in rest] for first, *rest in split}


def figures(results: str) -> str:
    """The table for README."""
    rows: list[tuple[str, str, str]] = []
    http = cells(results, "Requests a second")
    for name, what in _HTTP.items():
        ours, bare, ratio = http[name][:3]
        rows.append((what, f"{ours} (bare Starlette + msgspec, in memory: {bare}; ratio {ratio})", "http"))
    rates = cells(results, "Operations a second")
    best = re.search(r"\*\*samvad / best peer\*\*(?:[^|]*\|){2}[^|]*\(([^)]+)\)", results)
    assert best is not None, "a whole run names the best peer"
    library, _, class_name = best[1].rpartition(" ")
    multiple = float(rates["samvad / best peer"][1])
    rows.append((_APPENDS, rates["samvad"][1], "peers"))
    rows.append(
        (
            f"the best other library, the same work ({library} `{class_name}`; ours is {multiple:.1f} times that)",
            rates[best[1]][1],
            "peers",
        )
    )
    growth = cells(results, "Milliseconds of one append, by messages of history")["samvad"][4]
    rows.append(
        ("one append with 10,000 messages of history, against one with 10", f"{growth} times", "peers")
    )
    footprint = cells(results, "Start-up and memory")
    start_s = float(footprint["start to first answer, s"][0])
    memory = float(footprint["memory of an idle server, MiB"][0])
    what = "start-up to the first answer; memory of an idle server"
    rows.append((what, f"{start_s:.2f} s; {memory:.0f} MiB", "footprint"))
    lines = [f"| {what} | {measured} | `make bench ARGS={name}` |" for what, measured, name in rows]
    return "\n".join(
        (
            "| what (medians of three rounds, two cores, server on one) | measured | command |",
            "|---|---|---|",
            *lines,
        )
    )


def write() -> None:
    """Put the figures of the last whole run into README."""
    table = figures(RESULTS.read_text(encoding="utf-8"))
    readme = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda _: table, readme), encoding="utf-8")


if __name__ == "__main__":
    write()
