"""Random work for a store, and its comparison with the in-memory store, which is the model.

A piece of work is a list of turns; a turn is a list of steps whose commits are all submitted at once, before
any is answered, so that a store which writes in groups gets them as one. A step is either an operation as the
service makes it (its commit comes out of `user_log.apply`) or a raw commit, which may be made against a
version that is not there, leave a gap, or meddle with another user's session.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from samvad.clock import rfc3339
from samvad.errors import MessageExists, SamvadError
from samvad.records import (
    Change,
    Commit,
    Committed,
    Erased,
    Erasure,
    InterruptionAdded,
    InterruptionsRemoved,
    InterruptionsTrimmed,
    MessagesAdded,
    Origin,
    ProfileSet,
    ReceiptKept,
    SessionRemoved,
    SessionSet,
    SessionTouched,
    StateSet,
    StoredInterruption,
    StoredMessage,
    StoredProfile,
    StoredReceipt,
    StoredSession,
    StoredState,
    Trimmed,
    UserKey,
    UserRecord,
    Version,
    stored_message,
)
from samvad.sessions import user_log
from samvad.sessions.operations import (
    AppendMessages,
    EndSession,
    EraseUser,
    ForgetInterruptions,
    NewMessage,
    Operation,
    ReceiptKey,
    RecordInterruption,
    RemoveSession,
    Retain,
    SavePreferences,
    SaveSession,
    SaveState,
)
from samvad.stores.base import Store
from samvad.stores.memory import MemoryStore
from samvad.testing.retaining import retains, told

# Names that are easily taken for one another, or for something else.
USER_IDS: Final = ("asha", "Asha", "e\u0301", "\u00e9", "__id__", "a.b' OR 1=1 --")
SESSION_IDS: Final = ("phone", "Phone", "%", "\U0001f4f1")
MESSAGE_IDS: Final = ("one", "two", "m1-0123456789abcdef0123", "%")
RECEIPTS: Final = 3
WINDOW: Final = 5  # small, so that the random histories outgrow it
RULES: Final = user_log.Rules(window=WINDOW)
TIMES_MS: Final = 40  # the random times are 0 to this
EVERYTHING: Final = 1 << 62


@dataclass(frozen=True)
class Place:
    """Where one comparison takes place: a tenant of its own, so that a store can be used for many."""

    tenant: str

    def user(self, number: int) -> UserKey:
        """A user of this tenant."""
        return UserKey(self.tenant, USER_IDS[number])

    def receipt_key(self, number: int) -> bytes:
        """The key of a receipt, which no other tenant has."""
        return hashlib.sha256(f"{self.tenant}\0{number}".encode()).digest()


@dataclass(frozen=True)
class OperationStep:
    """An operation as the service makes it; `receipt` is the number of a receipt."""

    user: int
    operation: Operation
    receipt: int | None = None
    origin: Origin | None = None

    async def commit(self, model: MemoryStore, place: Place) -> Commit | None:
        """The commit that the operation comes to on what the model holds; None if the rules refuse it."""
        key = place.user(self.user)
        operation = self.operation
        operation.receipt = None
        if self.receipt is not None and not isinstance(operation, RemoveSession | ForgetInterruptions):
            operation.receipt = ReceiptKey(place.receipt_key(self.receipt), b"f" * 32)
        if isinstance(operation, SaveSession | EndSession | RemoveSession):
            prior = await model.session(key.tenant, operation.session_id)
            operation.prior = prior if prior is not None and prior.user_id == key.user_id else None
        if isinstance(operation, SaveSession):
            operation.user_id = key.user_id
        if isinstance(operation, AppendMessages):
            operation.known = {}
        if isinstance(operation, Retain):
            operation = await told(operation, model, key)
        stored = await model.load(key, window=WINDOW, open_after_ms=10, sessions_max=2)
        record = user_log.loaded(stored, RULES)
        try:
            applied = user_log.apply(record, operation, RULES)
        except SamvadError:
            return None
        return Commit(key, record.version, applied.changes, self.origin)


@dataclass(frozen=True)
class RawMessages:
    """Messages at the end of the history, or `gap` further on; those with ids of the pool are unproven."""

    ids: tuple[str | None, ...]
    at_ms: int
    gap: int

    def change(self, record: UserRecord, place: Place, user_id: str) -> Change:
        """These messages behind what the record holds."""
        messages = []
        first = record.seq + 1 + self.gap
        for seq, given in enumerate(self.ids, first):
            name = given or f"{record.version.epoch}-{record.version.revision}-{seq}"
            messages.append(raw_message(seq, name, self.at_ms + (seq * 7) % 5))
        return MessagesAdded(tuple(messages), tuple(name for name in self.ids if name is not None))


@dataclass(frozen=True)
class RawChange:
    """Any other change; `what` names it, the rest is what it may need."""

    what: str
    name: str
    at_ms: int
    number: int

    def change(self, record: UserRecord, place: Place, user_id: str) -> Change:
        """The change itself."""
        body = b'{"n":%d}' % self.number
        match self.what:
            case "state":
                return StateSet(StoredState(body, self.at_ms, self.number + 1))
            case "profile":
                return ProfileSet(StoredProfile(body, self.at_ms, self.at_ms + self.number))
            case "session":
                ended_ms = self.at_ms + 1 if self.number == 0 else None
                return SessionSet(StoredSession(self.name, user_id, body, 0, self.at_ms, ended_ms))
            case "touched":
                return SessionTouched(self.name, self.at_ms)
            case "removed":
                return SessionRemoved(self.name)
            case "interruption":
                kept = StoredInterruption(str(self.number), self.name, self.at_ms, body)
                return InterruptionAdded(kept)
            case "forgotten":
                return InterruptionsRemoved(self.name)
            case "trimmed":
                return Trimmed(max(1, record.seq + 2 - 2 * self.number))
            case "interruptions_trimmed":
                return InterruptionsTrimmed(self.at_ms)
            case "erased":
                return Erased(self.at_ms)
        key = place.receipt_key(self.number % RECEIPTS)
        return ReceiptKept(StoredReceipt(key, b"g" * 32, self.at_ms, b"" if self.number == 0 else body))


@dataclass(frozen=True)
class RawStep:
    """A commit that no service made. `epoch` and `revision` are how far off the expected version is."""

    user: int
    changes: tuple[RawMessages | RawChange, ...]
    epoch: int = 0
    revision: int = 0
    origin: Origin | None = None

    async def commit(self, model: MemoryStore, place: Place) -> Commit | None:
        """The commit, made against what the model holds."""
        key = place.user(self.user)
        record = await model.load(key, window=WINDOW, open_after_ms=0, sessions_max=9)
        expected = Version(record.version.epoch + self.epoch, record.version.revision + self.revision)
        changes = tuple(raw.change(record, place, key.user_id) for raw in self.changes)
        return Commit(key, expected, changes, self.origin)


Step = OperationStep | RawStep


def raw_message(seq: int, name: str, at_ms: int, content: str = "said", **fields: Any) -> StoredMessage:
    """A message as a store keeps it, of the user's role unless the fields say that it calls or answers a tool."""
    role = "assistant" if "toolCalls" in fields else "tool" if "toolCallId" in fields else "user"
    message = {
        "seq": seq,
        "id": name,
        "role": role,
        "content": content,
        "timestamp": rfc3339(at_ms),
        **fields,
    }
    return stored_message(seq, at_ms, True, msgspec.json.encode(message))


# --- strategies --------------------------------------------------------------------------------------------

_times = st.integers(0, TIMES_MS)
_session_ids = st.sampled_from(SESSION_IDS)
_json = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.none() | st.integers(0, 3) | st.just({"d": None})
)
_digits = st.just("0123456789abcdef0123") | st.text("0123456789abcdef", min_size=20, max_size=20)
_fields = st.sampled_from([{}, {"sessionId": "phone"}, {"sessionId": "%", "metadata": {"k": "\0"}}])


def _new_messages() -> st.SearchStrategy[NewMessage]:
    speech = st.builds(
        NewMessage,
        id=st.none() | st.sampled_from(MESSAGE_IDS),
        random=_digits,
        role=st.sampled_from(["user", "assistant"]),
        content=st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
        fields=_fields,
        at_ms=st.none() | _times,
    )
    call = st.builds(
        NewMessage,
        id=st.none(),
        random=_digits,
        role=st.just("assistant"),
        content=st.just("calls"),
        fields=st.just({"toolCalls": [{"id": "call", "name": "rate", "arguments": {"x": 1}}]}),
    )
    answer = st.builds(
        NewMessage,
        id=st.none(),
        random=_digits,
        role=st.just("tool"),
        content=st.just("answers"),
        fields=st.just({"toolCallId": "call"}),
    )
    return speech | speech | call | answer


def _operations() -> st.SearchStrategy[Operation]:
    appends = st.builds(
        AppendMessages, at_ms=_times, messages=st.lists(_new_messages(), min_size=1, max_size=4).map(tuple)
    )
    kept = st.builds(
        StoredInterruption,
        id=st.sampled_from(["i", "j", "k"]),
        session_id=_session_ids,
        at_ms=_times,
        body=st.just(b'{"heardText":"and"}'),
    )
    return st.one_of(
        appends,
        appends,
        appends,
        st.builds(SaveState, at_ms=_times, patch=_json, replace=st.booleans()),
        st.builds(SavePreferences, at_ms=_times, patch=_json),
        st.builds(SaveSession, at_ms=_times, session_id=_session_ids, user_id=st.just(""), fields=_json),
        st.builds(EndSession, at_ms=_times, session_id=_session_ids),
        st.builds(RemoveSession, at_ms=_times, session_id=_session_ids),
        st.builds(RecordInterruption, at_ms=_times, interruption=kept),
        st.builds(ForgetInterruptions, at_ms=_times, session_id=_session_ids),
        retains(_times, _session_ids),
        st.builds(EraseUser, at_ms=_times),
    )


_WHAT: Final = (
    *("state", "profile", "session", "touched", "removed", "interruption", "forgotten", "receipt"),
    *("trimmed", "interruptions_trimmed"),
)


def _raw_changes() -> st.SearchStrategy[RawMessages | RawChange]:
    ids = st.lists(st.none() | st.sampled_from(MESSAGE_IDS), min_size=1, max_size=3).filter(
        lambda names: len({n for n in names if n}) == len([n for n in names if n])
    )
    messages = st.builds(
        RawMessages, ids=ids.map(tuple), at_ms=_times, gap=st.sampled_from([0, 0, 0, 0, 1, -1])
    )
    other = st.builds(
        RawChange,
        what=st.sampled_from(_WHAT),
        name=_session_ids,
        at_ms=_times,
        number=st.integers(0, 3),
    )
    return messages | other


def steps() -> st.SearchStrategy[Step]:
    """One step."""
    users = st.integers(0, len(USER_IDS) - 1).map(lambda n: n % 3) | st.integers(0, len(USER_IDS) - 1)
    origins = st.none() | st.builds(Origin, replica=st.sampled_from(["r1", "r2"]), number=st.integers(1, 6))
    erased = st.builds(RawChange, what=st.just("erased"), name=st.just(""), at_ms=_times, number=st.just(0))
    # In one raw commit a session is changed once, and messages come once: what a change is made against
    # is the record before the commit.
    changes = st.lists(
        _raw_changes(), max_size=3, unique_by=lambda raw: raw.name if isinstance(raw, RawChange) else ""
    )
    return st.one_of(
        st.builds(
            OperationStep,
            user=users,
            operation=_operations(),
            receipt=st.none() | st.integers(0, RECEIPTS - 1),
            origin=origins,
        ),
        st.builds(
            RawStep,
            user=users,
            changes=changes.map(tuple) | changes.map(tuple) | st.tuples(erased),
            epoch=st.sampled_from([0, 0, 0, 0, -1, 1]),
            revision=st.sampled_from([0, 0, 0, 0, -1, 1, -5]),
            origin=origins,
        ),
    )


Turn = list[Step]


def work(turns_max: int = 8) -> st.SearchStrategy[list[Turn]]:
    """Turns of steps."""
    return st.lists(st.lists(steps(), min_size=1, max_size=5), min_size=1, max_size=turns_max)


# --- comparison --------------------------------------------------------------------------------------------


def answer_of(result: Committed | BaseException) -> tuple[Any, ...]:
    """What a commit was answered, as something that can be compared and shown."""
    if isinstance(result, MessageExists):
        return result.code, result.message_id, result.seq
    if isinstance(result, SamvadError):
        return (result.code,)
    if isinstance(result, BaseException):
        raise result
    return result.version, result.seq, result.removed, result.pending


async def everything(store: Store, place: Place, users: Sequence[UserKey] | None = None) -> dict[str, Any]:
    """All that can be read of a tenant (or of some of its users), each answer under the name of the read."""
    found: dict[str, Any] = {}
    named = [place.user(n) for n in range(len(USER_IDS))] if users is None else list(users)
    for user in named:
        name = user.user_id
        for window, open_after_ms, sessions_max in ((WINDOW, 0, 9), (1, TIMES_MS // 2, 1), (1_000, -1, 2)):
            record = await store.load(
                user, window=window, open_after_ms=open_after_ms, sessions_max=sessions_max
            )
            # Behind a journal a commit has an origin that the model's has not.
            erased = Erasure(record.erased.at_ms)
            found[f"load {name!r} window={window} open_after={open_after_ms}"] = (
                msgspec.structs.replace(record, erased=erased),
                list(record.sessions),
            )
        for after, before, limit, bytes_max in (
            (None, None, 2, EVERYTHING),
            (None, 4, 3, EVERYTHING),
            (0, None, 4, EVERYTHING),
            (2, 9, 100, 150),
            (None, None, 100, 150),
        ):
            found[
                f"page {name!r} after={after} before={before} limit={limit} bytes_max={bytes_max}"
            ] = await store.page(user, after=after, before=before, limit=limit, bytes_max=bytes_max)
        found[f"sessions {name!r}"] = await store.sessions(user, open_after_ms=None)
        if hasattr(store, "interruptions_before"):  # a store need not count them by itself
            found[f"old interruptions {name!r}"] = await store.interruptions_before(user, TIMES_MS // 2)
        found[f"open sessions {name!r}"] = await store.sessions(user, open_after_ms=TIMES_MS // 2)
    for session_id in SESSION_IDS:
        found[f"session {session_id!r}"] = await store.session(place.tenant, session_id)
        found[f"interruptions {session_id!r}"] = await store.interruptions(place.tenant, session_id, 2)
    for number in range(RECEIPTS):
        found[f"receipt {number}"] = await store.receipt(place.receipt_key(number))
    for after_ms in (-1, TIMES_MS // 2):
        found[f"stats after={after_ms}"] = await store.stats(
            place.tenant, active_after_ms=after_ms, open_after_ms=TIMES_MS - after_ms
        )
    found["users"] = list(await store.users(place.tenant, after="", limit=100))
    found["users, a page"] = list(await store.users(place.tenant, after=USER_IDS[0], limit=2))
    return found


def assert_same(expected: dict[str, Any], found: dict[str, Any], where: str) -> None:
    """Fail with the first read that was answered otherwise."""
    for read, answer in expected.items():
        assert found[read] == answer, (
            f"{where}: {read}\n  the model answers {answer!r}\n  the store answers {found[read]!r}"
        )


class Comparison:
    """A store beside the model, both at work for one tenant."""

    def __init__(self, store: Store, model: MemoryStore, tenant: str) -> None:
        self.store = store
        self.model = model
        self.place = Place(tenant)

    async def turn(self, turn: Turn) -> None:
        """Take one turn with both, and compare what was answered and all that can be read afterwards."""
        commits: list[Commit] = []
        expected: list[tuple[Any, ...]] = []
        for step in turn:
            commit = await step.commit(self.model, self.place)
            if commit is not None:
                commits.append(commit)
                answered = await asyncio.gather(self.model.commit(commit), return_exceptions=True)
                expected.append(answer_of(answered[0]))
        under_way = [self.store.commit(commit) for commit in commits]
        answers = [answer_of(each) for each in await asyncio.gather(*under_way, return_exceptions=True)]
        for commit, wanted, answer in zip(commits, expected, answers, strict=True):
            assert answer == wanted, (
                f"{commit!r}\n  the model answers {wanted!r}\n  the store answers {answer!r}"
            )
        await self.compare("after a turn")

    async def compare(self, where: str) -> None:
        """Compare all that can be read."""
        assert_same(await everything(self.model, self.place), await everything(self.store, self.place), where)


__all__ = ["Comparison", "Place", "RawStep", "Turn", "everything", "raw_message", "work"]
