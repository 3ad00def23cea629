"""`samvad restore`: what a backup holds into a store, exactly as it was; nobody who was erased since comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from samvad.cli import flags
from samvad.cli.carry.files import check, epochs_of, read
from samvad.cli.carry.kinds import KINDS, erasures_in, read_erasures
from samvad.cli.carry.lines import BEGINNING, EndLine, Line, UserLine
from samvad.cli.carry.opening import opened
from samvad.cli.carry.sealing import sealing
from samvad.cli.carry.totals import Totals
from samvad.cli.carry.writing import UserTaker, erase_again
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.migrate import first_of, tell
from samvad.cli.opening import settings_of
from samvad.cli.output import progress
from samvad.clock import SystemClock
from samvad.errors import SamvadError, SetupError
from samvad.records import UserKey, user_hash
from samvad.sessions.validation import check_id
from samvad.stores.carrying import StoredErasure
from samvad.stores.encrypting import has_keys, keys_file

USERS_AT_ONCE: Final = 16
_LINES_AHEAD: Final = 4
_LIST_BYTES_MAX: Final = 64 * 1024 * 1024
DEFAULT_TENANT: Final = "default"

app = verbs()


@app.command(cls=PlainCommand)
def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `samvad backup` wrote.")],
    erased: Annotated[
        str | None,
        typer.Option(
            "--erased",
            metavar="FILE",
            help="Who was erased since: user ids, one a line, or a later backup (of erasures alone, or a whole one).",
        ),
    ] = None,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Put what a backup holds into a store. Stopped at any moment and run again, it goes on.

    The file is looked through first: one that is cut off or was altered is refused before anything is written.
    Nothing that is there is overwritten. Users who were erased after the backup was made, as the store or the list
    of --erased knows, do not come back. With a master key in SAMVAD_MASTER_KEY, what the file holds in clear is
    sealed on the way. No server may be using the store. Exits with 1 if a user is there already and differs.
    """
    settings = settings_of(store, data_dir)
    path = Path(file)
    size = path.stat().st_size if path.exists() else None
    with progress("checking", size, unit_bytes=True) as show:
        checked = check(path, show)
    if checked.head.only_erasures:
        raise SetupError(f"{path} holds erasures alone; name it with --erased, beside a whole backup.")
    wanted = dict(checked.erasures)
    for each in _listed(Path(erased), path) if erased is not None else ():
        there = wanted.get(each.user_hash)
        if there is None or there.epoch < each.epoch:
            wanted[each.user_hash] = each
    totals = Totals(erasures=len(wanted))

    async def run() -> None:
        async with opened(settings.store_url(), settings) as target:
            if checked.sealed and not await has_keys(target):
                place = "the collection data_keys" if not hasattr(target, "path") else keys_file(target.path)
                raise SetupError(
                    f"{path} is encrypted, and backups hold no keys: bring those of its store to {place} first."
                )
            if checked.sealed:
                await put(path, target, list(wanted.values()), totals, size)
                return
            async with sealing(str(path), target) as into:
                totals.sealed = into is not target
                await put(path, into, list(wanted.values()), totals, size)

    try:
        asyncio.run(run())
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None
    raise typer.Exit(tell(totals))


def _listed(listed: Path, backup: Path) -> list[StoredErasure]:
    """Who was erased since: as a later backup says, or the lives in this one of the ids in a list."""
    try:
        with listed.open("rb") as opened_list:
            beginning = opened_list.read(len(BEGINNING))
            text = b"" if beginning == BEGINNING else beginning + opened_list.read(_LIST_BYTES_MAX)
    except OSError as error:
        raise SetupError(f"Cannot read {listed}: {error.strerror}.") from error
    if beginning == BEGINNING:
        return list(check(listed).erasures.values())
    hashes = set()
    for number, line in enumerate(text.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if not line.strip():
            continue
        try:
            user_id = check_id(line.decode().strip(), "user id")
        except UnicodeDecodeError:
            raise SetupError(f"{listed}, line {number}: it is not UTF-8 text.") from None
        except SamvadError as error:
            raise SetupError(f"{listed}, line {number}: {error.message}") from None
        hashes.add(user_hash(UserKey(DEFAULT_TENANT, user_id)))
    now_ms = SystemClock().now_ms()
    return [StoredErasure(each, epoch + 1, now_ms) for each, epoch in epochs_of(backup, hashes).items()]


async def put(
    path: Path, target: Any, erasures: list[StoredErasure], totals: Totals, size: int | None = None
) -> None:
    """The users of a checked backup into an open store, but for those whose lives have been ended since."""
    totals.ended += await erase_again(target, erasures)
    epochs = {e.user_hash: e.epoch async for line in read_erasures(target) for e in erasures_in(line)}
    with progress("restoring", size, unit_bytes=True) as show:
        await _users(read(path, show), target, epochs, totals)
    for kind in KINDS:
        count = 0
        for line in read(path):
            if isinstance(line, kind.line):
                await kind.keep(target, line, epochs)
                count += kind.count(line)
        totals.kinds[kind.name] = count


async def _users(found: Iterable[Line], target: Any, epochs: dict[bytes, int], totals: Totals) -> None:
    """Each user's lines in order, some users at once."""
    slots = asyncio.Semaphore(USERS_AT_ONCE)

    async def take(queue: asyncio.Queue[Line]) -> None:
        try:
            first = await queue.get()
            assert isinstance(first, UserLine)
            taker = UserTaker(target, first, epochs.get(user_hash(first.key), 0))
            await taker.take(first)
            while not isinstance(line := await queue.get(), EndLine):
                await taker.take(line)  # type: ignore[arg-type]
            await taker.take(line)
            totals.count(first.user_id, taker, line)
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        queue: asyncio.Queue[Line] | None = None
        task: asyncio.Task[None] | None = None
        for line in found:
            if isinstance(line, UserLine):
                await slots.acquire()
                queue = asyncio.Queue(_LINES_AHEAD)
                task = group.create_task(take(queue))
            if queue is None or task is None:
                continue  # not a user's
            await _hand_over(queue, line, task)
            if isinstance(line, EndLine):
                queue = task = None


async def _hand_over(queue: asyncio.Queue[Line], line: Line, task: asyncio.Task[None]) -> None:
    """Give a line to the task, which may have failed: then nobody takes it, and the group ends."""
    putting = asyncio.ensure_future(queue.put(line))
    await asyncio.wait((putting, task), return_when=asyncio.FIRST_COMPLETED)
    if not putting.done():
        putting.cancel()
