"""A gRPC server that answers as one of Google's services does where nothing of Google's can be run: with its errors.

It speaks the real protocol (the service's own messages, google.rpc.Status with ErrorInfo in the trailers), so that
what is tested is the vendor's client and our judgement of what it brings back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


class Refusal(NamedTuple):
    """An error as Google sends it. `reason` goes into an ErrorInfo of the domain googleapis.com."""

    code: grpc.StatusCode
    message: str
    reason: str = ""


Answer = Callable[[str, Any], Refusal | None]


class GoogleServer(grpc.GenericRpcHandler, ABC):  # type: ignore[misc]
    """The server; `answer(method, request)` says which calls are refused, and how. The others are answered."""

    requests: ClassVar[Mapping[str, Any]]  # by the whole name of the method
    streaming: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
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

    @abstractmethod
    def well(self, method: str, asked: Any, context: grpc.ServicerContext) -> Any:
        """The answer where nothing is wrong."""

    def service(self, handler_call_details: Any) -> Any:
        """How a method is answered (grpc.GenericRpcHandler)."""
        request = self.requests.get(handler_call_details.method)
        if request is None:
            return None
        method = handler_call_details.method.rpartition("/")[2]
        streams = method in self.streaming
        make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler

        def one(asked: Any, context: grpc.ServicerContext) -> Any:
            self.asked.append(method)
            refusal = self._answer(method, asked)
            if refusal is not None:
                refuse(context, refusal)
            return self.well(method, asked, context)

        def many(asked: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            yield one(asked, context)

        return make(
            many if streams else one,
            request_deserializer=request.pb().FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )


def refuse(context: grpc.ServicerContext, refusal: Refusal) -> None:
    """End a call as Google does."""
    status = status_pb2.Status(code=refusal.code.value[0], message=refusal.message)
    if refusal.reason:
        info = error_details_pb2.ErrorInfo(reason=refusal.reason, domain="googleapis.com")
        status.details.add().Pack(info)
    context.abort_with_status(rpc_status.to_status(status))
