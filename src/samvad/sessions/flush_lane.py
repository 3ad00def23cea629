"""What is pending of one user: entries of the journal on their way to the store."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from samvad import tracing
from samvad.clock import Clock
from samvad.errors import SamvadError
from samvad.records import (
    ANY_VERSION,
    Commit,
    Committed,
    MessagesAdded,
    Origin,
    UserKey,
    UserRecord,
    Version,
    only_receipts,
)
from samvad.sessions.coalesce import coalesce, erases, removes, steps_of
from samvad.sessions.operations import is_unproven

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

BATCH_MESSAGES_MAX = 500
BATCH_BYTES_MAX = 4 * 1024 * 1024

Done = Callable[[Committed | SamvadError], None]


class Entry:
    """One journaled commit on its way to the store, which knows it as (`replica`, `number`).

    `epoch` is the life of the user in the store that it was made in (-1 where that could not be asked, or where it
    follows an erasing that the store does not have yet), `tried` whether the store may have it already. `verbatim`
    commits do not say what was asked for: the store must answer them
    (see that module). A removal may have somebody waiting for what the store says of it (`waiter`);
    `early` is the answer if the store says nothing in time.
    """

    __slots__ = (
        "at_s", "commit", "disputed", "early", "epoch", "is_reduced", "number", "of_erased", "origin", "replica",
        "tried", "unproven", "verbatim", "waiter",
    )  # fmt: skip

    def __init__(self, replica: str, number: int, commit: Commit, epoch: int) -> None:
        self.replica = replica
        self.number = number
        self.commit = commit
        self.epoch = epoch
        self.at_s = 0.0  # when it was taken in, by the monotonic clock
        self.origin: SpanContext | None = None  # what asked for it, where traces are on
        self.tried = False
        self.of_erased = False
        self.is_reduced = False  # the journal has content of a user of whom none is kept
        self.disputed = False
        self.unproven = is_unproven(commit.operation)
        self.waiter: Done | None = None
        self.early: Committed | SamvadError | None = None
        self.verbatim = commit.operation is None and not only_receipts(commit)

    def answer(self, result: Committed | SamvadError | None = None) -> None:
        """Tell who waits, if somebody does: this, or else the answer without the store."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None and (result or self.early) is not None:
            waiter(result or self.early)  # type: ignore[arg-type]


class FlushLane:
    """What is pending of one user.

    `entries` are journaled, `writing` is how many are not yet. `base` is the version in the store on which the
    entries build (None: they must be applied anew to what the store has), `epoch` the life that the user has there
    as far as is known (-1: it is not); `record` is the user's record after all
    entries, `head` the version after all that was submitted. `generation` changes where `record` is not what
    was answered: what is being written then is applied anew. `batch` is the number of entries of a commit whose
    fate is open, `suspects` how many of the next ones
    hold one that the store refuses: they go in batches of at most `cap`, until it is found. `gathered` tells
    that what waits has waited for more already.
    """

    __slots__ = (
        "_parked", "base", "batch", "cap", "entries", "epoch", "flushed_s", "gathered", "generation", "head", "lock",
        "on_parked", "record",
        "release", "stales", "suspects", "task", "urgent", "user", "waiting", "writing",
    )  # fmt: skip

    def __init__(self, user: UserKey, on_parked: Callable[[], None] = lambda: None) -> None:
        self.user = user
        self.on_parked = on_parked
        self.entries: deque[Entry] = deque()
        self.base: Version | None = None
        self.epoch = -1
        self.head: Version | None = None
        self.record: UserRecord | None = None
        self.batch: int | None = None
        self.cap = 0
        self.suspects = 0
        self.stales = 0
        self.writing = 0
        self.waiting = 0
        self.generation = 0
        self.gathered = False
        self.flushed_s = float("-inf")
        self.urgent = asyncio.Event()
        self.lock = asyncio.Lock()
        self.task: asyncio.Task[None] | None = None
        self.release: asyncio.TimerHandle | None = None
        self._parked: SamvadError | None = None

    @property
    def parked(self) -> SamvadError | None:
        """Why the store refuses the first entry for ever; None where it does not."""
        return self._parked

    @parked.setter
    def parked(self, why: SamvadError | None) -> None:
        self._parked = why
        self.on_parked()

    @property
    def pending(self) -> bool:
        """Whether anything is on its way."""
        return bool(self.entries or self.writing)

    @property
    def answered(self) -> bool:
        """Whether anything is on its way that was or will be acknowledged before the store has it."""
        return self.writing > 0 or any(not entry.verbatim for entry in self.entries)

    def start(self, expected: Version, known: UserRecord | None) -> None:
        """Nothing is pending that this builds on: the next commit builds on `expected`, which the store has.

        `known` is the user's record as it is read at this moment, if it is in memory.
        """
        self.base = expected if expected.epoch >= 0 else None
        self.epoch = expected.epoch
        self.head = expected
        self.record = known if known is not None and known.version == expected else None

    def rebase(self) -> None:
        """What is pending may not follow from what the store has: it must be applied anew."""
        self.base = None
        self.batch = None

    def refused(self) -> None:
        """Something submitted was not journaled: what was built on it is applied anew."""
        self.generation += 1
        self.head = None if self.record is None else self.record.version
        if self.record is None:
            self.base = None

    def batch_size(self) -> int:
        """How many entries go into one commit: bounded in messages and bytes, an erasing by itself, a removal last."""
        if self.batch is not None:
            return self.batch
        size, messages, length = 0, 0, 0
        ids: set[str] = set()
        for entry in self.entries:
            if size and (erases(entry.commit) or entry.verbatim or entry.replica != self.entries[0].replica):
                break
            again = False
            for change in entry.commit.changes:
                if isinstance(change, MessagesAdded):
                    messages += len(change.messages)
                    length += sum(len(message.body) for message in change.messages)
                    again = again or not ids.isdisjoint(change.unproven)
                    ids.update(message.id for message in change.messages)
            if size and (messages > BATCH_MESSAGES_MAX or length > BATCH_BYTES_MAX or again):
                break
            size += 1
            if removes(entry.commit) or entry.verbatim or (self.suspects and size >= self.cap):
                break
        return size

    def merged(self, entries: list[Entry]) -> Commit:
        """The first entries of the lane as one commit, numbered as the last of them."""
        origin = Origin(entries[-1].replica, entries[-1].number)
        expected = ANY_VERSION if unbound(entries) else self.base
        assert expected is not None
        changes = entries[0].commit.changes
        if len(entries) > 1:
            changes = coalesce(change for entry in entries for change in entry.commit.changes)
        steps = sum(steps_of(entry.commit) for entry in entries)
        return Commit(self.user, expected, changes, origin, None, None, steps)


class FlushLanes:
    """The lanes of all users of whom something is pending."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lanes: dict[UserKey, FlushLane] = {}
        self.on_parked: Callable[[], None] = lambda: None  # a lane was parked, or is not any more

    def find(self, user: UserKey) -> FlushLane | None:
        """The user's lane, if something is or was just pending."""
        return self._lanes.get(user)

    def lane(self, user: UserKey) -> FlushLane:
        """The user's lane, perhaps a new one."""
        lane = self._lanes.get(user)
        if lane is None:
            lane = self._lanes[user] = FlushLane(user, self.on_parked)
        return lane

    def lanes_of(self, tenant: str) -> Iterable[FlushLane]:
        """The lanes of a tenant."""
        return [lane for lane in self._lanes.values() if lane.user.tenant == tenant]

    def all_lanes(self) -> list[FlushLane]:
        """Every lane."""
        return list(self._lanes.values())

    def users(self) -> list[UserKey]:
        """Who has a lane."""
        return list(self._lanes)

    @property
    def lanes(self) -> int:
        """How many lanes there are: users of whom something is pending or was a moment ago."""
        return len(self._lanes)

    @property
    def entries_waiting(self) -> int:
        """How many journaled operations are not in the store yet."""
        return sum(len(lane.entries) for lane in self._lanes.values())

    def oldest_s(self) -> float:
        """For how long the operation that waits for longest has waited."""
        now_s = self._clock.monotonic_s()
        return now_s - min(
            (lane.entries[0].at_s for lane in self._lanes.values() if lane.entries), default=now_s
        )

    def parked(self) -> list[FlushLane]:
        """The lanes whose first operation the store refuses for ever."""
        return [lane for lane in self._lanes.values() if lane.parked is not None]


def flush_span(lane: FlushLane, entries: Sequence[Entry], name: str = "flush") -> AbstractContextManager[Any]:
    """A trace of its own for what goes to the store behind everybody's back, linked to the requests that wrote it."""
    if tracing.tracer is None:
        return tracing.spanning(name)
    return tracing.spanning(
        name,
        {"samvad.operations": len(entries), **tracing.user_attributes(*lane.user)},
        links=tracing.links_to(entry.origin for entry in entries),
        context=tracing.nothing(),
    )


def unbound(entries: list[Entry]) -> bool:
    """Whether these are receipts alone: no version speaks against them."""
    return all(only_receipts(entry.commit) for entry in entries)
