"""`samvad import`: conversations from a file of JSON lines, each message exactly once however often it is run.

What makes it exact is in the store: every message has an id, given or derived from where it stands in the
file, and the same id again is the same message. The checkpoint only saves the time of going through what
is done.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Final

import msgspec
import typer

from samvad.cli import flags
from samvad.cli.checkpoint import Checkpoint, Counts
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import database_path, settings_of, writing
from samvad.cli.output import printable, progress
from samvad.cli.portable import KINDS
from samvad.cli.taking import BadLine, Taker
from samvad.errors import SetupError
from samvad.types import DEFAULT_TENANT

LINE_BYTES_MAX: Final = 64 * 1024 * 1024
BATCH_LINES: Final = 256
BATCH_BYTES: Final = 4 * 1024 * 1024
PROBLEMS_SHOWN: Final = 20

app = verbs()


class Line(msgspec.Struct):
    """One line of the file; `value` is None where it is empty."""

    number: int
    value: dict[str, Any] | None
    problem: str | None = None


@app.command(cls=PlainCommand)
def take_in(
    file: Annotated[
        str, typer.Argument(metavar="FILE.jsonl", help="Dialogues, or what `samvad export` wrote.")
    ],
    user_prefix: Annotated[
        str,
        typer.Option("--user-prefix", metavar="TEXT", help="Put this in front of every user and session id."),
    ] = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first line that cannot be taken.")
    ] = False,
    tenant: flags.Tenant = DEFAULT_TENANT,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Take in conversations. Stopped at any moment and run again, it goes on where it was.

    A line is one dialogue, {"dialogueId":…,"turns":[{"role":…,"content":…},…]}, kept as one session of the
    user `userId` (or dialogueId), or a line of an export. Nothing that is newer in the store is overwritten.
    Exits with 1 if anything was skipped.
    """
    settings = settings_of(store, data_dir)
    path = Path(file)
    try:
        opened = path.open("rb")
    except OSError as error:
        raise SetupError(f"Cannot read {path}: {error.strerror}.") from error
    with opened:
        run = _Import(opened, path, user_prefix, strict, database_path(settings.store_url()))
        writing(
            settings,
            run.run,
            tenant=tenant,
            instead="stop that server first, as an import needs the database to itself",
        )
    raise typer.Exit(run.tell())


class _Import:
    """One run over one file."""

    def __init__(
        self, opened: IO[bytes], path: Path, prefix: str, strict: bool, database: Path | None
    ) -> None:
        self._opened = opened
        self._path = path
        self._prefix = prefix
        self._strict = strict
        self._database = database
        self._problems: list[str] = []
        self._done_before = Counts()
        self._counts = Counts()
        self._stopped = False
        self._last_kind: object = None
        self._holds = ""

    async def run(self, samvad: Any) -> None:
        """Take in the file from where an earlier run was, batch by batch."""
        checkpoint = Checkpoint(self._path, self._prefix, self._database)
        place = checkpoint.load()
        self._done_before = place.counts
        proving = place.offset > 0
        size = self._path.stat().st_size
        self._opened.seek(place.offset)
        number, start = place.line, place.offset
        taker = Taker(samvad, self._prefix, self._counts)
        with progress("importing", size, unit_bytes=True) as tell:
            for batch, end in _batches(self._opened, number):
                before = msgspec.structs.replace(self._counts)
                await self._take(taker, batch)
                if self._stopped:
                    return
                if proving and self._counts.anything_added():
                    # What an earlier run had taken in is not there: another database, or users were erased.
                    typer.echo("what an earlier run took in is gone; starting from the first line", err=True)
                    checkpoint.remove()
                    self._begin_again()
                    await self.run(samvad)
                    return
                proving = False
                checkpoint.save(start, number, _sum(self._done_before, before))
                number, start = number + len(batch), end
                tell(end)
        if self._last_kind in KINDS and self._last_kind != "done":
            self._skip(number, "the export ends here, without its last line: it is not complete")
        checkpoint.remove()
        stats = await samvad.count()
        self._holds = f"the store holds {stats.total_users:,} users and {stats.total_messages:,} messages now"

    def _begin_again(self) -> None:
        """Forget what was counted, except that the messages added so far will be found there."""
        added = self._counts
        self._counts = Counts(
            users=added.users,
            sessions=added.sessions,
            messages=added.messages,
            messages_there=-added.messages,
        )
        self._problems.clear()

    async def _take(self, taker: Taker, batch: list[Line]) -> None:
        """Take in some lines: those of one user in order, different users at once."""
        self._last_kind = next(
            (line.value.get("type") for line in reversed(batch) if line.value), self._last_kind
        )
        if self._strict:
            for line in batch:
                await self._take_lines(taker, [line])
                if self._stopped:
                    return
            return
        groups = _groups(taker, batch)
        await asyncio.gather(*(self._take_lines(taker, lines) for lines in groups))

    async def _take_lines(self, taker: Taker, lines: list[Line]) -> None:
        for line in lines:
            self._counts.lines += 1
            try:
                if line.problem is not None:
                    raise BadLine(line.problem)
                if line.value is not None:
                    for problem in await taker.take(line.value):
                        self._skip(line.number, problem)
            except BadLine as problem:
                self._counts.lines_skipped += 1
                self._skip(line.number, str(problem))
            if self._strict and self._problems:
                self._stopped = True
                return

    def _skip(self, number: int, problem: str) -> None:
        self._counts.problems += 1
        if len(self._problems) < PROBLEMS_SHOWN:
            self._problems.append(f"line {number}: {printable(problem, 300)}")

    def tell(self) -> int:
        """Print what was done; returns the exit code."""
        counts, before = self._counts, self._done_before
        for problem in self._problems:
            print(f"samvad: {self._path.name}, {problem}", file=sys.stderr)
        more = counts.problems - len(self._problems)
        if more > 0:
            print(f"samvad: and {more:,} more", file=sys.stderr)
        for line in counts.report(before):
            typer.echo(line)
        if self._holds:
            typer.echo(self._holds)
        if self._stopped:
            print("samvad: stopped at the first problem, as --strict asks.", file=sys.stderr)
        return 1 if counts.problems or before.problems else 0


def _groups(taker: Taker, batch: list[Line]) -> list[list[Line]]:
    """The lines in order, in groups that have neither a user nor a session in common."""
    groups: list[list[Line]] = []
    place: dict[str, list[Line]] = {}
    for line in batch:
        names = taker.names_of(line.value)
        met = [place[name] for name in names if name in place]
        group: list[Line] = met[0] if met else []
        if not met:
            groups.append(group)
        group.append(line)
        for other in met[1:]:
            if other is not group:
                group += other
                other.clear()
                place.update((name, group) for name, lines in place.items() if lines is other)
        place.update((name, group) for name in names)
    for group in groups:
        group.sort(key=lambda line: line.number)
    return groups


def _sum(a: Counts, b: Counts) -> Counts:
    return Counts(**{field: getattr(a, field) + getattr(b, field) for field in Counts.__struct_fields__})


def _batches(opened: IO[bytes], number: int) -> Iterator[tuple[list[Line], int]]:
    """The lines from here on in pieces of bounded size, each with the offset behind it; `number` lines came before."""
    batch: list[Line] = []
    size = 0
    while raw := opened.readline(LINE_BYTES_MAX + 1):
        number += 1
        size += len(raw)
        batch.append(_line(number, raw))
        while len(raw) > LINE_BYTES_MAX and not raw.endswith(b"\n"):
            raw = opened.readline(LINE_BYTES_MAX + 1)  # the rest of a line that is too long
            if not raw:
                break
        if len(batch) == BATCH_LINES or size >= BATCH_BYTES:
            yield batch, opened.tell()
            batch, size = [], 0
    if batch:
        yield batch, opened.tell()


def _line(number: int, raw: bytes) -> Line:
    if len(raw) > LINE_BYTES_MAX:
        return Line(number, None, f"it is longer than {LINE_BYTES_MAX:,} bytes")
    text = raw.strip().removeprefix(b"\xef\xbb\xbf")
    if not text:
        return Line(number, None)
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Line(number, None, f"it is not JSON ({error})")
    if not isinstance(value, dict):
        return Line(number, None, "it is not a JSON object")
    return Line(number, value)
