"""The rules of a user's record: the window, ids, order, merging and versions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samvad import limits
from samvad.errors import NotFound, PreconditionFailed, TooLarge
from samvad.records import MessagesAdded, SessionTouched, StoredMessage, UserRecord, Version
from samvad.sessions import user_log
from samvad.sessions.operations import (
    AppendMessages,
    EndSession,
    EraseUser,
    NewMessage,
    RemoveSession,
    SavePreferences,
    SaveSession,
    SaveState,
)
from samvad.sessions.user_log import Rules, apply, loaded, merge_patch
from samvad.sessions.window import window_bytes

RULES = Rules()
EMPTY = UserRecord(Version(0, 0))
CALL = {"toolCalls": [{"id": "c", "name": "rate"}]}
ANSWER = {"toolCallId": "c"}


def said(
    message_id: str | None = None, fields: dict[str, Any] | None = None, at_ms: int | None = None
) -> NewMessage:
    """A message of the user, or one that calls or answers a tool."""
    fields = fields or {}
    role = "assistant" if "toolCalls" in fields else "tool" if "toolCallId" in fields else "user"
    return NewMessage(message_id, "0" * 20, role, "said", fields, at_ms)


def append(
    record: UserRecord, *messages: NewMessage, at_ms: int = 1, rules: Rules = RULES, known: Any = None
) -> Any:
    """What appending comes to."""
    return apply(record, AppendMessages(at_ms=at_ms, messages=messages, known=known or {}), rules)


batches = st.lists(
    st.lists(st.sampled_from([None, None, CALL, ANSWER, ANSWER]), min_size=1, max_size=12), max_size=40
)


@given(batches=batches, cap=st.integers(1, 12))
def test_the_window_is_the_last_messages_less_leading_orphans(batches: list[list[Any]], cap: int) -> None:
    """After every operation: the last messages, less answers at the start whose call fell off; seq has no hole."""
    rules = Rules(window=cap)
    record, history = EMPTY, list[StoredMessage]()
    for batch in batches:
        applied = append(record, *(said(fields=fields) for fields in batch), rules=rules)
        record = applied.record
        (added,) = [change for change in applied.changes if isinstance(change, MessagesAdded)]
        history += added.messages
        assert [m.seq for m in history] == list(range(1, len(history) + 1))
        expected = history[-cap:]
        while expected and expected[0].seq > 1 and expected[0].answers is not None:
            del expected[0]
        assert list(record.window) == expected
        assert record.seq == len(history)
        assert record.window_bytes == window_bytes(record.window)
        # A store that is asked for the window hands over the same.
        again = loaded(UserRecord(record.version, record.seq, early=tuple(history[-cap:])), rules)
        assert (again.window, again.window_bytes) == (record.window, record.window_bytes)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_never_101(size: int) -> None:
    """However many messages come at once, the window holds at most the last 100."""
    record = EMPTY
    for _ in range(0, 350, size):
        record = append(record, *[said()] * size).record
        assert len(record.window) == min(record.seq, limits.WINDOW_MESSAGES)
        assert record.window[-1].seq == record.seq
        assert record.window[0].seq == max(1, record.seq - 99)


def test_a_window_of_answers_alone_is_empty() -> None:
    """More answers than the window holds leave nothing of it, and it fills again behind them."""
    record = append(EMPTY, said(fields=CALL)).record
    for _ in range(103):
        record = append(record, said(fields=ANSWER)).record
    assert (record.seq, record.window, record.window_bytes) == (104, (), 0)
    assert [m.seq for m in append(record, said()).record.window] == [105]


# --- ids ---------------------------------------------------------------------------------------------------


def test_the_same_id_is_the_same_message() -> None:
    """An id that is in the window, or came earlier in the batch, adds nothing and is told where it stands."""
    record = append(EMPTY, said("a"), said("b")).record
    applied = append(record, said("b"), said("c"), said("c"), said("a"))
    assert [(o.message_id, o.seq, o.duplicate) for o in applied.outcome] == [
        ("b", 2, True),
        ("c", 3, False),
        ("c", 3, True),
        ("a", 1, True),
    ]
    assert [m.id for m in applied.record.window] == ["a", "b", "c"]
    again = append(applied.record, said("a"))
    assert again.changes == ()
    assert again.record == applied.record


def test_an_id_behind_the_window_is_left_to_the_store() -> None:
    """Where the window does not reach back to the first message, ids in it are duplicates and others unproven."""
    rules = Rules(window=3)
    record = append(EMPTY, *(said(f"m{n}") for n in range(1, 6)), rules=rules).record
    applied = append(record, said("m1"), said("m4"), said("new"), said(), rules=rules)
    (added,) = [change for change in applied.changes if isinstance(change, MessagesAdded)]
    assert added.unproven == ("m1", "new")
    # The store knows m1 and says so: then only the others are new.
    told = append(record, said("m1"), said("m4"), said("new"), said(), rules=rules, known={"m1": 1})
    assert [(o.seq, o.duplicate) for o in told.outcome] == [(1, True), (4, True), (6, False), (7, False)]


def test_a_batch_of_known_ids_keeps_its_place() -> None:
    """A batch that is sent again after more was said answers with the first places, and changes nothing."""
    batch = [said(f"m{n}") for n in range(50)]
    record = append(EMPTY, *batch).record
    first = append(EMPTY, *batch).outcome
    record = append(record, said()).record
    again = append(record, *batch)
    assert [o.seq for o in again.outcome] == [o.seq for o in first]
    assert again.changes == ()


# --- time --------------------------------------------------------------------------------------------------


@given(times=st.lists(st.integers(0, 1_000), min_size=1, max_size=20))
def test_time_never_runs_backwards(times: list[int]) -> None:
    """A clock that jumps back leaves timestamps in the order of seq, and lastUpdated where it was."""
    record, latest = EMPTY, 0
    for at_ms in times:
        record = append(record, said(), at_ms=at_ms).record
        latest = max(latest, at_ms)
        assert record.window[-1].at_ms == latest
        assert record.profile is not None
        assert record.profile.updated_ms == latest
    assert record.profile is not None
    assert record.profile.created_ms == times[0]


# --- merging -----------------------------------------------------------------------------------------------

RFC_7396_APPENDIX_A = [
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"),
    ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
    ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('["a","b"]', '["c","d"]', '["c","d"]'),
    ('{"a":"b"}', '["c"]', '["c"]'),
    ('{"a":"foo"}', "null", "null"),
    ('{"a":"foo"}', '"bar"', '"bar"'),
    ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
    ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
]


@pytest.mark.parametrize(("target", "patch", "result"), RFC_7396_APPENDIX_A)
def test_merge_patch_as_in_the_rfc(target: str, patch: str, result: str) -> None:
    """Every example of RFC 7396, appendix A."""
    before = json.loads(target)
    assert merge_patch(before, json.loads(patch)) == json.loads(result)
    assert before == json.loads(target), "the target itself is left as it was"


def test_a_state_is_merged_or_replaced() -> None:
    """Merging is RFC 7396, from the first save on; replacing leaves nothing of before; the server's fields stay out."""
    first = apply(
        EMPTY, SaveState(at_ms=1, patch={"a": {"x": 1, "y": None}, "n": None, "version": 9}), Rules()
    )
    assert first.record.state is not None
    assert json.loads(first.record.state.body) == {"a": {"x": 1}}
    second = apply(first.record, SaveState(at_ms=2, patch={"a": {"z": 2}, "userId": "other"}), Rules())
    assert second.record.state is not None
    assert json.loads(second.record.state.body) == {"a": {"x": 1, "z": 2}}
    third = apply(second.record, SaveState(at_ms=0, patch={"b": 1, "isActive": 0}, replace=True), Rules())
    assert third.record.state is not None
    assert json.loads(third.record.state.body) == {"b": 1}
    assert [step.outcome.version for step in (first, second, third)] == [1, 2, 3]
    assert third.record.state.updated_ms == 2
    assert len({step.outcome.etag for step in (first, second, third)}) == 3


def test_the_conditions_of_a_state() -> None:
    """If-Match accepts the current tag or any with *, never where there is no state; if_absent only then."""

    def save(record: UserRecord, **conditions: Any) -> UserRecord:
        return apply(record, SaveState(at_ms=1, patch={"a": 1}, **conditions), Rules()).record

    for conditions in ({"if_match": ("*",)}, {"if_match": ('"0-0"',)}):
        with pytest.raises(PreconditionFailed):
            save(EMPTY, **conditions)
    record = save(EMPTY, if_absent=True)
    for conditions in (
        {"if_absent": True},
        {"if_match": ('"0-2"',)},
        {"if_match": ('"1-1"',)},
        {"if_match": ()},
    ):
        with pytest.raises(PreconditionFailed):
            save(record, **conditions)
    record = save(record, if_match=('"9-9"', '"0-1"'))
    assert save(record, if_match=("*",)).state is not None
    # The tag of an earlier life is not that of this one, whose versions begin at 1 again.
    reborn = save(apply(record, EraseUser(at_ms=1), Rules()).record)
    with pytest.raises(PreconditionFailed):
        save(reborn, if_match=('"0-1"',))


def test_what_is_saved_is_bounded() -> None:
    """State, preferences and sessions that would grow past their bounds are refused, and nothing changes."""
    rules = Rules()
    half = {"a": "x" * (limits.STATE_BYTES_MAX // 2)}
    record = apply(EMPTY, SaveState(at_ms=1, patch=half), rules).record
    with pytest.raises(TooLarge):
        apply(record, SaveState(at_ms=1, patch={"b": half["a"]}), rules)
    with pytest.raises(TooLarge):
        apply(EMPTY, SavePreferences(at_ms=1, patch={"a": "x" * limits.PREFERENCES_BYTES_MAX}), rules)
    with pytest.raises(TooLarge):
        fields = {"a": "x" * limits.SESSION_BYTES_MAX}
        apply(EMPTY, SaveSession(at_ms=1, session_id="s", user_id="u", fields=fields), rules)


# --- sessions ----------------------------------------------------------------------------------------------


def test_a_session_is_merged_reopened_and_touched() -> None:
    """Fields merge, ending is kept until it is saved again, and only an open session is touched by a message."""
    rules = Rules(language="hi")
    save = SaveSession(at_ms=1, session_id="s", user_id="u", fields={"metadata": {"a": 1}, "x": 1})
    record = apply(EMPTY, save, rules).record
    session = record.sessions["s"]
    assert json.loads(session.body) == {"metadata": {"a": 1}, "x": 1, "language": "hi"}
    applied = append(record, said(fields={"sessionId": "s"}), at_ms=5)
    assert applied.changes[-1] == SessionTouched("s", 5)
    record = apply(applied.record, EndSession(at_ms=7, session_id="s"), rules).record
    assert record.sessions["s"].ended_ms == 7
    assert apply(record, EndSession(at_ms=9, session_id="s"), rules).changes == ()
    touched = append(record, said(fields={"sessionId": "s"}), at_ms=8)
    assert not [change for change in touched.changes if isinstance(change, SessionTouched)]
    fields = {"metadata": {"b": 2}, "endedAt": "never", "isActive": False}
    record = apply(record, SaveSession(at_ms=9, session_id="s", user_id="u", fields=fields), rules).record
    session = record.sessions["s"]
    assert (session.created_ms, session.active_ms, session.ended_ms) == (1, 9, None)
    assert json.loads(session.body) == {"metadata": {"a": 1, "b": 2}, "x": 1, "language": "hi"}
    record = apply(record, RemoveSession(at_ms=9, session_id="s"), rules).record
    for operation in (EndSession(at_ms=9, session_id="s"), RemoveSession(at_ms=9, session_id="s")):
        with pytest.raises(NotFound):
            apply(record, operation, rules)


def test_a_record_holds_a_bounded_number_of_sessions() -> None:
    """Beyond the bound the ended and then the oldest go; with an open one gone, the record says it has not all."""
    record, rules = EMPTY, Rules()
    most = limits.SESSIONS_IN_RECORD_MAX
    for n in range(most):
        record = apply(record, SaveSession(at_ms=n, session_id=f"s{n}", user_id="u", fields={}), rules).record
    record = apply(record, EndSession(at_ms=most, session_id="s9"), rules).record
    record = apply(record, SaveSession(at_ms=most, session_id="new", user_id="u", fields={}), rules).record
    assert record.sessions_complete
    assert "s9" not in record.sessions
    record = apply(record, SaveSession(at_ms=most, session_id="newer", user_id="u", fields={}), rules).record
    assert not record.sessions_complete
    assert "s0" not in record.sessions
    assert len(record.sessions) == most


# --- versions ----------------------------------------------------------------------------------------------


def test_the_version_counts_what_is_written() -> None:
    """Each change moves the revision by one; nothing written, nothing moved; erasing begins the next epoch."""
    rules = Rules()
    record = append(EMPTY, said("a")).record
    assert record.version == Version(0, 1)
    assert append(record, said("a")).record.version == Version(0, 1)
    record = apply(record, SaveState(at_ms=1, patch={}), rules).record
    assert record.version == Version(0, 2)
    erased = apply(record, EraseUser(at_ms=1), rules)
    assert erased.record == UserRecord(Version(1, 0))
    assert apply(erased.record, EraseUser(at_ms=1), rules).changes == ()
    assert user_log.etag(1, 2) == '"1-2"'
