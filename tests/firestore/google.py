"""A gRPC server that answers as Google's Firestore does where the emulator cannot: with its errors.

It speaks the real protocol (the service's own messages, google.rpc.Status with ErrorInfo in the trailers), so that
what is tested is the vendor's client and our judgement of what it brings back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc
from google.cloud.firestore_admin_v1.types import database as database_types
from google.cloud.firestore_admin_v1.types import firestore_admin
from google.cloud.firestore_v1.types import firestore as rpc_types
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


class Refusal(NamedTuple):
    """An error as Google sends it. `reason` goes into an ErrorInfo of the domain googleapis.com."""

    code: grpc.StatusCode
    message: str
    reason: str = ""


Answer = Callable[[str, Any], Refusal | None]
_SERVICE = "/google.firestore.v1.Firestore/"
_ADMIN = "/google.firestore.admin.v1.FirestoreAdmin/"
_REQUESTS = {
    _SERVICE + "BatchGetDocuments": rpc_types.BatchGetDocumentsRequest,
    _SERVICE + "Commit": rpc_types.CommitRequest,
    _SERVICE + "RunQuery": rpc_types.RunQueryRequest,
    _SERVICE + "RunAggregationQuery": rpc_types.RunAggregationQueryRequest,
    _ADMIN + "GetDatabase": firestore_admin.GetDatabaseRequest,
}


class Google(grpc.GenericRpcHandler):
    """The server; `answer(method, request)` says which calls are refused, and how. The others are answered."""

    def __init__(self, answer: Answer, *, location: str = "nam5", native: bool = True) -> None:
        self._answer = answer
        self._location = location
        self._native = native
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self.asked: list[str] = []

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()

    def service(self, handler_call_details: Any) -> Any:
        """How a method is answered (grpc.GenericRpcHandler)."""
        request = _REQUESTS.get(handler_call_details.method)
        if request is None:
            return None
        method = handler_call_details.method.rpartition("/")[2]
        streams = method in ("BatchGetDocuments", "RunQuery", "RunAggregationQuery")
        make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler

        def one(asked: Any, context: grpc.ServicerContext) -> Any:
            self._refuse(method, asked, context)
            return self._well(method, asked)

        def many(asked: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            yield one(asked, context)

        return make(
            many if streams else one,
            request_deserializer=request.pb().FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )

    def _refuse(self, method: str, asked: Any, context: grpc.ServicerContext) -> None:
        self.asked.append(method)
        refusal = self._answer(method, asked)
        if refusal is None:
            return
        status = status_pb2.Status(code=refusal.code.value[0], message=refusal.message)
        if refusal.reason:
            info = error_details_pb2.ErrorInfo(reason=refusal.reason, domain="googleapis.com")
            status.details.add().Pack(info)
        context.abort_with_status(rpc_status.to_status(status))

    def _well(self, method: str, asked: Any) -> Any:
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
