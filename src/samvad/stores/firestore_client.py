"""Firestore's three calls (get, query, commit), each bounded in total time and made as often as this file says.

The calls go over Google's gRPC channel and message classes, without the client library's wrappers: its retries
apply increments twice and outlast every timeout, and decoding through it costs 0.3 ms of CPU a document.
https://cloud.google.com/firestore/docs/reference/rpc/google.firestore.v1

A read is repeated with full jitter until its time is up. A commit is sent once: whether to send it again is for
the caller to decide, who can look whether it was done.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import google.auth
import google.auth.exceptions
import grpc  # type: ignore[import-untyped]
from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcAsyncIOTransport
from google.cloud.firestore_v1.types import document as document_types
from google.cloud.firestore_v1.types import firestore as rpc_types
from google.cloud.firestore_v1.types import write as write_types

from samvad.errors import SamvadError, SetupError, ShuttingDown, StoreUnavailable
from samvad.stores.firestore_names import Names
from samvad.stores.firestore_queries import QueryShape, shape

# The plain protobuf classes behind Google's wrappers: the same messages, ten times faster.
Value: Any = document_types.Value.pb()
Document: Any = document_types.Document.pb()
Write: Any = write_types.Write.pb()
_SERVICE: Final = "/google.firestore.v1.Firestore/"
_CALLS: Final[dict[str, tuple[Any, Any]]] = {
    "Commit": (rpc_types.CommitRequest.pb(), rpc_types.CommitResponse.pb()),
    "BatchGetDocuments": (
        rpc_types.BatchGetDocumentsRequest.pb(),
        rpc_types.BatchGetDocumentsResponse.pb(),
    ),
    "Listen": (rpc_types.ListenRequest.pb(), rpc_types.ListenResponse.pb()),
    "RunQuery": (rpc_types.RunQueryRequest.pb(), rpc_types.RunQueryResponse.pb()),
    "RunAggregationQuery": (
        rpc_types.RunAggregationQueryRequest.pb(),
        rpc_types.RunAggregationQueryResponse.pb(),
    ),
}
_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
    # A database that comes back is found again within 2 s; the default waits up to 2 minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Channels of one process share their connections otherwise, and with them a hanging one.
    ("grpc.use_local_subchannel_pool", 1),
)
_BACKOFF_S: Final = 0.05
_BACKOFF_S_MAX: Final = 1.0
_TIMEOUTS_BEFORE_NEW_CHANNEL: Final = 2
_ENTRIES_PER_READ: Final = 1_000  # of an aggregation: what one read pays for

_Status = grpc.StatusCode
# Of a commit: a document is not as the write demands. (If it is the database that is not found, or cannot be used
# like this, the next read says so.)
_REFUSED = frozenset({_Status.FAILED_PRECONDITION, _Status.ALREADY_EXISTS, _Status.NOT_FOUND})
# What trying again cannot mend, and an operator can.
_MISCONFIGURED = frozenset({_Status.PERMISSION_DENIED, _Status.UNAUTHENTICATED, _Status.NOT_FOUND})
_IMPOSSIBLE = frozenset({_Status.INVALID_ARGUMENT, _Status.OUT_OF_RANGE, _Status.UNIMPLEMENTED})

_T = TypeVar("_T")


class CommitRefused(Exception):
    """A precondition did not hold: nothing of the commit was written, unless an earlier attempt of it was."""


class CommitAmbiguous(Exception):
    """No answer: the commit was written, or was not, or will be."""


class Operations:
    """What was really done, as Firestore bills it, and how many calls were made for it."""

    def __init__(self) -> None:
        self.calls = 0
        self.reads = 0
        self.writes = 0
        self.deletes = 0

    def __repr__(self) -> str:
        return f"calls={self.calls} reads={self.reads} writes={self.writes} deletes={self.deletes}"


class Found(NamedTuple):
    """Documents by name (None: there is none), and the moment of which they are."""

    documents: dict[str, Any]
    read_time: Any


class BoundedClient:
    """One database. Made for the event loop that opens it.

    `call_timeout_s` bounds a call with all its attempts, of which there are at most `attempts_max`;
    `attempt_timeout_s` bounds one attempt.
    """

    def __init__(
        self,
        names: Names,
        *,
        call_timeout_s: float,
        attempt_timeout_s: float,
        attempts_max: int,
        emulator_host: str | None,
    ) -> None:
        self._names = names
        self.call_timeout_s = call_timeout_s
        self.attempt_timeout_s = attempt_timeout_s
        self.attempts_max = attempts_max
        self._emulator_host = emulator_host or os.environ.get("FIRESTORE_EMULATOR_HOST")
        self._credentials: Any = None
        self._channel: Any = None
        self._stubs: dict[str, Callable[..., Any]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._timeouts = 0
        self._metadata: tuple[tuple[str, str], ...] = ()
        self.operations = Operations()
        self.shapes: set[QueryShape] = set()
        self.fault: str | None = None
        self.misconfigured = False
        self.answered_s = float("-inf")

    # --- life ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the channel; SetupError without credentials. Nothing is sent yet."""
        database = self._names.database
        metadata = [
            ("google-cloud-resource-prefix", database),
            ("x-goog-request-params", f"database={database}"),
        ]
        if self._emulator_host:
            metadata.append(("authorization", "Bearer owner"))
        elif self._credentials is None:
            try:
                self._credentials, _ = google.auth.default(scopes=FirestoreGrpcAsyncIOTransport.AUTH_SCOPES)
            except google.auth.exceptions.DefaultCredentialsError as error:
                if named := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
                    raise SetupError(
                        f"GOOGLE_APPLICATION_CREDENTIALS is {named}, and {_no_credentials(Path(named))}; set it to the "
                        "file of a service account, or unset it and run `gcloud auth application-default login`."
                    ) from error
                raise SetupError(
                    "There are no credentials for Firestore: run `gcloud auth application-default login`, "
                    "or set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account."
                ) from error
        self._metadata = tuple(metadata)
        self._connect()

    def _connect(self) -> None:
        if self._emulator_host:
            self._channel = grpc.aio.insecure_channel(self._emulator_host, options=_OPTIONS)
        else:
            self._channel = FirestoreGrpcAsyncIOTransport.create_channel(
                credentials=self._credentials, options=_OPTIONS
            )
        self._stubs = {}
        for call, (request, response) in _CALLS.items():
            kind = self._channel.unary_unary if call == "Commit" else self._channel.unary_stream
            if call == "Listen":
                kind = self._channel.stream_stream
            self._stubs[call] = kind(
                _SERVICE + call,
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )

    @property
    def account(self) -> str:
        """The service account whose credentials these are; empty where they are a person's, or there are none."""
        email = getattr(self._credentials, "service_account_email", "") or ""
        return "" if email == "default" else str(email)

    async def close(self) -> None:
        """Let the connection go. Closing twice is fine."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    def deadline(self, timeout_s: float | None = None) -> float:
        """When a call that begins now must end, on the event loop's clock."""
        return asyncio.get_running_loop().time() + min(timeout_s or self.call_timeout_s, self.call_timeout_s)

    # --- one attempt -----------------------------------------------------------------------------------

    def _timeout_s(self, deadline: float) -> float:
        left_s = deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise StoreUnavailable(self._unreachable("no answer in time"))
        return min(self.attempt_timeout_s, left_s)

    def _unreachable(self, why: str) -> str:
        self.fault = why
        return f"Firestore cannot be reached ({why}); nothing was acknowledged, try again soon."

    def _call(self, call: str, request: Any, deadline: float) -> Any:
        if self._channel is None:
            raise ShuttingDown
        timeout_s = self._timeout_s(deadline)
        self.operations.calls += 1
        return self._stubs[call](request, timeout=timeout_s, metadata=self._metadata)

    def heard(self) -> None:
        """Take note that Firestore answers."""
        self._timeouts = 0
        self.fault = None
        self.misconfigured = False
        self.answered_s = asyncio.get_running_loop().time()

    def _failed(self, error: grpc.aio.AioRpcError) -> None:
        """Take note of a failure; StoreUnavailable or SamvadError where trying again at once cannot help."""
        status = error.code()
        self.fault = status.name
        self.misconfigured = status in _MISCONFIGURED
        if self.misconfigured:
            raise StoreUnavailable(f"Firestore refuses the project or its credentials: {_details(error)}")
        if status in _IMPOSSIBLE:
            raise SamvadError(f"Firestore refuses this call for ever: {_details(error)}")
        if status is _Status.FAILED_PRECONDITION:  # of a read: no index, or a database in Datastore mode
            self.misconfigured = True
            raise StoreUnavailable(f"Firestore cannot answer this: {_details(error)}")
        if status is _Status.DEADLINE_EXCEEDED:
            self._timeouts += 1
            if self._timeouts >= _TIMEOUTS_BEFORE_NEW_CHANNEL:
                self._renew()

    def _renew(self) -> None:
        """Leave a connection on which nothing comes back; what is under way on it may still end."""
        self._timeouts = 0
        channel = self._channel
        if channel is None:
            return
        self._connect()
        task = asyncio.create_task(channel.close(self.attempt_timeout_s))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def pause(self, attempt: int, deadline: float) -> None:
        """Wait after a failed attempt; StoreUnavailable if it was the last one, or time is up."""
        if attempt + 1 >= self.attempts_max:
            raise StoreUnavailable(self._unreachable(self.fault or "too many attempts"))
        await self.give_way(attempt, deadline)

    async def give_way(self, attempt: int, deadline: float) -> None:
        """Wait because another writer was first: full jitter; StoreUnavailable if time is up."""
        wait_s = random.uniform(0, min(_BACKOFF_S_MAX, _BACKOFF_S * 2**attempt))
        if asyncio.get_running_loop().time() + wait_s >= deadline:
            raise StoreUnavailable(self._unreachable(self.fault or "no answer in time"))
        await asyncio.sleep(wait_s)

    async def _read(self, call: str, request: Any, deadline: float) -> list[Any]:
        """All that a call streams back; tried again until the deadline."""
        for attempt in range(self.attempts_max):
            try:
                answers = [answer async for answer in _stream(self._call(call, request, deadline))]
            except grpc.aio.AioRpcError as error:
                self._failed(error)
            except (asyncio.CancelledError, grpc.aio.UsageError):
                if _cancelling():
                    raise
                if self._channel is None:
                    raise ShuttingDown from None
            else:
                self.heard()
                return answers
            await self.pause(attempt, deadline)
        raise StoreUnavailable(self._unreachable("too many attempts"))

    async def attempt(
        self, method: str, request: Any, response: Any, timeout_s: float, *, streams: bool, routed_by: str
    ) -> list[Any]:
        """One attempt of any method of the service, for who wants to see its error as it is: AioRpcError.

        `method` is its whole path, `response` the class of its answers, `routed_by` the field of the request that
        names the database. Nothing is counted or remembered.
        """
        if self._channel is None:
            raise ShuttingDown
        routing = ("x-goog-request-params", f"{routed_by}={self._names.database}")
        metadata = [*(each for each in self._metadata if each[0] != routing[0]), routing]
        kind = self._channel.unary_stream if streams else self._channel.unary_unary
        call = kind(
            method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )(request, timeout=timeout_s, metadata=metadata)
        if streams:
            return [answer async for answer in _stream(call)]
        return [await call]

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Any]:
        """A call of `Listen`, for as long as it lasts; StoreUnavailable where it breaks."""
        if self._channel is None:
            raise ShuttingDown
        self.operations.calls += 1
        call = self._stubs["Listen"](metadata=self._metadata)
        try:
            yield call
        except grpc.aio.AioRpcError as error:
            self._failed(error)
            raise StoreUnavailable(self._unreachable(error.code().name)) from error
        except (asyncio.CancelledError, grpc.aio.UsageError):
            if _cancelling():
                raise
            raise StoreUnavailable(self._unreachable("the channel was closed")) from None
        finally:
            call.cancel()

    # --- the calls -------------------------------------------------------------------------------------

    async def get(
        self,
        names: Iterable[str],
        deadline: float,
        *,
        fields: Sequence[str] | None = None,
        read_time: Any = None,
    ) -> Found:
        """Documents by name, all of one moment (`read_time`, or now); only some `fields` of them if asked."""
        request = _CALLS["BatchGetDocuments"][0](database=self._names.database)
        request.documents.extend(names)
        if fields is not None:
            request.mask.field_paths.extend(fields)
        if read_time is not None:
            request.read_time.CopyFrom(read_time)
        documents: dict[str, Any] = {}
        for answer in await self._read("BatchGetDocuments", request, deadline):
            read_time = answer.read_time
            if answer.HasField("found"):
                documents[answer.found.name] = answer.found
            elif answer.missing:
                documents[answer.missing] = None
        self.operations.reads += len(documents)
        return Found(documents, read_time)

    async def query(self, parent: str, query: Any, deadline: float, *, read_time: Any = None) -> list[Any]:
        """The documents that a query finds below `parent`."""
        self.shapes.add(shape(query))
        request = _CALLS["RunQuery"][0](parent=parent, structured_query=query)
        if read_time is not None:
            request.read_time.CopyFrom(read_time)
        answers = await self._read("RunQuery", request, deadline)
        documents = [answer.document for answer in answers if answer.HasField("document")]
        self.operations.reads += max(1, len(documents))
        return documents

    async def aggregate(self, query: Any, deadline: float, *, sums: Sequence[str] = ()) -> dict[str, int]:
        """How many documents a query finds (`count`), and the sums of some of their fields, by field."""
        self.shapes.add(shape(query, tuple(sums)))
        request = _CALLS["RunAggregationQuery"][0](parent=self._names.root)
        wanted = request.structured_aggregation_query
        wanted.structured_query.CopyFrom(query)
        wanted.aggregations.add(alias="count").count.SetInParent()
        for field in sums:
            wanted.aggregations.add(alias=field).sum.field.field_path = field
        answers = await self._read("RunAggregationQuery", request, deadline)
        fields = answers[0].result.aggregate_fields
        counted = {name: int(value.integer_value or value.double_value) for name, value in fields.items()}
        self.operations.reads += max(1, -(-counted["count"] // _ENTRIES_PER_READ))
        return counted

    async def commit(self, writes: Sequence[Any], deadline: float) -> list[Any]:
        """One attempt to do all of these writes or none; the update time of each.

        Raises CommitRefused where a precondition does not hold, CommitAmbiguous where no answer came, and
        StoreUnavailable or SamvadError where it is certain that nothing was written.
        """
        request = _CALLS["Commit"][0](database=self._names.database)
        request.writes.extend(writes)
        try:
            answer = await self._call("Commit", request, deadline)
        except grpc.aio.AioRpcError as error:
            if error.code() in _REFUSED:
                self.heard()
                raise CommitRefused(error.code().name) from error
            self._failed(error)
            if error.code() is _Status.RESOURCE_EXHAUSTED:
                raise StoreUnavailable(self._unreachable("quota exhausted")) from error
            raise CommitAmbiguous(error.code().name) from error
        except (asyncio.CancelledError, grpc.aio.UsageError) as error:
            if _cancelling():
                raise
            raise CommitAmbiguous("the channel was closed") from error
        self.heard()
        for write in writes:
            if write.delete:
                self.operations.deletes += 1
            else:
                self.operations.writes += 1
        return [result.update_time for result in answer.write_results]

    async def commit_surely(self, writes: Sequence[Any], deadline: float) -> None:
        """Writes that may be done twice: tried again until the deadline; CommitRefused as in `commit`."""
        for attempt in range(self.attempts_max):
            try:
                await self.commit(writes, deadline)
            except CommitAmbiguous:
                await self.pause(attempt, deadline)
            else:
                return


def _cancelling() -> bool:
    """Whether it is this task that is being cancelled, and not the call that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _stream(call: Any) -> AsyncIterator[Any]:
    async for answer in call:
        yield answer


def _details(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"


def _no_credentials(path: Path) -> str:
    """What is wrong with a file that gives no credentials. What is in it is never told."""
    try:
        with path.open("rb"):
            return "that file holds no credentials"
    except OSError as error:
        return f"that file cannot be read ({error.strerror})"
