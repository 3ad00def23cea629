"""Changes told by Firestore: which heads were written and which users erased, by whatever process.

One stream (`Listen`) with two queries: heads, and erasures, whose `changedAt` (set by Firestore as it commits) is
after a moment. Of each only a few small fields are asked for. After a break the stream begins at the moment up to
which everything was told, so that nothing is missed and nothing is told, or billed, twice; for the same reason it is
begun anew now and then, as what matches a query only grows.
https://cloud.google.com/firestore/docs/reference/rpc/google.firestore.v1#listenrequest

The client library's own listener takes two threads, keeps every document it has seen, and dies of a fault in a
callback; this is a call like the others, on the store's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
from google.cloud.firestore_v1.types import firestore as rpc_types

from samvad.errors import StoreUnavailable
from samvad.records import UserKey, Version
from samvad.stores.base import Lapse, Notice, UpToDate, UserChanged, UserGone
from samvad.stores.firestore_client import BoundedClient
from samvad.stores.firestore_names import Names
from samvad.stores.firestore_queries import query, shape

CHANGED_AT: Final = "changedAt"
_REQUEST: Any = rpc_types.ListenRequest.pb()
_HEADS: Final = 1
_ERASURES: Final = 2
_GREATER_THAN: Final = 3
_HEAD_FIELDS: Final = ("tenant", "userId", "epoch", "revision")
_TOLD_MAX: Final = 1_000  # documents of one stream; then it is begun anew
_STREAM_S_MAX: Final = 600.0
_MARGIN_S: Final = (
    15  # `changedAt` is when Firestore took the request, which is some time before it is committed
)


class _Stream:
    """One stream of changes."""

    def __init__(self, client: BoundedClient, call: Any, names: Names) -> None:
        self._client = client
        self._call = call
        self._names = names

    async def add(self, target: int, wanted: Any) -> None:
        """Tell of the documents that a query finds, as `target`."""
        self._client.shapes.add(shape(wanted))
        request = _REQUEST(database=self._names.database)
        request.add_target.target_id = target
        request.add_target.query.parent = self._names.root
        request.add_target.query.structured_query.CopyFrom(wanted)
        await self._call.write(request)

    async def answers(self) -> AsyncIterator[Any]:
        """What the server says; StoreUnavailable where it ends the stream, or says what cannot be read."""
        while (answer := await self._call.read()) is not grpc.aio.EOF:
            if answer is None:  # gRPC says it so, and logs why
                raise StoreUnavailable("Firestore sent what cannot be read.")
            self._client.heard()
            yield answer
        raise StoreUnavailable("Firestore ended a stream.")


class Listener:
    """Tells of the changes of one database. `told_until` is the moment up to which everything was told."""

    def __init__(self, client: BoundedClient, names: Names) -> None:
        self._client = client
        self._names = names
        self._told_until: Any = None

    async def notices(self) -> AsyncIterator[Notice]:
        """What changes, from now on (or from where an earlier call ended), until Firestore cannot be asked.

        A `Lapse` comes first where there was no earlier call. Raises StoreUnavailable.
        """
        if self._told_until is None:
            now = await self._client.get([self._names.probe()], self._client.deadline())
            self._told_until = now.read_time
            yield Lapse()
        while True:
            async with self._client.listening() as call:
                stream = _Stream(self._client, call, self._names)
                for target, wanted in self._targets():
                    await stream.add(target, wanted)
                async for notice in self._stream(stream):
                    yield notice

    def _targets(self) -> list[tuple[int, Any]]:
        targets = []
        for target, collection in ((_HEADS, "user_profiles"), (_ERASURES, "erasures")):
            wanted = query(collection)
            after = wanted.where.field_filter
            after.field.field_path = CHANGED_AT
            after.op = _GREATER_THAN
            after.value.timestamp_value.CopyFrom(self._told_until)
            after.value.timestamp_value.seconds -= _MARGIN_S
            for field in _HEAD_FIELDS if target == _HEADS else ("epoch",):
                wanted.select.fields.add().field_path = field
            targets.append((target, wanted))
        return targets

    async def _stream(self, stream: _Stream) -> AsyncIterator[Notice]:
        """The notices of one stream, until it is time to begin another."""
        told: dict[str, Any] = {}
        caught_up = False
        ends_s = asyncio.get_running_loop().time() + _STREAM_S_MAX
        async for answer in stream.answers():
            change = answer.target_change
            if answer.HasField("document_change"):
                document = answer.document_change.document
                at = (document.update_time.seconds, document.update_time.nanos)
                before, told_at = told.get(document.name, (None, None))
                if at == told_at:  # the emulator tells everything again with each change
                    continue
                notice = self._notice(document)
                told[document.name] = (notice, at)
                self._client.operations.reads += 1
                if before != notice:
                    yield notice
            elif answer.HasField("target_change"):
                if change.HasField("cause") and change.cause.code:
                    raise StoreUnavailable(f"Firestore stopped telling of changes: {change.cause.message}")
                if not change.target_ids and change.HasField("read_time"):
                    self._told_until = change.read_time
                    if not caught_up:
                        caught_up = True
                        yield UpToDate()
                    if len(told) >= _TOLD_MAX or asyncio.get_running_loop().time() > ends_s:
                        return

    def _notice(self, document: Any) -> Notice:
        fields = document.fields
        if document.name.startswith(f"{self._names.root}/erasures/"):
            return UserGone(bytes.fromhex(document.name.rpartition("/")[2]), fields["epoch"].integer_value)
        user = UserKey(fields["tenant"].string_value, fields["userId"].string_value)
        return UserChanged(user, Version(fields["epoch"].integer_value, fields["revision"].integer_value))
