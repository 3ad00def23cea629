"""The calls of a store counted and timed, and where traces are on told as spans, whichever engine it is."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final

from samvad import tracing
from samvad.errors import SamvadError
from samvad.meters import Histogram
from samvad.records import Commit, Committed
from samvad.stores.base import Store

Done = Callable[[Committed | SamvadError], None]

READS: Final = ("load", "page", "session", "sessions", "interruptions", "receipt", "stats", "users", "expire")
OK: Final = "ok"


# As OpenTelemetry names database systems; others by their own name.
_SYSTEMS: Final = {"firestore": "gcp.firestore"}


class StoreMeter:
    """Calls to a store by kind (`commit`, `load`, `page`…) and outcome (`ok`, or the code of an error)."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[str, Histogram] = {}
        self.commits = self.seconds["commit"] = Histogram()
        self.commits_ok = 0  # apart from the others: it is counted with each append

    def failed(self, kind: str, error: BaseException) -> None:
        """A call was refused, or failed."""
        code = error.code if isinstance(error, SamvadError) else "failed"
        self.outcomes[kind, "cancelled" if isinstance(error, asyncio.CancelledError) else code] += 1


def observe(store: Store, *, lean: bool = False) -> StoreMeter:
    """Have the calls of a store counted, by what is returned.

    The object stays what it is: others ask it for its client, its path, its name. A store whose attributes cannot be
    set (`__slots__`) goes uncounted. `lean`: each append is a commit, whose caller counts and times it (see
    `sessions.lane.Acknowledged`); where the store takes a callback it is not done again here.
    """
    meter, system = StoreMeter(), _SYSTEMS.get(store.name, store.name)
    with contextlib.suppress(AttributeError):
        for kind in READS:
            setattr(store, kind, _counted(kind, getattr(store, kind), meter, system))
        submit: Callable[[Commit, Done], None] | None = getattr(store, "submit", None)
        if submit is not None:  # its `commit` goes the same way
            spanned = _spanned_submit(submit, system)
            store.submit = spanned if lean else _counted_submit(spanned, meter)  # type: ignore[attr-defined]
        else:
            store.commit = _counted_commit(store.commit, meter, system)  # type: ignore[assignment,method-assign]
    return meter


def _told(kind: str, system: str) -> tuple[str, dict[str, Any]]:
    """The name and the attributes of a call's span (OpenTelemetry's conventions for databases)."""
    return f"{kind} {system}", {"db.system.name": system, "db.operation.name": kind}


def _counted(
    kind: str, call: Callable[..., Awaitable[Any]], meter: StoreMeter, system: str
) -> Callable[..., Any]:
    seconds = meter.seconds[kind] = Histogram()
    name, attributes = _told(kind, system)

    async def counted(*args: Any, **kwargs: Any) -> Any:
        began_s = perf_counter()
        try:
            if tracing.tracer is None:
                answer = await call(*args, **kwargs)
            else:
                with tracing.spanning(name, attributes, kind="CLIENT"):
                    answer = await call(*args, **kwargs)
        except BaseException as error:
            meter.failed(kind, error)
            raise
        finally:
            seconds.add(perf_counter() - began_s)
        meter.outcomes[kind, OK] += 1
        return answer

    return counted


def _spanned_submit(submit: Callable[[Commit, Done], None], system: str) -> Callable[[Commit, Done], None]:
    name, attributes = _told("commit", system)

    def spanned(commit: Commit, done: Done) -> None:
        if tracing.tracer is not None:
            more = {"db.operation.batch.size": max(commit.steps, 1)}
            done = tracing.timed(name, done, attributes | more, kind="CLIENT")
        submit(commit, done)

    return spanned


def _counted_submit(
    submit: Callable[[Commit, Done], None], meter: StoreMeter
) -> Callable[[Commit, Done], None]:
    seconds = meter.commits

    def counted(commit: Commit, done: Done) -> None:
        began_s = perf_counter()

        def settled(result: Committed | SamvadError) -> None:
            seconds.add(perf_counter() - began_s)
            if isinstance(result, Committed):
                meter.commits_ok += 1
            else:
                meter.failed("commit", result)
            done(result)

        submit(commit, settled)

    return counted


def _counted_commit(
    commit: Callable[[Commit], Awaitable[Committed]], meter: StoreMeter, system: str
) -> Callable[[Commit], asyncio.Future[Committed]]:
    name, attributes = _told("commit", system)

    def counted(wanted: Commit) -> asyncio.Future[Committed]:
        began_s = perf_counter()
        span: Any = None
        if tracing.tracer is not None:
            more = {"db.operation.batch.size": max(wanted.steps, 1)}
            span = tracing.begin(name, attributes | more, kind="CLIENT")
        answer = asyncio.ensure_future(commit(wanted))

        def settled(answered: asyncio.Future[Committed]) -> None:
            meter.commits.add(perf_counter() - began_s)
            error = asyncio.CancelledError() if answered.cancelled() else answered.exception()
            if span is not None:
                tracing.finish(span, error)
            if error is None:
                meter.commits_ok += 1
            else:
                meter.failed("commit", error)

        answer.add_done_callback(settled)
        return answer

    return counted
