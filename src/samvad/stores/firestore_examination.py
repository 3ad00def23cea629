"""Is this Firestore database fit for Samvad? One look at a time, each with what Google answers to it.

Nothing is kept: what is read, queried and deleted is a document that is never there. What an answer means, and
which command mends it, is for `samvad doctor` to say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, Literal, NamedTuple

import grpc  # type: ignore[import-untyped]
from google.api_core import exceptions
from google.cloud.firestore_admin_v1.types import database as database_types
from google.cloud.firestore_admin_v1.types import firestore_admin
from google.cloud.firestore_v1.types import firestore as rpc_types

from samvad.errors import SetupError
from samvad.stores import firestore_documents as documents
from samvad.stores.firestore_client import BoundedClient
from samvad.stores.firestore_indexes import COMPOSITES, Index
from samvad.stores.firestore_names import Names

LOOK_TIMEOUT_S: Final = 5.0
_SERVICE: Final = "/google.firestore.v1.Firestore/"
_ADMIN: Final = "/google.firestore.admin.v1.FirestoreAdmin/"

_DATABASE: Final[Any] = database_types.Database.pb()

Look = Literal["credentials", "read", "write", "index", "database"]


class Trouble(NamedTuple):
    """What Google answered: gRPC's status, the sentence with it, and the reason of its ErrorInfo (may be empty).

    https://cloud.google.com/apis/design/errors#error_info
    """

    status: str
    message: str
    reason: str = ""


class Seen(NamedTuple):
    """One look: at what, and the trouble with it.

    `account` is whose the credentials are (empty if they do not say), `wanted` the index looked for, `location` and
    `native` (not in Datastore mode) what Google says of the database.
    """

    look: Look
    trouble: Trouble | None = None
    account: str = ""
    wanted: Index | None = None
    location: str = ""
    native: bool = True


def trouble_of(error: grpc.aio.AioRpcError) -> Trouble:
    """What an error says."""
    told = exceptions.from_grpc_error(error)  # type: ignore[no-untyped-call]
    reason = getattr(told, "reason", None)
    return Trouble(error.code().name, " ".join((error.details() or "").split()), reason or "")


async def examine(
    project: str, database: str, *, emulator_host: str | None = None, timeout_s: float = LOOK_TIMEOUT_S
) -> AsyncIterator[Seen]:
    """Look, from the most basic on; where it cannot be read, nothing more can be said, and that ends it."""
    names = Names(project, database)
    client = BoundedClient(
        names,
        call_timeout_s=timeout_s,
        attempt_timeout_s=timeout_s,
        attempts_max=1,
        emulator_host=emulator_host,
    )
    try:
        client.open()
    except SetupError as error:
        yield Seen("credentials", Trouble("NO_CREDENTIALS", error.message))
        return
    try:
        yield Seen("credentials", account=client.account)
        async for seen in _looks(client, names, timeout_s):
            yield seen
    finally:
        await client.close()


async def _looks(client: BoundedClient, names: Names, timeout_s: float) -> AsyncIterator[Seen]:
    async def attempt(
        method: str, request: Any, response: Any, *, streams: bool, routed_by: str = "database"
    ) -> Trouble | list[Any]:
        try:
            return await client.attempt(
                method, request, response, timeout_s, streams=streams, routed_by=routed_by
            )
        except grpc.aio.AioRpcError as error:
            return trouble_of(error)

    read = rpc_types.BatchGetDocumentsRequest.pb()(database=names.database, documents=[names.probe()])
    found = await attempt(
        _SERVICE + "BatchGetDocuments", read, rpc_types.BatchGetDocumentsResponse.pb(), streams=True
    )
    if isinstance(found, Trouble):
        yield Seen("read", found)
        return
    yield Seen("read")

    write = rpc_types.CommitRequest.pb()(database=names.database)
    write.writes.append(documents.delete_write(names.probe()))
    done = await attempt(_SERVICE + "Commit", write, rpc_types.CommitResponse.pb(), streams=False)
    yield Seen("write", done if isinstance(done, Trouble) else None)

    for index in COMPOSITES:
        asked = await _ask(attempt, names, index)
        yield Seen("index", asked if isinstance(asked, Trouble) else None, wanted=index)

    wanted = firestore_admin.GetDatabaseRequest.pb()(name=names.database)
    told = await attempt(_ADMIN + "GetDatabase", wanted, _DATABASE, streams=False, routed_by="name")
    if isinstance(told, Trouble):
        yield Seen("database", told)
    else:
        native = told[0].type_ == _DATABASE.DatabaseType.FIRESTORE_NATIVE
        yield Seen("database", location=told[0].location_id, native=native)


async def _ask(attempt: Any, names: Names, index: Index) -> Any:
    if not index.summed:
        request = rpc_types.RunQueryRequest.pb()(parent=names.root, structured_query=index.query())
        return await attempt(_SERVICE + "RunQuery", request, rpc_types.RunQueryResponse.pb(), streams=True)
    request = rpc_types.RunAggregationQueryRequest.pb()(parent=names.root)
    wanted = request.structured_aggregation_query
    wanted.structured_query.CopyFrom(index.query())
    for field in index.sums():
        wanted.aggregations.add(alias=field).sum.field.field_path = field
    return await attempt(
        _SERVICE + "RunAggregationQuery", request, rpc_types.RunAggregationQueryResponse.pb(), streams=True
    )
