"""The knowledge base: what it finds and answers, how fast, and whether searching delays what is said meanwhile."""

from __future__ import annotations

from benchmarks import knowledge_quality, knowledge_scale
from benchmarks.measure import Options, Spread, progress
from benchmarks.report import Bound, Section, Table, number, ratio, spread

PASSAGES, PASSAGES_QUICK = 100_000, 10_000
QUERIES, QUERIES_QUICK = 1_000, 200
PLAIN_QUERIES = 200  # they take long
QUERY_MS_MAX = 20.0
PASSAGES_PER_S_MIN = 2_000
RATIO_MAX = 1.3
APPEND_S = 5.0


def run(options: Options) -> Section:
    """Quality, scale, appends."""
    progress("knowledge: XQuAD")
    tables, bounds, notes = knowledge_quality.xquad()
    progress("knowledge: short and romanised queries")
    for parts, more in zip((tables, bounds, notes), knowledge_quality.short_and_romanised(), strict=True):
        parts += more  # type: ignore[arg-type]
    scale_table, scale_bounds = _scale(options)
    append_table, append_bound = _appends(options)
    introduction = "Lexical search, without embeddings. Queries and passages a second are by processor time."
    return Section(
        "Knowledge base",
        introduction,
        [*tables, scale_table, append_table],
        [*bounds, *scale_bounds, append_bound],
        notes,
    )


def _scale(options: Options) -> tuple[Table, list[Bound]]:
    passages = PASSAGES_QUICK if options.quick else PASSAGES
    found = {}
    for side, queries in (("samvad", QUERIES_QUICK if options.quick else QUERIES), ("plain", PLAIN_QUERIES)):
        progress(f"knowledge: {passages:,} passages, {side}")
        directory = options.directory / f"knowledge-{side}"
        directory.mkdir()
        found[side] = knowledge_scale.measured(side, directory, passages, queries)
    ours, plain = found["samvad"], found["plain"]
    rows = [
        (what, number(one), number(other), ratio(one, other))
        for what, one, other in (
            ("passages a second", ours.passages_per_s, plain.passages_per_s),
            ("query, p50 ms", ours.p50_ms, plain.p50_ms),
            ("query, p99 ms", ours.p99_ms, plain.p99_ms),
            ("memory when filled, MiB", ours.filled_mib, plain.filled_mib),
            ("memory at most, MiB", ours.peak_mib, plain.peak_mib),
            ("file, MiB", ours.file_mib, plain.file_mib),
        )
    ]
    note = (
        f"{passages:,} passages of 800 to 1,200 characters, half English and half Hindi, of sentences from XQuAD and "
        "from dialogues, in documents of 20; XQuAD's questions. FTS5 as it comes is given the passages as they are, "
        "and reads every passage that holds any word of the question."
    )
    table = Table("Many passages", ("what", "samvad", "FTS5 as it comes", "ratio"), rows, (note,))
    bounds = [
        Bound(
            f"query over {passages:,} passages, p99",
            f"< {QUERY_MS_MAX:g} ms",
            f"{number(ours.p99_ms)} ms",
            ours.p99_ms < QUERY_MS_MAX,
        ),
        Bound(
            "passages indexed a second",
            f">= {PASSAGES_PER_S_MIN:,}",
            number(ours.passages_per_s),
            ours.passages_per_s >= PASSAGES_PER_S_MIN,
        ),
    ]
    return table, bounds


def _appends(options: Options) -> tuple[Table, Bound]:
    directory = options.directory / "knowledge-appends"
    directory.mkdir()
    rounds = knowledge_scale.appends_while_searching(
        directory, max(3, options.rounds), 1.0 if options.quick else APPEND_S
    )
    alone = [one.quantile_ms(0.99) for one, _, _ in rounds]
    beside = [other.quantile_ms(0.99) for _, other, _ in rounds]
    ratios = [other / one for one, other in zip(alone, beside, strict=True)]
    searches = [count / other.elapsed_s for _, other, count in rounds]
    rows = [
        ("alone", spread(alone), spread([one.per_second for one, _, _ in rounds]), "0"),
        (
            "while searching",
            spread(beside),
            spread([other.per_second for _, other, _ in rounds]),
            spread(searches),
        ),
    ]
    note = (
        f"{knowledge_scale.APPENDERS} callers append, {knowledge_scale.SEARCHERS} search without a pause, in one "
        f"process and the engine's. The ratio of the p99 is that of each round, then the median: {spread(ratios)}."
    )
    table = Table(
        "Appends while searching", ("what", "append p99 ms", "appends/s", "searches/s"), rows, (note,)
    )
    middle = Spread.of(ratios).median
    return table, Bound(
        "append p99 while searching / alone", f"< {RATIO_MAX}", number(middle), middle < RATIO_MAX
    )
