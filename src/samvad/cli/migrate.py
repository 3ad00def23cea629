"""`samvad migrate`: everything from one store to another, proven user by user, begun again wherever it was cut off."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, Final

import typer

from samvad.auth.audit import noted_by_command
from samvad.cli import flags
from samvad.cli.carry.kinds import KINDS, erasures_in, read_erasures
from samvad.cli.carry.lines import EndLine, UserLine
from samvad.cli.carry.opening import at_most, opened, same_place
from samvad.cli.carry.reading import keys_of, user_lines
from samvad.cli.carry.sealed import carry_keys
from samvad.cli.carry.sealing import sealing
from samvad.cli.carry.totals import DIFFERENCES_SHOWN, Totals
from samvad.cli.carry.writing import UserTaker, erase_again
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import settings_of
from samvad.cli.output import progress
from samvad.clock import SystemClock
from samvad.errors import SamvadError, SetupError
from samvad.records import UserKey
from samvad.stores.encrypting import has_keys, is_strict, keys_are_gone, looks_sealed

USERS_AT_ONCE: Final = 16

app = verbs()


@app.command(cls=PlainCommand)
def migrate(
    source: Annotated[str, typer.Argument(metavar="FROM", help="URL of the store to read.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="URL of the store to write.")],
    new_keys: Annotated[
        bool,
        typer.Option(
            "--new-keys", help="Open what FROM holds sealed, and seal it anew under keys of TO's own."
        ),
    ] = False,
    data_dir: flags.DataDir = None,
) -> None:
    """Carry everything from one store to another: users, answers kept under keys, and what is left of erased users.

    Stopped at any moment and run again, it goes on; what is there already is compared, and never overwritten. Each
    user that was written is read back and must have the same checksum. No server may be using either store.
    With a master key in SAMVAD_MASTER_KEY, what FROM holds in clear is sealed on the way.
    Exits with 1 if a user is there already and differs.
    """
    settings = settings_of(None, data_dir)
    if same_place(source, target):
        raise SetupError("FROM and TO are the same store.")
    totals = Totals()

    async def run() -> None:
        async with opened(source, settings, existing=True) as old, opened(target, settings) as new:
            await carry(old, new, totals, new_keys=new_keys)

    try:
        asyncio.run(run())
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None
    if new_keys:
        noted_by_command(settings.data_path(), SystemClock(), "migrate --new-keys")
    raise typer.Exit(tell(totals))


def first_of(errors: BaseExceptionGroup) -> BaseException:
    """The first error of a group of tasks."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def tell(totals: Totals) -> int:
    """Print what was done; returns the exit code."""
    for difference in totals.differences[:DIFFERENCES_SHOWN]:
        print(f"samvad: left alone: {difference}", file=sys.stderr)
    if (more := len(totals.differences) - DIFFERENCES_SHOWN) > 0:
        print(f"samvad: and {more:,} more", file=sys.stderr)
    for line in totals.lines():
        typer.echo(line)
    return 1 if totals.differs else 0


async def carry(source: Any, target: Any, totals: Totals, *, new_keys: bool = False) -> None:
    """Everything of `source` into `target`, both open; SamvadError where it cannot be, and then it can be repeated.

    With `new_keys`, what is sealed is opened, and sealed anew under keys of the target's own.
    """
    if new_keys:
        from samvad.cli.carry.opening_sealed import opening

        async with opening(source, target) as plain, sealing("FROM", target) as sealed:
            totals.sealed = True
            await _carry(plain, sealed, totals, with_keys=False)
    elif not await has_keys(source):
        if await looks_sealed(source):
            raise keys_are_gone(source.path)
        async with sealing("FROM", target) as sealed:
            totals.sealed = sealed is not target
            await _carry(source, sealed, totals)
    else:
        await _carry(source, target, totals)
        totals.in_clear = not await is_strict(source)


async def _carry(source: Any, target: Any, totals: Totals, *, with_keys: bool = True) -> None:
    stats = await source.stats("default", active_after_ms=1 << 62, open_after_ms=1 << 62)
    known: dict[bytes, int] = {}
    await _erasures(source, target, totals, known)
    epochs = {e.user_hash: e.epoch async for line in read_erasures(target) for e in erasures_in(line)}
    if with_keys:
        totals.keys = await carry_keys(source, target, epochs)

    with progress("migrating", stats.total_users or None) as show:

        async def one(key: UserKey) -> None:
            await _user(source, target, key, totals)
            show(totals.users)

        def job(key: UserKey) -> Callable[[], Awaitable[None]]:
            return lambda: one(key)

        async def jobs() -> AsyncIterator[Callable[[], Awaitable[None]]]:
            async for keys in keys_of(source):
                for key in keys:
                    yield job(key)

        await at_most(USERS_AT_ONCE, jobs())
    for kind in KINDS:
        count = missing = 0
        async for line in kind.read(source):
            await kind.keep(target, line, epochs)
            missing += await kind.missing(target, line)
            count += kind.count(line)
        if missing:
            raise SamvadError(
                f"{missing} of {count} {kind.name} are not in the target as they are here; run it again."
            )
        totals.kinds[kind.name] = count
    await _erasures(source, target, totals, known)  # of users who were erased meanwhile


async def _erasures(source: Any, target: Any, totals: Totals, known: dict[bytes, int]) -> None:
    """Have those erased in the source stay erased in the target, but for those that are `known` already."""
    found = [each async for line in read_erasures(source) for each in erasures_in(line)]
    news = [each for each in found if known.get(each.user_hash, 0) < each.epoch]
    totals.ended += await erase_again(target, news)
    totals.erasures = len(found)
    known.update((each.user_hash, each.epoch) for each in news)


async def _user(source: Any, target: Any, key: UserKey, totals: Totals) -> None:
    taker: UserTaker | None = None
    end: EndLine | None = None
    async for line in user_lines(source, key):
        if isinstance(line, UserLine):
            taker = UserTaker(target, line)
        assert taker is not None
        await taker.take(line)
        if isinstance(line, EndLine):
            end = line
    if taker is not None:
        totals.count(key.user_id, taker, end)
