"""What callers may name and say; whatever they give, they get a record or a refusal, never a crash."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samvad import limits
from samvad.errors import InvalidId, InvalidRequest, MissingFields, TooLarge
from samvad.sessions.validation import check_id, check_object, new_message
from samvad.testing.conformance.data import HOSTILE_IDS

MESSAGE = {"role": "user", "content": "x"}


@pytest.mark.parametrize("name", HOSTILE_IDS)
def test_ids_are_data(name: str) -> None:
    """Whatever an id looks like, it is an id, and stays what it is."""
    assert check_id(name, "userId") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        " a",
        "a ",
        "a\t",
        "\u00a0a",
        "a\u3000",
        "\u2003",
        ".",
        "..",
        "a/b",
        "/",
        "a\nb",
        "a\0b",
        "\x7f",
        "a\x85b",
        "\x1b[0m",
        "\ud800",
        "x" * 257,
        "\u0917" * 86,
        *sorted(limits.RESERVED_IDS),
        None,
        7,
        b"asha",
        ["a"],
    ],
)
def test_what_is_no_id_is_refused(name: Any) -> None:
    """Empty, too long, with control characters, slashes or white space at the ends, reserved, or no text at all."""
    with pytest.raises(InvalidId):
        check_id(name, "userId")


def test_an_id_is_measured_in_bytes() -> None:
    """256 bytes of UTF-8, not characters."""
    for name in ("x" * 256, "\u0917" * 85, "\U0001f600" * 64):
        assert check_id(name, "userId") == name
        with pytest.raises(InvalidId):
            check_id(name + "\u0917", "userId")


@given(name=st.text(st.characters(), max_size=300))
def test_any_text_is_an_id_or_refused(name: str) -> None:
    """What is taken obeys the rule of the contract."""
    try:
        check_id(name, "userId")
    except InvalidId:
        return
    assert 1 <= len(name.encode()) <= 256
    assert "/" not in name
    assert name == name.strip()
    assert name not in {".", "..", *limits.RESERVED_IDS}
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name)


def nested(depth: int) -> Any:
    """An object in an object, so deep."""
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        [],
        "text",
        None,
        {1: 2},
        {"a": {1: 2}},
        {"a": math.nan},
        {"a": [math.inf]},
        {"a": "\ud800"},
        {"\udfff": 1},
        {"a": b"bytes"},
        {"a": {1, 2}},
        {"a": object()},
        nested(limits.JSON_DEPTH_MAX + 2),
        nested(100_000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_json_object_is_refused(value: Any) -> None:
    """What JSON cannot write, or nests too deeply, is told to the caller, not to the encoder."""
    with pytest.raises(InvalidRequest):
        check_object(value, "The state")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=st.dictionaries(st.text(), _json, max_size=4))
def test_a_json_object_is_kept_as_it_is(value: dict[str, Any]) -> None:
    """Any JSON object passes, and what is written of it reads the same."""
    assert msgspec.json.decode(msgspec.json.encode(check_object(value, "The state"))) == value


def test_a_message_needs_role_and_content() -> None:
    """What is missing is named, all of it."""
    for message, fields in (
        ({}, ["role", "content"]),
        ({"role": "user"}, ["content"]),
        ({"content": "x"}, ["role"]),
        ({"role": None, "content": "x"}, ["role"]),
    ):
        with pytest.raises(MissingFields) as refused:
            new_message(message)
        assert refused.value.details["fields"] == fields


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "robot"},
        {"role": 1},
        {"role": ["user"]},
        {"content": ""},
        {"content": 1},
        {"content": ["x"]},
        {"content": "\ud800"},
        {"id": ""},
        {"id": 7},
        {"id": "a/b"},
        {"sessionId": ""},
        {"sessionId": 7},
        {"name": 7},
        {"metadata": []},
        {"metadata": "x"},
        {"extra": math.nan},
        {"extra": nested(40)},
        {"role": "user", "toolCalls": []},
        {"role": "assistant", "toolCalls": {}},
        {"role": "assistant", "toolCalls": [1]},
        {"role": "assistant", "toolCalls": [{"id": "c"}]},
        {"role": "assistant", "toolCalls": [{"id": "", "name": "n"}]},
        {"role": "assistant", "toolCalls": [{"id": 1, "name": "n"}]},
        {"role": "user", "toolCallId": "c"},
        {"role": "tool", "toolCallId": ""},
        {"role": "tool", "toolCallId": 1},
    ],
    ids=str,
)
def test_a_malformed_message_is_refused(fields: dict[str, Any]) -> None:
    """Each field is checked for what it must be."""
    with pytest.raises(InvalidRequest):
        new_message(MESSAGE | fields)


def test_the_bounds_of_a_message() -> None:
    """64 KiB of content in bytes, and as much beside it."""
    most = limits.CONTENT_BYTES_MAX
    for content in ("x" * most, "\u0917" * (most // 3)):
        assert new_message({"role": "user", "content": content}).content == content
        with pytest.raises(TooLarge):
            new_message({"role": "user", "content": content + "\u0917"})
    with pytest.raises(TooLarge):
        new_message(MESSAGE | {"metadata": {"a": "x" * limits.MESSAGE_FIELDS_BYTES_MAX}})


def test_other_fields_are_kept_and_the_servers_ignored() -> None:
    """Seq and timestamp are the server's; a null means that an optional field is not given; all else is kept."""
    message = new_message(
        MESSAGE | {"seq": 9, "timestamp": "never", "mood": "glad", "metadata": None, "a": {"b": [1, None]}}
    )
    assert message.fields == {"mood": "glad", "a": {"b": [1, None]}}
    assert message.id is None
    assert new_message(MESSAGE | {"id": "mine"}).id == "mine"


@given(
    message=st.dictionaries(
        st.sampled_from(["role", "content", "id", "name", "toolCalls", "sessionId"]), _json
    )
)
def test_any_object_is_a_message_or_refused(message: dict[str, Any]) -> None:
    """Nothing that JSON can say makes the check crash."""
    try:
        new_message({"role": "assistant", "content": "x"} | message)
    except (InvalidRequest, TooLarge):
        return


@pytest.mark.parametrize("message", [5, None, "text", [], ["role", "content"]])
def test_what_is_no_object_is_no_message(message: Any) -> None:
    """A message is a JSON object."""
    with pytest.raises(InvalidRequest):
        new_message(message)
