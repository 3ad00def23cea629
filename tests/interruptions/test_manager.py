"""The stack of interruptions: bounds, order, statuses, ownership."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from samvad import limits
from samvad.clock import rfc3339
from samvad.errors import InvalidId, InvalidRequest, MissingFields, SamvadError, TooLarge
from samvad.interruptions import INTERRUPTION_TYPES, InterruptionContextManager
from samvad.types import Interruption

FULL = "You need two documents for the loan: a proof of identity and a proof of income."
HEARD = "You need two documents for the loan:"
UNHEARD = "a proof of identity and a proof of income."


class FakeClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0

    def now_ms(self) -> int:
        return 1_736_528_400_000 + round(self.elapsed_s * 1000)

    def monotonic_s(self) -> float:
        return self.elapsed_s


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def manager(clock: FakeClock) -> InterruptionContextManager:
    return InterruptionContextManager(clock)


def push(
    manager: InterruptionContextManager, session_id: str = "s", user_id: str = "u", **fields: Any
) -> Interruption:
    given = {"type": "BARGE_IN", "full_text": FULL, "heard_text": HEARD} | fields
    return manager.push(session_id, user_id, **given)


def ids(interruptions: list[Interruption]) -> list[str]:
    return [each.id for each in interruptions]


def test_a_record_holds_all_that_was_reported(manager: InterruptionContextManager, clock: FakeClock) -> None:
    """Every field given is kept, and the rest is worked out."""
    found = push(
        manager,
        type="CLARIFICATION",
        turn_id="t",
        played_ms=4_000,
        generated_ms=10_000,
        user_utterance="which ones?",
        language="en-IN",
        topic="home loans",
    )
    assert msgspec.to_builtins(found) == {
        "id": found.id,
        "sessionId": "s",
        "userId": "u",
        "at": rfc3339(clock.now_ms()),
        "type": "CLARIFICATION",
        "fullText": FULL,
        "heardText": HEARD,
        "unheardText": UNHEARD,
        "progress": 0.4,
        "canResume": True,
        "status": "pending",
        "turnId": "t",
        "language": "en-IN",
        "topic": "home loans",
        "userUtterance": "which ones?",
        "playedMs": 4_000,
        "generatedMs": 10_000,
        "heardSource": "client",
    }
    assert manager.peek("s") == found


def test_ids_come_from_the_maker_given(clock: FakeClock) -> None:
    """The maker of ids is given the wall clock's milliseconds; the default makes each id once."""
    manager = InterruptionContextManager(clock, new_id=lambda now_ms: f"i{now_ms}")
    assert push(manager).id == f"i{clock.now_ms()}"
    plain = InterruptionContextManager(clock)
    assert len({push(plain).id for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        ({}, "delivered"),
        ({"played_ms": 10}, "client"),
        ({"played_ms": 10, "heard_source": "clock"}, "clock"),
        ({"heard_source": "client"}, "client"),
    ],
)
def test_who_knows_what_was_heard(
    manager: InterruptionContextManager, fields: dict[str, Any], source: str
) -> None:
    """A played time comes from the client; without one the delivered text counts, unless told otherwise."""
    assert push(manager, **fields).heard_source == source


def test_the_last_three_stay_newest_first(manager: InterruptionContextManager) -> None:
    """A fourth pushes out the oldest; popping takes from the top until nothing is left."""
    pushed = ids([push(manager) for _ in range(5)])
    assert ids(manager.list("s")) == pushed[:1:-1]
    assert [popped.id if (popped := manager.pop("s")) else None for _ in range(4)] == [*pushed[:1:-1], None]
    assert manager.peek("s") is None and manager.list("s") == []


def test_what_is_listed_is_a_copy(manager: InterruptionContextManager) -> None:
    """A caller may do with the list what it likes."""
    push(manager)
    manager.list("s").clear()
    assert len(manager.list("s")) == 1


def test_the_newest_resumable_one_is_resumed(manager: InterruptionContextManager) -> None:
    """Resuming passes over what cannot be resumed and what was, and changes the status in the stack."""
    first, second = push(manager), push(manager)
    push(manager, type="URGENT")
    resumed = manager.resume("s")
    assert resumed and (resumed.id, resumed.status, resumed.unheard_text) == (second.id, "resumed", UNHEARD)
    assert [each.status for each in manager.list("s")] == ["pending", "resumed", "pending"]
    again = manager.resume("s")
    assert again and again.id == first.id
    assert manager.resume("s") is None and manager.resume("unknown") is None


def test_the_newest_pending_one_is_abandoned(manager: InterruptionContextManager) -> None:
    """Without an id the newest pending one that cut the assistant off, with an id that one, and only once."""
    first, second = push(manager), push(manager)
    noise = push(manager, type="NOISE")
    assert (found := manager.abandon("s")) and (found.id, found.status) == (second.id, "abandoned")
    assert (found := manager.abandon("s", noise.id)) and found.id == noise.id
    assert manager.abandon("s", second.id) is None
    assert manager.abandon("s", "unknown") is None and manager.abandon("unknown") is None
    assert (found := manager.abandon("s", first.id)) and found.id == first.id
    assert manager.resume("s") is None


def test_a_false_alarm_is_not_resumed_nor_told(manager: InterruptionContextManager) -> None:
    """A false alarm is neither offered again nor told to the model, and averages leave it out."""
    push(manager, progress=0.4)
    alarm = push(manager, progress=0.8, topic="loans")
    assert (found := manager.mark_false_alarm("s")) and (found.id, found.status) == (alarm.id, "false_alarm")
    assert "loans" not in (manager.prompt_snippet("s") or "loans")
    patterns = manager.patterns("s")
    assert (patterns.total, patterns.false_alarms) == (2, 1)
    assert patterns.average_progress == pytest.approx(0.4)
    assert manager.mark_false_alarm("s", alarm.id) is None
    assert manager.mark_false_alarm("unknown") is None


@pytest.mark.parametrize("look", ["list", "peek", "pop", "resume", "prompt_snippet"])
def test_a_pending_one_expires(manager: InterruptionContextManager, clock: FakeClock, look: str) -> None:
    """A day later, and not before, a pending interruption has expired, whichever way it is looked at."""
    push(manager)
    clock.elapsed_s += 24 * 3600
    assert (found := manager.peek("s")) and found.status == "pending"
    clock.elapsed_s += 0.001
    seen = getattr(manager, look)("s")
    if look in ("resume", "prompt_snippet"):
        assert seen is None
        seen = manager.peek("s")
    (found,) = seen if look == "list" else [seen]
    assert found.status == "expired"


def test_only_pending_ones_expire(clock: FakeClock) -> None:
    """What was resumed stays so."""
    manager = InterruptionContextManager(clock, expires_after_s=10)
    push(manager)
    manager.resume("s")
    clock.elapsed_s = 11
    assert (found := manager.peek("s")) and found.status == "resumed"


def test_clearing_a_session_forgets_it(manager: InterruptionContextManager) -> None:
    """Clearing counts what was held, and leaves neither stack nor counts, and no other session's."""
    for _ in range(4):
        push(manager)
    push(manager, "other")
    assert manager.clear("s") == 3
    assert manager.clear("s") == 0
    assert manager.list("s") == [] and manager.patterns("s").total == 0
    assert len(manager.list("other")) == 1


def test_clearing_a_user_forgets_all_of_theirs(manager: InterruptionContextManager) -> None:
    """Every session of the user goes, and nobody else's, not even the same name's in another tenant."""
    push(manager, "s1", "a"), push(manager, "s1", "a"), push(manager, "s2", "a")
    push(manager, "s3", "b"), push(manager, "s1", "a", tenant="other")
    assert manager.clear_user("a") == 3
    assert manager.clear_user("a") == 0
    assert manager.list("s1") == manager.list("s2") == []
    assert len(manager.list("s3")) == len(manager.list("s1", tenant="other")) == 1
    manager.clear_user("b"), manager.clear_user("a", tenant="other")
    assert (manager.session_count, manager.size_bytes) == (0, 0)


def test_a_session_that_changes_hands_starts_anew(manager: InterruptionContextManager) -> None:
    """The next user of a session id sees nothing of the one before."""
    push(manager, "s", "a", topic="secret")
    mine = push(manager, "s", "b")
    assert manager.list("s") == [mine] and manager.patterns("s").total == 1
    assert manager.clear_user("a") == 0 and manager.clear_user("b") == 1


def test_the_least_recently_used_session_is_dropped(clock: FakeClock) -> None:
    """Looking at a session counts as use; the one dropped leaves its user's index too."""
    manager = InterruptionContextManager(clock, sessions_max=2)
    push(manager, "s1", "a"), push(manager, "s2", "b")
    manager.peek("s1")
    push(manager, "s3", "c")
    assert [len(manager.list(each)) for each in ("s1", "s2", "s3")] == [1, 0, 1]
    assert manager.clear_user("b") == 0


def test_memory_is_bounded(clock: FakeClock) -> None:
    """Large texts push out other sessions, never the one that is written to."""
    manager = InterruptionContextManager(clock, bytes_max=1_000_000)
    text = "ऋण " * 8_000
    for number in range(50):
        push(manager, f"s{number}", full_text=text, heard_text=text[:9_000], topic="t" * number)
        assert manager.size_bytes <= 1_000_000
        assert manager.peek(f"s{number}") is not None
    assert 1 < manager.session_count < 50
    tiny = InterruptionContextManager(clock, bytes_max=1)
    push(tiny, "a"), push(tiny, "b")
    assert tiny.list("a") == [] and len(tiny.list("b")) == 1


def test_patterns_outlive_the_stack(manager: InterruptionContextManager) -> None:
    """The counts include what fell off the stack and what was popped."""
    for _ in range(6):
        push(manager, progress=0.25, topic="home loans")
    push(manager, type="CORRECTION", progress=0.6)
    manager.resume("s"), manager.abandon("s"), manager.pop("s")
    found = manager.patterns("s")
    assert found.by_type == {"BARGE_IN": 6, "CORRECTION": 1} and found.total == 7
    assert (found.resumed, found.abandoned, found.top_topic) == (1, 1, "home loans")
    assert found.average_progress == pytest.approx((6 * 0.25 + 0.6) / 7)
    assert found.interrupts_early and "shorter answers" in (found.suggestion or "")


def test_the_snippet_is_of_the_newest_real_interruption(manager: InterruptionContextManager) -> None:
    """A backchannel or noise on top does not hide it; once it was dealt with there is nothing to tell."""
    assert manager.prompt_snippet("s") is None
    push(manager, topic="loans", user_utterance="wait")
    push(manager, type="BACKCHANNEL"), push(manager, type="NOISE")
    line = manager.prompt_snippet("s") or ""
    assert "«loans»" in line and f"«{UNHEARD}»" in line and "«wait»" in line
    manager.resume("s")
    assert manager.prompt_snippet("s") is None


def test_resume_phrases_take_turns_in_a_session(manager: InterruptionContextManager) -> None:
    """Each resume of a session is introduced in other words than the one before; asking changes nothing."""
    said = []
    for _ in range(4):
        push(manager)
        manager.resume("s")
        said.append(manager.resume_phrase("hi-IN", "ऋण", session_id="s"))
        assert manager.resume_phrase("hi-IN", "ऋण", session_id="s") == said[-1]
    assert len(set(said[:3])) == 3 and said[3] == said[0]
    assert manager.resume_phrase("hi-IN", "ऋण", session_id="unknown") == manager.resume_phrase("hi", "ऋण")


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"type": "SHOUT"}, InvalidRequest, "type must be one of CLARIFICATION, .*NOISE"),
        ({"type": ["BARGE_IN"]}, InvalidRequest, "type must be one of"),
        ({"type": None, "heard_text": None}, MissingFields, "Missing required fields: type, heardText"),
        ({"session_id": None, "user_id": None}, MissingFields, "Missing required fields: sessionId, userId"),
        ({"session_id": ""}, InvalidId, "sessionId"),
        ({"user_id": "x" * 257}, InvalidId, "userId"),
        ({"turn_id": ""}, InvalidId, "turnId"),
        ({"full_text": ""}, InvalidRequest, "fullText must not be empty"),
        ({"full_text": " \n "}, InvalidRequest, "fullText must not be empty"),
        ({"full_text": "x" * (limits.INTERRUPTION_TEXT_BYTES_MAX + 1)}, TooLarge, "fullText"),
        ({"heard_text": 7}, InvalidRequest, "heardText must be a string"),
        ({"heard_text": "क" * 30_000}, TooLarge, "heardText"),
        ({"user_utterance": "x" * 70_000}, TooLarge, "userUtterance"),
        ({"user_utterance": {}}, InvalidRequest, "userUtterance must be a string"),
        ({"topic": "x" * 70_000}, TooLarge, "topic"),
        ({"language": "x" * 65}, InvalidRequest, "language must be a tag"),
        ({"language": 5}, InvalidRequest, "language must be a string"),
        ({"progress": 1.5}, InvalidRequest, "progress"),
        ({"progress": float("nan")}, InvalidRequest, "progress"),
        ({"played_ms": -1}, InvalidRequest, "playedMs"),
        ({"generated_ms": -1}, InvalidRequest, "generatedMs"),
        ({"heard_source": "guess"}, InvalidRequest, "heardSource must be one of client, clock, delivered"),
    ],
)
def test_what_is_wrong_is_named_and_leaves_no_trace(
    manager: InterruptionContextManager, fields: dict[str, Any], error: type[SamvadError], words: str
) -> None:
    """An invalid report raises an error that names the field, and nothing is recorded."""
    with pytest.raises(error, match=words):
        push(manager, **fields)
    assert (manager.session_count, manager.size_bytes) == (0, 0)


@pytest.mark.parametrize("wrong", [{"sessions_max": 0}, {"bytes_max": 0}, {"expires_after_s": 0}])
def test_bounds_must_be_bounds(wrong: dict[str, Any]) -> None:
    """A manager that could hold nothing is a mistake of the programmer."""
    with pytest.raises(ValueError, match="greater than 0"):
        InterruptionContextManager(**wrong)


SESSIONS = st.sampled_from(["s1", "s2", "s3", "s4", "s5"])
USERS = st.sampled_from(["a", "b"])
TENANTS = st.sampled_from(["default", "other"])
SESSIONS_MAX = 4


class InterruptionsMachine(RuleBasedStateMachine):
    """Any operations, in any order, beside a model: each session's user and stack, oldest use first."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.manager = InterruptionContextManager(self.clock, SESSIONS_MAX, expires_after_s=100)
        self.model: dict[tuple[str, str], tuple[str, list[str]]] = {}

    def use(self, tenant: str, session: str) -> list[str]:
        key = (tenant, session)
        if key not in self.model:
            return []
        self.model[key] = self.model.pop(key)
        return self.model[key][1]

    @rule(
        tenant=TENANTS,
        session=SESSIONS,
        user=USERS,
        type=st.sampled_from(INTERRUPTION_TYPES),
        progress=st.one_of(st.none(), st.floats(0, 1)),
        topic=st.one_of(st.none(), st.text(max_size=5)),
    )
    def push(
        self, tenant: str, session: str, user: str, type: str, progress: float | None, topic: str | None
    ) -> None:
        pushed = push(self.manager, session, user, tenant=tenant, type=type, progress=progress, topic=topic)
        owner, stack = self.model.pop((tenant, session), (user, []))
        stack = [*(stack if owner == user else []), pushed.id][-3:]
        self.model[tenant, session] = (user, stack)
        if len(self.model) > SESSIONS_MAX:
            del self.model[next(iter(self.model))]

    @rule(tenant=TENANTS, session=SESSIONS)
    def peek(self, tenant: str, session: str) -> None:
        stack = self.use(tenant, session)
        found = self.manager.peek(session, tenant=tenant)
        assert (found.id if found else None) == (stack[-1] if stack else None)

    @rule(tenant=TENANTS, session=SESSIONS)
    def pop(self, tenant: str, session: str) -> None:
        stack = self.use(tenant, session)
        found = self.manager.pop(session, tenant=tenant)
        assert (found.id if found else None) == (stack.pop() if stack else None)

    @rule(tenant=TENANTS, session=SESSIONS, verb=st.sampled_from(["resume", "abandon", "mark_false_alarm"]))
    def settle(self, tenant: str, session: str, verb: str) -> None:
        before = {each.id: each.status for each in self.manager.list(session, tenant=tenant)}
        stack = self.use(tenant, session)
        found = getattr(self.manager, verb)(session, tenant=tenant)
        if found is not None:
            assert found.id in stack and before[found.id] == "pending" and found.status != "pending"

    @rule(tenant=TENANTS, session=SESSIONS)
    def clear(self, tenant: str, session: str) -> None:
        _, stack = self.model.pop((tenant, session), ("", []))
        assert self.manager.clear(session, tenant=tenant) == len(stack)
        assert self.manager.patterns(session, tenant=tenant).total == 0

    @rule(tenant=TENANTS, user=USERS)
    def clear_user(self, tenant: str, user: str) -> None:
        theirs = [key for key, (owner, _) in self.model.items() if key[0] == tenant and owner == user]
        held = sum(len(self.model.pop(key)[1]) for key in theirs)
        assert self.manager.clear_user(user, tenant=tenant) == held

    @rule(seconds=st.sampled_from([1, 60, 101]))
    def pass_time(self, seconds: int) -> None:
        self.clock.elapsed_s += seconds

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        """The same stacks, at most 3 deep, of the right users, in a bounded number of sessions."""
        assert self.manager.session_count == len(self.model) <= SESSIONS_MAX
        assert (self.manager.size_bytes == 0) is (not self.model)
        for tenant, session in list(self.model):  # each is used once, in order: the order stays
            user, stack = self.model[tenant, session]
            held = self.manager.list(session, tenant=tenant)
            assert ids(held) == stack[::-1] and len(held) <= 3
            assert all(each.user_id == user and each.session_id == session for each in held)
            patterns = self.manager.patterns(session, tenant=tenant)
            assert patterns.total == sum(patterns.by_type.values()) >= len(stack)
            assert patterns.average_progress is None or 0 <= patterns.average_progress <= 1


TestInterruptionsMachine = InterruptionsMachine.TestCase
