"""The sealed part of a history: segments found from the head's list, or by an index where they are older.

A segment never changes, so that what was read of one is true for as long as its user's life lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from samvad.records import StoredMessage, UserKey, seq_of_made_id
from samvad.stores import firestore_documents as documents
from samvad.stores import firestore_head as heads
from samvad.stores import firestore_names as names_of
from samvad.stores.firestore_client import BoundedClient
from samvad.stores.firestore_head import Head, Torn, of_moment
from samvad.stores.firestore_names import Names
from samvad.stores.firestore_queries import query

_SEGMENTS_AT_ONCE: Final = 8
_IDS_PER_QUERY: Final = 30  # Firestore's limit on array-contains-any


class Segment(NamedTuple):
    """Where a sealed segment stands: the name of its document, and the seqs of its first and last message."""

    name: str
    first: int
    last: int


class History:
    """Reads messages of one database."""

    def __init__(self, client: BoundedClient, names: Names) -> None:
        self._client = client
        self._names = names

    async def between(
        self, user: UserKey, head: Head, first: int, last: int, deadline: float, read_time: Any
    ) -> list[StoredMessage]:
        """The sealed messages from `first` to `last`."""
        messages: list[StoredMessage] = []
        seq = first
        while seq <= last:
            run = await self._segments_from(user, head, seq, _SEGMENTS_AT_ONCE, deadline, read_time, last)
            if not run:
                raise Torn
            messages += [message for message in run if seq <= message.seq <= last]
            seq = run[-1].seq + 1
        return messages

    async def _segments_from(
        self,
        user: UserKey,
        head: Head,
        seq: int,
        count: int,
        deadline: float,
        read_time: Any,
        last: int | None = None,
    ) -> list[StoredMessage]:
        """The messages of at most `count` segments, from that which holds `seq` on, up to that which holds `last`."""
        listed = [s for s in head.segments if last is None or documents.first_seq(s) <= last]
        at = _index_of(listed, seq)
        if at is None:
            end = names_of.place(head.epoch, seq)
            ceiling = names_of.place(head.epoch + 1, 0)
            wanted = query(
                "history",
                ("end", "GREATER_THAN_OR_EQUAL", end),
                ("end", "LESS_THAN", ceiling),
                order=[("end", "ASCENDING")],
                limit=count,
            )
            found = await self._client.query(self._names.head(user), wanted, deadline, read_time=read_time)
            segments = found
        else:
            names = [self._names.segment(user, head.epoch, each) for each in listed[at : at + count]]
            by_name = await self._client.get(names, deadline, read_time=read_time)
            segments = [of_moment(by_name.documents[name], head) for name in names]
        return [message for segment in segments for message in documents.segment_messages(segment)]

    async def _segments_to(
        self, user: UserKey, head: Head, seq: int, count: int, deadline: float, read_time: Any
    ) -> list[StoredMessage]:
        """The messages of `count` segments, from that which holds `seq` backwards; in order."""
        at = _index_of(head.segments, seq)
        if at is not None:
            names = [
                self._names.segment(user, head.epoch, each)
                for each in head.segments[max(0, at - count + 1) : at + 1]
            ]
            by_name = await self._client.get(names, deadline, read_time=read_time)
            segments = [of_moment(by_name.documents[name], head) for name in names]
        else:
            wanted = query(
                "history",
                ("place", "GREATER_THAN", names_of.place(head.epoch, 0)),
                ("place", "LESS_THAN_OR_EQUAL", names_of.place(head.epoch, seq)),
                order=[("place", "DESCENDING")],
                limit=count,
            )
            found = await self._client.query(self._names.head(user), wanted, deadline, read_time=read_time)
            segments = found[::-1]
        return [message for segment in segments for message in documents.segment_messages(segment)]

    async def page(
        self,
        user: UserKey,
        head: Head,
        after: int | None,
        before: int | None,
        limit: int,
        bytes_max: int,
        deadline: float,
        read_time: Any,
    ) -> tuple[list[StoredMessage], bool]:
        """See Store.page; `head` is of the moment `read_time`."""
        low = max(after or 0, head.trimmed) + 1
        high = head.seq if before is None else min(before - 1, head.seq)
        forward = after is not None
        taken: list[StoredMessage] = []
        size = 0
        while low <= high:
            segments = min(_SEGMENTS_AT_ONCE, 1 + (limit - len(taken)) // heads.SEGMENT_MESSAGES_MAX)
            if (low if forward else high) >= head.tail_first:
                run: Sequence[StoredMessage] = head.tail
            elif forward:
                run = await self._segments_from(user, head, low, segments, deadline, read_time, high)
            else:
                run = await self._segments_to(user, head, high, segments, deadline, read_time)
            between = [message for message in run if low <= message.seq <= high]
            if not between:
                raise Torn
            for message in between if forward else between[::-1]:
                if len(taken) == limit or (taken and size + len(message.body) > bytes_max):
                    return (taken if forward else taken[::-1]), True
                size += len(message.body)
                taken.append(message)
            if forward:
                low = between[-1].seq + 1
            else:
                high = between[0].seq - 1
        return (taken if forward else taken[::-1]), False

    async def in_front_of(self, user: UserKey, head: Head, before_seq: int, deadline: float) -> list[Segment]:
        """The sealed segments that begin in front of a seq, in order; without what is said in them."""
        wanted = query(
            "history",
            ("place", "GREATER_THAN", names_of.place(head.epoch, 0)),
            ("place", "LESS_THAN", names_of.place(head.epoch, before_seq)),
            order=[("place", "ASCENDING")],
        )
        for field in ("place", "end"):
            wanted.select.fields.add().field_path = field
        base = names_of.place(head.epoch, 0)
        return [
            Segment(
                each.name,
                each.fields["place"].integer_value - base,
                each.fields["end"].integer_value - base,
            )
            for each in await self._client.query(self._names.head(user), wanted, deadline)
        ]

    async def messages_of(self, segment: Segment, deadline: float) -> list[StoredMessage]:
        """What is said in a segment; Torn where it is not there any more."""
        found = await self._client.get([segment.name], deadline)
        document = found.documents[segment.name]
        if document is None:
            raise Torn
        return documents.segment_messages(document)

    async def seqs_of(self, user: UserKey, head: Head, ids: list[str], deadline: float) -> dict[str, int]:
        """Where messages of these ids stand in sealed segments: 1 read for 30 ids that are not there."""
        seqs: dict[str, int] = {}
        parent = self._names.head(user)
        for start in range(0, len(ids), _IDS_PER_QUERY):
            some = ids[start : start + _IDS_PER_QUERY]
            listed = [documents.listed_id(head.epoch, each) for each in some]
            wanted = query("history", ("ids", "ARRAY_CONTAINS_ANY", listed))
            for document in await self._client.query(parent, wanted, deadline):
                for message in documents.segment_messages(document):
                    seqs[message.id] = message.seq
        for message_id in ids:
            seq = seq_of_made_id(message_id)
            if seq is not None and message_id not in seqs and 0 < seq < head.tail_first:
                messages = await self._segments_from(user, head, seq, 1, deadline, None)
                seqs.update((m.id, m.seq) for m in messages if m.seq == seq)
        return seqs


def _index_of(segments: Sequence[str], seq: int) -> int | None:
    """Which of these segments holds a seq; None if it lies before the first."""
    for at in range(len(segments) - 1, -1, -1):
        if documents.first_seq(segments[at]) <= seq:
            return at
    return None
