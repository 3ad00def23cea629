"""What callers may name and say: ids, roles, messages, JSON objects. Every refusal says what to do."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

import msgspec

from samvad import limits
from samvad.clock import random_hex
from samvad.errors import InvalidId, InvalidRequest, MissingFields, TooLarge
from samvad.sessions.content import KEPT, read_back
from samvad.sessions.operations import NewMessage
from samvad.sessions.user_log import MESSAGE_FIELDS
from samvad.types import ROLES

_INTEGER_BITS_MAX = 14_000  # Python writes integers of up to 4,300 digits
_SPECIAL = frozenset(" .")  # at the start of an id: it may be one that cannot be
_CONTROL = frozenset(chr(c) for c in range(0xA0) if unicodedata.category(chr(c)) == "Cc")


def check_id(value: object, what: str) -> str:
    """The id itself if it may be one (CONTRACT section 1, Ids); InvalidId otherwise."""
    if not isinstance(value, str):
        raise InvalidId(f"{what} must be a string.")
    if not (
        value.isascii()
        and value.isprintable()
        and 0 < len(value) <= limits.ID_BYTES_MAX
        and value[0] not in _SPECIAL
        and value[-1] != " "
        and "/" not in value
    ):  # few ids: they are looked at more closely
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidId(f"{what} is not valid Unicode.") from None
        if not 1 <= size <= limits.ID_BYTES_MAX:
            raise InvalidId(f"{what} must be 1 to {limits.ID_BYTES_MAX} bytes of UTF-8; this one has {size}.")
        if "/" in value or not _CONTROL.isdisjoint(value) or value.strip() != value or value in (".", ".."):
            raise InvalidId(
                f"{what} may not hold '/' or control characters, start or end with white space, or be '.' or '..'."
            )
    if value in limits.RESERVED_IDS:
        raise InvalidId(f"{what} may not be {value!r}: the word is reserved.")
    return value


def check_object(value: object, what: str, bytes_max: int | None = None) -> dict[str, Any]:
    """The JSON object itself, if it is one, not nested too deeply, and not to be taken for one that was sealed.

    TooLarge where it takes more than `bytes_max`.
    """
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{what} must be a JSON object.")
    if bytes_max is not None and (size := _size(value)) > bytes_max:
        raise TooLarge(f"{what} may take {bytes_max} bytes at most; this would take {size}.")
    _check_reserved(value, what)
    check_json(value, what, limits.JSON_DEPTH_MAX)
    return dict(value)


def _check_reserved(value: Mapping[Any, Any], what: str) -> None:
    """A member of that name is how what was sealed is known (null removes one: that is kept nowhere)."""
    if value.get(limits.RESERVED_MEMBER) is not None:
        raise InvalidRequest(
            f"{what} may not have a member {limits.RESERVED_MEMBER!r}: the name is reserved."
        )


def _size(value: object) -> int:
    """How many bytes it takes as JSON; 0 where it is none, of which `check_json` says why.

    Found out first: looking at each of the millions of values that a body has room for holds up everybody else.
    """
    try:
        return len(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return 0


def check_json(value: object, what: str, depth: int) -> None:
    """InvalidRequest if a value cannot be JSON (RFC 8259), or is nested more deeply than `depth`."""
    if depth < 0:
        raise InvalidRequest(f"{what} is nested more deeply than {limits.JSON_DEPTH_MAX} levels.")
    if isinstance(value, Mapping):
        for name, member in value.items():
            if not isinstance(name, str):
                raise InvalidRequest(f"{what} has a member whose name is not a string: {name!r}.")
            check_json(name, what, depth)
            check_json(member, what, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            check_json(item, what, depth - 1)
    elif isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InvalidRequest(f"{what} holds text that is not valid Unicode.") from None
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest(f"{what} holds a number that JSON cannot write ({value}).")
    elif isinstance(value, int):
        if value.bit_length() > _INTEGER_BITS_MAX:
            raise InvalidRequest(f"{what} holds an integer of more than {_INTEGER_BITS_MAX} bits.")
    elif value is not None:
        raise InvalidRequest(f"{what} holds something that JSON cannot write: {type(value).__name__}.")


def new_message(message: Mapping[str, Any], *, at_ms: int | None = None) -> NewMessage:
    """A message as a caller gave it (field names as on the wire), checked; a missing id is made.

    Raises MissingFields, InvalidRequest, InvalidId or TooLarge.
    """
    if not isinstance(message, _OBJECT):
        raise InvalidRequest("A message must be a JSON object.")
    role = message.get("role")
    content = message.get("content")
    if role is None or content is None:
        raise MissingFields(*(name for name in ("role", "content") if message.get(name) is None))
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidRequest("role must be one of 'user', 'assistant', 'system' and 'tool'.")
    if not isinstance(content, str):
        raise InvalidRequest("content must be a string.")
    if not content:
        raise InvalidRequest("content must not be empty.")
    if not content.isascii() or len(content) > limits.CONTENT_BYTES_MAX:
        try:
            size = len(content.encode())
        except UnicodeEncodeError:
            raise InvalidRequest("content is not valid Unicode.") from None
        if size > limits.CONTENT_BYTES_MAX:
            raise TooLarge(
                f"content may take {limits.CONTENT_BYTES_MAX} bytes of UTF-8; this one has {size}."
            )
    if len(message) == 2:
        return NewMessage(None, random_hex(), role, content, {}, at_ms)
    message_id = message.get("id")
    not_given = _NOT_TAKEN | {name for name in _OPTIONAL if message.get(name) is None}
    fields = {name: v for name, v in message.items() if name not in not_given}
    if fields:
        _check_fields(fields, role)
    if message_id is None:
        return NewMessage(None, random_hex(), role, content, fields, at_ms)
    return NewMessage(check_id(message_id, "id"), "", role, content, fields, at_ms)


def imported_message(message: Mapping[str, Any], *, at_ms: int | None = None) -> NewMessage:
    """As `new_message`; one that was kept without its content somewhere else stays what it is."""
    unkept = read_back(message) if isinstance(message, _OBJECT) else None
    if unkept is None:
        return new_message(message, at_ms=at_ms)
    told = new_message({**message, "content": "-"}, at_ms=at_ms)
    return msgspec.structs.replace(told, content="", fields=unkept)


_OBJECT = (dict, Mapping)  # asking an abstract class costs ten times as much: the plain one comes first
# What the server says of a message that stands there without its content: nobody else can.
_NOT_TAKEN = MESSAGE_FIELDS | {KEPT, "contentLength", "contentChars", "unreadable"}
_OPTIONAL = frozenset({"sessionId", "name", "metadata", "toolCalls", "toolCallId"})  # null: not given


def _check_fields(fields: dict[str, Any], role: str) -> None:
    if "sessionId" in fields:
        check_id(fields["sessionId"], "sessionId")
    if (size := _size(fields)) > limits.MESSAGE_FIELDS_BYTES_MAX:
        raise TooLarge(
            f"All fields beside content may take {limits.MESSAGE_FIELDS_BYTES_MAX} bytes; these take {size}."
        )
    _check_reserved(fields, "The message")
    check_json(fields, "The message", limits.JSON_DEPTH_MAX)
    if not isinstance(fields.get("name", ""), str):
        raise InvalidRequest("name must be a string.")
    if not isinstance(fields.get("metadata", {}), dict):
        raise InvalidRequest("metadata must be a JSON object.")
    calls = fields.get("toolCalls")
    if calls is not None:
        if role != "assistant":
            raise InvalidRequest("toolCalls belongs in an assistant message.")
        if not isinstance(calls, list) or not all(
            isinstance(call, dict)
            and isinstance(call.get("id"), str)
            and isinstance(call.get("name"), str)
            and call["id"]
            and call["name"]
            for call in calls
        ):
            raise InvalidRequest(
                "toolCalls must be a list of {id, name, arguments}, id and name being strings."
            )
    answers = fields.get("toolCallId")
    if answers is not None:
        if role != "tool":
            raise InvalidRequest("toolCallId belongs in a tool message.")
        if not isinstance(answers, str) or not answers:
            raise InvalidRequest("toolCallId must be a string.")
