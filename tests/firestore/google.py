"""Google's Firestore, as `tests.google_server` does it, for the errors that the emulator does not know."""

from __future__ import annotations

from typing import Any

import grpc
from google.cloud.firestore_admin_v1.types import database as database_types
from google.cloud.firestore_admin_v1.types import firestore_admin
from google.cloud.firestore_v1.types import firestore as rpc_types

from tests.google_server import Answer, GoogleServer

_SERVICE = "/google.firestore.v1.Firestore/"
_ADMIN = "/google.firestore.admin.v1.FirestoreAdmin/"


class Google(GoogleServer):
    """An empty Firestore; `answer(method, request)` says which calls are refused, and how."""

    requests = {  # noqa: RUF012
        _SERVICE + "BatchGetDocuments": rpc_types.BatchGetDocumentsRequest,
        _SERVICE + "Commit": rpc_types.CommitRequest,
        _SERVICE + "RunQuery": rpc_types.RunQueryRequest,
        _SERVICE + "RunAggregationQuery": rpc_types.RunAggregationQueryRequest,
        _ADMIN + "GetDatabase": firestore_admin.GetDatabaseRequest,
    }
    streaming = frozenset(("BatchGetDocuments", "RunQuery", "RunAggregationQuery"))

    def __init__(self, answer: Answer, *, location: str = "nam5", native: bool = True) -> None:
        super().__init__(answer)
        self._location = location
        self._native = native

    def well(self, method: str, asked: Any, context: grpc.ServicerContext) -> Any:
        """The answer where nothing is wrong: there is nothing in the store."""
        if method == "BatchGetDocuments":
            return rpc_types.BatchGetDocumentsResponse.pb()(missing=asked.documents[0])
        if method == "Commit":
            answer = rpc_types.CommitResponse.pb()()
            for _ in asked.writes:
                answer.write_results.add()
            return answer
        if method == "RunQuery":
            return rpc_types.RunQueryResponse.pb()()
        if method == "RunAggregationQuery":
            answer = rpc_types.RunAggregationQueryResponse.pb()()
            answer.result.aggregate_fields["seq"].integer_value = 0
            return answer
        kinds = database_types.Database.pb().DatabaseType
        kind = kinds.FIRESTORE_NATIVE if self._native else kinds.DATASTORE_MODE
        return database_types.Database.pb()(location_id=self._location, type_=kind)
