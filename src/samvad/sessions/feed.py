"""Who wants to know that a user's log grew: sockets, event streams, and whoever else follows a user.

A subscription holds no queue. It holds the newest record and remembers how far it has told; what is new is what the
record's window has behind that place. A reader that is slower than the window is long is told which messages it
missed (`Missed`), so that memory stays bounded and nothing is left out in silence.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from samvad.records import StoredMessage, UserKey, UserRecord
from samvad.sessions.lanes import Lanes

_TOLD_MAX: Final = 128  # how far back a message that moved up is recognised


class Grew(NamedTuple):
    """Messages that were added, in the order of `seq`."""

    epoch: int
    messages: tuple[StoredMessage, ...]


class Missed(NamedTuple):
    """Messages `first` to `last` (by seq) came as well, and are no longer in memory: the history has them."""

    epoch: int
    first: int
    last: int


class Restarted(NamedTuple):
    """The user was erased: what follows belongs to another life, which begins at seq 0."""

    epoch: int


News = Grew | Missed | Restarted


class Subscription:
    """One reader of one user's log. Not to be shared between tasks; `close` ends it."""

    def __init__(self, feed: Feed, key: UserKey) -> None:
        self._feed = feed
        self.key = key
        self.epoch = 0
        self.seq = 0
        self._told: dict[str, None] = {}  # ids, the oldest first
        self._record: UserRecord | None = None
        self._started = False
        self._closed = False
        self._wake = asyncio.Event()

    def start(self, record: UserRecord, after: int | None = None) -> None:
        """Follow the log from behind `after`, or from the end of `record`, which was read after subscribing."""
        self.epoch = record.version.epoch
        self.seq = record.seq if after is None else min(after, record.seq)
        for message in record.window:
            if message.seq <= self.seq:
                self._remember(message.id)
        self._started = True
        if self._record is None or self._record.version < record.version:
            self._record = record
        self._wake.set()

    def take(self, record: UserRecord) -> None:
        """A newer record of the user was published."""
        self._record = record
        self._wake.set()

    def now(self) -> News | None:
        """What is new already; None if nothing is."""
        if self._started and self._record is not None:
            news = self._news(self._record)
            if news is not None:
                return news
            self._record = None
        return None

    async def next(self) -> News | None:
        """What is new, as soon as there is something; None once the subscription is closed."""
        while True:
            if self._closed:
                return None
            news = self.now()
            if news is not None:
                return news
            self._wake.clear()
            await self._wake.wait()

    def close(self) -> None:
        """End it. Twice is fine."""
        self._closed = True
        self._record = None
        self._feed.drop(self)
        self._wake.set()

    def _news(self, record: UserRecord) -> News | None:
        epoch = record.version.epoch
        if epoch < self.epoch:
            return None
        if epoch > self.epoch:
            self.epoch, self.seq = epoch, 0
            self._told.clear()
            return Restarted(epoch)
        new = self._untold(record)
        first = new[0].seq if new else record.seq + 1
        if first > self.seq + 1:
            missed = Missed(epoch, self.seq + 1, first - 1)
            self.seq = first - 1
            return missed
        if not new:
            return None
        for message in new:
            self._remember(message.id)
        self.seq = max(self.seq, new[-1].seq)
        return Grew(epoch, new)

    def _untold(self, record: UserRecord) -> tuple[StoredMessage, ...]:
        """The messages of the window that were not told yet."""
        window = record.window
        if not window:
            return ()
        place = self.seq - window[0].seq
        if self._told and 0 <= place < len(window) and window[place].id != next(reversed(self._told)):
            # Behind a journal, a message may move up when another replica's arrives first: go by the ids.
            oldest = next(iter(self._told))
            known = next((at for at, m in enumerate(window) if m.id == oldest), 0)
            return tuple([m for m in window[known:] if m.id not in self._told])
        return window[max(place + 1, 0) :]

    def _remember(self, message_id: str) -> None:
        self._told[message_id] = None
        if len(self._told) > _TOLD_MAX:
            del self._told[next(iter(self._told))]


class Feed:
    """Tells the subscriptions of a user that the user's record was published."""

    def __init__(self, lanes: Lanes) -> None:
        self._subscriptions: dict[UserKey, set[Subscription]] = {}
        lanes.on_published.append(self._published)
        lanes.is_followed = (
            self._subscriptions.__contains__
        )  # of these, what other replicas write is looked up at once

    def __len__(self) -> int:
        return sum([len(those) for those in self._subscriptions.values()])

    def subscribe(self, key: UserKey) -> Subscription:
        """A subscription that hears of everything from now on; `start` it with the record read afterwards."""
        subscription = Subscription(self, key)
        self._subscriptions.setdefault(key, set()).add(subscription)
        return subscription

    def drop(self, subscription: Subscription) -> None:
        """Forget a subscription that was closed."""
        those = self._subscriptions.get(subscription.key)
        if those is not None:
            those.discard(subscription)
            if not those:
                del self._subscriptions[subscription.key]

    def _published(self, key: UserKey, record: UserRecord, new: tuple[StoredMessage, ...]) -> None:
        for subscription in self._subscriptions.get(key, ()):
            subscription.take(record)
