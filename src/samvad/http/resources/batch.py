"""Many operations over any users in one request, a result for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from samvad import limits
from samvad.errors import InvalidRequest, MissingFields, SamvadError
from samvad.http.access import ANYBODY
from samvad.http.call import Call, Reply, encode
from samvad.http.problems import problem
from samvad.http.resources.sessions import created_answer, session_fields
from samvad.http.resources.users import appended_answer, check_messages
from samvad.http.routing import Route
from samvad.sessions.operations import ReceiptKey
from samvad.types import Appended, StateSaved

Result = dict[str, Any]
BATCH: Final = "batch"
COUNT: Final = (
    "samvad.operations"  # in the scope where rates are limited: counts the operations, before they are run
)


async def batch(call: Call) -> Reply:
    """Run up to 500 operations; those of one user in the order given, those of different users side by side."""
    body = await call.object(limits.BODY_BYTES_MAX)
    operations = body.get("operations")
    if operations is None:
        raise MissingFields("operations")
    if not isinstance(operations, list) or not 1 <= len(operations) <= limits.OPERATIONS_PER_BATCH_MAX:
        raise InvalidRequest(
            f"operations must be a list of 1 to {limits.OPERATIONS_PER_BATCH_MAX} operations."
        )
    count: Callable[[int], Awaitable[None]] | None = call.scope.get(COUNT)
    if count is not None:  # before anything is carried out, or looked up
        await count(len(operations))
    keyed = call.header(b"idempotency-key") is not None
    if keyed:  # the key is of the whole request: with another body not one of its operations is run
        await call.once("", bool, _nothing, keep=True)
    before: dict[tuple[str, str], list[asyncio.Task[Result]]] = {}
    tasks: list[asyncio.Task[Result]] = []
    begun = 0
    for index, operation in enumerate(operations):
        # An append or a state takes its place in the user's lane as soon as it starts, so they may start
        # together. A session first looks up who has its id, and with a key each operation looks up whether
        # it was run before: they wait for what stands before them.
        in_turn = keyed or (isinstance(operation, dict) and operation.get("op") in _IN_TURN)
        waits_for: list[asyncio.Task[Result]] = []
        queues = [before.setdefault(name, []) for name in _concerns(operation)]
        for queue in queues:
            if in_turn:
                waits_for += queue
                queue.clear()
        task = asyncio.create_task(_run(call, index, operation, waits_for))
        for queue in queues:
            queue.append(task)
        tasks.append(task)
        begun += _messages(operation)
        if begun >= _BEGUN_AT_ONCE:
            begun = 0
            await asyncio.sleep(0)  # these begin, and so does what others ask for meanwhile
    results = await asyncio.gather(*tasks)
    answer = {
        "success": all(result["success"] for result in results),
        "count": len(results),
        "failed": sum(not result["success"] for result in results),
        "results": results,
    }
    return Reply(encode(answer))


async def _nothing(receipt: ReceiptKey | None) -> bool:
    return True


def _concerns(operation: object) -> list[tuple[str, str]]:
    """Whose order an operation must keep: its user's and its session's."""
    if not isinstance(operation, dict):
        return []
    named = [(kind, operation.get(kind)) for kind in ("userId", "sessionId")]
    return [(kind, name) for kind, name in named if isinstance(name, str)]


def _messages(operation: object) -> int:
    """How many messages an operation brings; one where it brings something else."""
    messages = operation.get("messages") if isinstance(operation, dict) else None
    return len(messages) if isinstance(messages, list) and messages else 1


async def _run(call: Call, index: int, operation: object, waits_for: list[asyncio.Task[Result]]) -> Result:
    if waits_for:
        await asyncio.wait(waits_for)
    try:
        if not isinstance(operation, dict):
            raise InvalidRequest("An operation must be a JSON object.")
        op = operation.get("op")
        act = _OPERATIONS.get(op) if isinstance(op, str) else None
        if act is None:
            raise InvalidRequest(f"op must be one of {', '.join(_OPERATIONS)}.")
        principal = call.service.principal
        if principal.user is None:  # before a kept answer is looked for
            call.service.need("sessions" if op in _IN_TURN else "users")
        return await act(call, str(index), operation)
    except SamvadError as error:
        return problem(error)


def _need(operation: dict[str, Any], *names: str) -> list[Any]:
    missing = [name for name in names if operation.get(name) is None]
    if missing:
        raise MissingFields(*missing)
    return [operation[name] for name in names]


async def _append(call: Call, part: str, operation: dict[str, Any]) -> Result:
    (user_id,) = _need(operation, "userId")
    many = "messages" in operation
    one = {name: value for name, value in operation.items() if name not in ("op", "userId")}
    messages: Any = operation["messages"] if many else [one]
    check_messages(messages)
    appended = await call.once(
        user_id,
        list[Appended],
        lambda receipt: call.service.append_many(user_id, messages, receipt=receipt),
        part,
    )
    return appended_answer(user_id, appended, many)


async def _state(call: Call, part: str, operation: dict[str, Any]) -> Result:
    user_id, state = _need(operation, "userId", "state")
    replace = operation["op"] == "replaceState"
    verb = call.service.replace_user_state if replace else call.service.save_user_state
    saved = await call.once(user_id, StateSaved, lambda receipt: verb(user_id, state, receipt=receipt), part)
    answer = {
        "success": True,
        "message": "User state saved successfully",
        "userId": user_id,
        "version": saved.version,
        "etag": saved.etag,
        "durability": saved.durability,
    }
    if not saved.content_kept:
        answer["contentKept"] = False
    return answer


async def _preferences(call: Call, part: str, operation: dict[str, Any]) -> Result:
    user_id, preferences = _need(operation, "userId", "preferences")

    async def act(receipt: ReceiptKey | None) -> bool:
        await call.service.save_user_profile(user_id, preferences, receipt=receipt)
        return True

    await call.once(user_id, bool, act, part)
    return {
        "success": True,
        "message": "User profile saved successfully",
        "userId": user_id,
        "durability": call.service.core.rules.durability,
    }


async def _session(call: Call, part: str, operation: dict[str, Any]) -> Result:
    body = {name: value for name, value in operation.items() if name != "op"}
    session_id, user_id, fields = session_fields(body)

    async def act(receipt: ReceiptKey | None) -> bool:
        await call.service.save_session_fields(session_id, user_id, fields, receipt=receipt)
        return True

    await call.once(user_id, bool, act, part)
    return created_answer(call, session_id, user_id)


async def _end_session(call: Call, part: str, operation: dict[str, Any]) -> Result:
    (session_id,) = _need(operation, "sessionId")
    owner = await call.service.find_session_owner(session_id)

    async def act(receipt: ReceiptKey | None) -> bool:
        await call.service.end_session(session_id)
        return True

    await call.once(owner, bool, act, part, keep=True)
    return {
        "success": True,
        "message": "Session ended successfully",
        "sessionId": session_id,
        "durability": call.service.core.rules.durability,
    }


_OPERATIONS: dict[str, Callable[[Call, str, dict[str, Any]], Awaitable[Result]]] = {
    "append": _append,
    "state": _state,
    "replaceState": _state,
    "preferences": _preferences,
    "session": _session,
    "endSession": _end_session,
}
_IN_TURN = ("session", "endSession")
_BEGUN_AT_ONCE: Final = 500  # messages; a few milliseconds

ROUTES = (Route("POST", "/api/session/batch", batch, BATCH, ANYBODY),)
