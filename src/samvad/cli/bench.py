"""`samvad bench`: how fast the real service is on this machine and this disk, in a few seconds."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import typer

from samvad.cli import disk, flags
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import settings_of
from samvad.cli.output import table
from samvad.records import UserKey

_SECONDS: Final = 2.0  # for each measurement
_CALLERS: Final = 50
_HISTORY: Final = 100
_USERS: Final = 200
_CONTENT: Final = "What documents do I need for a home loan, and how long does it take until it is approved?"

app = verbs()


class _Rate(NamedTuple):
    per_s: float
    ms: float  # the median of one call


@app.command(cls=PlainCommand)
def bench(data_dir: flags.DataDir = None) -> None:
    """Measure appends and loads on the disk of the data directory, in a directory that is removed again.

    The service is the real one, with durable writes, without HTTP. It takes about ten seconds.
    """
    directory = disk.existing(settings_of(None, data_dir).data_path())
    with tempfile.TemporaryDirectory(prefix=".samvad-bench-", dir=directory) as scratch:
        sync_ms = disk.sync_ms(Path(scratch))
        one, many, cold, warm = asyncio.run(_measure(Path(scratch) / "bench.db"))
    typer.echo(
        table(
            [
                ("", "per second", "median", ""),
                (
                    "fsync",
                    f"{1000 / sync_ms:10,.0f}",
                    f"{sync_ms:7.3f} ms",
                    "what this disk takes to keep a write",
                ),
                _row("append, 1 caller", one, "one conversation: each message waits for its own sync"),
                _row(f"append, {_CALLERS} callers", many, "many conversations: those who wait share a sync"),
                _row(f"load of {_HISTORY} messages", cold, "a user who comes back, read from the database"),
                _row("profile in memory", warm, "a user who is here"),
            ]
        )
    )
    shared = many.per_s / one.per_s
    typer.echo(
        f"\n{_CALLERS} callers at once get {shared:.0f} times what one gets, because those who wait share a sync."
        f"\nOne message takes {one.ms / sync_ms:.1f} syncs of this disk. Every append was on the disk when it counted."
    )
    kind = disk.file_system(directory)
    if kind == "tmpfs":
        typer.echo("This directory is in memory (tmpfs): a disk is slower. Name one with --data-dir.")


def _row(name: str, rate: _Rate, text: str) -> tuple[str, str, str, str]:
    return name, f"{rate.per_s:10,.0f}", f"{rate.ms:7.3f} ms", text


async def _measure(path: Path) -> tuple[_Rate, _Rate, _Rate, _Rate]:
    from samvad.runtime import open_samvad

    url = f"sqlite:///{path}"
    async with open_samvad(url) as samvad:

        def append(user: str) -> Callable[[int], Awaitable[Any]]:
            return lambda number: samvad.append_to_user_history(user, "user", _CONTENT)

        one = await _rate([append("one")])
        many = await _rate([append(f"many-{number}") for number in range(_CALLERS)])
        messages = [{"role": "user", "content": _CONTENT}] * _HISTORY
        await asyncio.gather(*(samvad.append_many(f"user-{number}", messages) for number in range(_USERS)))
        warm = await _rate([lambda number: samvad.get_user_profile(f"user-{number % _USERS}")])
    async with open_samvad(url) as samvad:

        async def load(number: int) -> None:
            user = f"user-{number % _USERS}"
            samvad.cache.discard(UserKey(samvad.principal.tenant, user))
            await samvad.read_user(user)

        cold = await _rate([load])
    return one, many, cold, warm


async def _rate(calls: list[Callable[[int], Awaitable[Any]]]) -> _Rate:
    """How often these can be called in a second, all at once, each one after its last answer."""
    times: list[float] = []
    until = time.perf_counter() + _SECONDS

    async def repeat(call: Callable[[int], Awaitable[Any]]) -> None:
        number = 0
        while (started := time.perf_counter()) < until:
            await call(number)
            times.append(time.perf_counter() - started)
            number += 1

    started = time.perf_counter()
    await asyncio.gather(*(repeat(call) for call in calls))
    return _Rate(len(times) / (time.perf_counter() - started), statistics.median(times) * 1000)
