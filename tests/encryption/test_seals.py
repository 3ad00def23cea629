"""The codec itself: nothing that was changed or moved is believed, and no nonce comes twice."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from samvad.clock import SystemClock
from samvad.errors import SamvadError, Unreadable
from samvad.records import (
    Commit,
    Erased,
    MessagesAdded,
    StoredMessage,
    StoredSession,
    StoredState,
    UserKey,
    UserRecord,
    Version,
    user_hash,
)
from samvad.stores import sealing, sealing_line
from samvad.stores.data_key_store import MemoryDataKeys
from samvad.stores.data_keys import DataKey, DataKeys
from samvad.stores.master_keys import LocalMasterKey, aead_of
from samvad.stores.memory import MemoryStore
from samvad.stores.sealed import SealedStore
from samvad.stores.sealing_line import SealingLine
from samvad.testing.model import raw_message

ASHA, BALA = (user_hash(UserKey("default", name)) for name in ("asha", "bala"))
KEY = DataKey(b"k" * 8, 0, aead_of(os.urandom(32)))
KEYS = {0: KEY}
_replace = msgspec.structs.replace


def data_keys() -> DataKeys:
    """Keys, none made yet."""
    return DataKeys(MemoryDataKeys(), [LocalMasterKey(os.urandom(32))])


async def keys_of_asha() -> DataKeys:
    """Keys, of which Asha has one for the life with the number 0."""
    keys = data_keys()
    await keys.open()
    await keys.make(ASHA, 0)
    return keys


def sealed(seq: int) -> StoredMessage:
    """A message of Asha's, sealed."""
    return sealed_message(raw_message(seq, f"m{seq}", seq, f"secret {seq}"))


def sealed_message(message: StoredMessage) -> StoredMessage:
    """A message, sealed for Asha."""
    return sealing.seal_messages(KEY, ASHA, [message], [])[0]


def tokens(message: StoredMessage) -> bytes:
    """The bytes of its seal."""
    token = sealing.token_of(message.body)
    assert token is not None
    return base64.b64decode(token)


def with_token(message: StoredMessage, raw: bytes) -> StoredMessage:
    """The same message with another seal."""
    token = sealing.token_of(message.body)
    assert token is not None
    return _replace(message, body=message.body.replace(token, base64.b64encode(raw)))


def changed(rng: random.Random) -> Iterator[tuple[bytes, Any, StoredMessage]]:
    """Whose it is said to be, the keys, and a message that was changed or moved: no two alike, without end."""
    while True:
        seq = rng.randrange(1, 10_000)
        message, other = sealed(seq), sealed(seq + rng.randrange(1, 99))
        raw = tokens(message)
        bit = rng.randrange(8 * len(raw))
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        yield ASHA, KEYS, with_token(message, bytes(flipped))
        yield ASHA, KEYS, with_token(message, raw[: rng.randrange(len(raw))])
        yield ASHA, KEYS, with_token(message, tokens(other))  # another message's
        yield BALA, KEYS, message  # another user
        yield ASHA, {1: DataKey(KEY.key_id, 1, KEY.aead)}, message  # another life
        yield ASHA, KEYS, _replace(message, seq=seq + 1)
        yield ASHA, KEYS, _replace(message, id=f"x{seq}")
        yield ASHA, KEYS, _replace(message, role="system")
        yield ASHA, KEYS, _replace(message, at_ms=message.at_ms + 1)
        yield ASHA, KEYS, _replace(message, answers="call")
        yield ASHA, {0: DataKey(KEY.key_id, 0, aead_of(os.urandom(32)))}, message  # another key of that name
        state = sealing.seal(KEY, ASHA, _state(message.body))
        yield ASHA, KEYS, _replace(message, body=state.state.body)  # another kind
        nonce = raw[9:21]
        yield ASHA, KEYS, with_token(message, raw[:9] + nonce + tokens(sealed(seq))[21:])  # of two sealings


def _state(body: bytes) -> Any:
    from samvad.records import StateSet

    return StateSet(StoredState(body, 1, 1))


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_nothing_that_was_changed_or_moved_is_believed(count: int) -> None:
    """Each is refused; and what was not touched opens."""
    tries = changed(random.Random(7))
    for _ in range(count):
        hashed, keys, message = next(tries)
        with pytest.raises((Unreadable, sealing.KeyMissing)):
            sealing.open_message(keys, hashed, message, strict=True)
    whole = raw_message(5, "m5", 5, "secret 5")
    assert sealing.open_message(KEYS, ASHA, sealed_message(whole), strict=True) == whole


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_no_nonce_comes_twice(count: int) -> None:
    """96 random bits each, under one key."""
    message = raw_message(1, "m1", 1, "x")
    nonces = {tokens(sealed_message(message))[9:21] for _ in range(count)}
    assert len(nonces) == count


def test_text_that_looks_like_a_seal_is_text() -> None:
    """Within JSON its quotation marks are escaped."""
    for content in ('"samvad.sealed":"AAAA"}', '\\"samvad.sealed\\":\\"AAAA', "samvad.sealed"):
        body = msgspec.json.encode({"id": "m1", "content": content})
        assert sealing.token_of(body) is None


def test_what_stands_in_clear_is_what_engines_must_find() -> None:
    """Ids, role, time and the ids of calls; no name and no argument of a tool."""
    body = msgspec.json.encode(
        {
            "seq": 1,
            "id": "m1",
            "role": "assistant",
            "content": "secret",
            "timestamp": "1970-01-01T00:00:00.001Z",
            "toolCalls": [{"id": "c1", "name": "secret", "arguments": {"secret": 1}}],
        }
    )
    message = StoredMessage(1, "m1", "assistant", 1, body, ("c1",))
    clear = msgspec.json.decode(sealed_message(message).body)
    del clear["samvad.sealed"]
    assert clear == {
        "seq": 1,
        "id": "m1",
        "role": "assistant",
        "timestamp": "1970-01-01T00:00:00.001Z",
        "toolCalls": [{"id": "c1"}],
    }


def test_a_session_may_be_touched_and_not_exchanged() -> None:
    """Its time of activity is the engine's; its id and its owner are the seal's."""
    session = StoredSession("s1", "asha", b'{"language":"hi"}', 1, 1)
    from samvad.records import SessionSet

    kept: Any = sealing.seal(KEY, ASHA, SessionSet(session))
    touched = _replace(kept.session, active_ms=99)
    assert sealing.open_session(KEYS, ASHA, touched, strict=True).body == session.body
    with pytest.raises(Unreadable):
        sealing.open_session(KEYS, ASHA, _replace(kept.session, id="s2"), strict=True)
    with pytest.raises(Unreadable):
        sealing.open_session(KEYS, BALA, kept.session, strict=True)


@pytest.mark.anyio
@pytest.mark.parametrize(("size", "beside"), [(65_536, True), (64, False)], ids=["large", "small"])
async def test_a_large_window_is_opened_beside_the_loop(
    size: int, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred messages of 64 KiB take longer than others are to be held up: they are opened in another thread."""
    store = SealedStore(MemoryStore(), data_keys(), clock=SystemClock())
    await store.open()
    user = UserKey("default", "asha")
    said = tuple(raw_message(seq, f"m{seq}", seq, "x" * size) for seq in range(1, 101))
    await store.commit(Commit(user, Version(0, 0), (MessagesAdded(said),)))
    opening, threads = store.opened.messages, set[int]()

    def noted(*args: Any) -> Any:
        threads.add(threading.get_ident())
        return opening(*args)

    monkeypatch.setattr(store.opened, "messages", noted)
    loaded = store.load(user, window=100, open_after_ms=0, sessions_max=1)
    paged = store.page(user, after=0, before=None, limit=100, bytes_max=1 << 23)
    for reading in (loaded, paged):
        threads.clear()
        found: Any = await reading
        assert (found.window if isinstance(found, UserRecord) else tuple(found[0])) == said
        assert len(threads) == 1 and (threading.get_ident() in threads) is not beside
    await store.close()


@pytest.mark.anyio
async def test_commits_are_sealed_in_turn_and_a_failure_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the order in which they came, for a time; one that cannot be sealed is told, and the rest goes on."""
    monkeypatch.setattr(sealing_line, "_TURN_S", 0.0)  # the least there is: one in a turn
    handed: list[Commit] = []
    told: list[object] = []
    line = SealingLine(await keys_of_asha(), lambda commit, done: handed.append(commit))
    commits = [
        Commit(
            UserKey("default", "asha"),
            Version(0, seq),
            (MessagesAdded((raw_message(seq, f"m{seq}", seq, text),)),),
        )
        for seq, text in enumerate(["one", "two", "three"] * 20)
    ]
    broken = commits[7] = _replace(commits[7], changes=(MessagesAdded((object(),)),))  # type: ignore[arg-type]
    for commit in commits:
        assert line.take(commit, told.append)
    turns = 0
    while len(handed) + len(told) < len(commits):
        await asyncio.sleep(0)
        turns += 1
    assert turns >= len(commits)
    assert [commit.expected for commit in handed] == [c.expected for c in commits if c is not broken]
    (fault,) = told
    assert isinstance(fault, SamvadError) and "Sealing failed" in fault.message
    assert line.take(commits[0], told.append)
    line.finish()
    assert len(handed) == len(commits)


@pytest.mark.anyio
async def test_what_is_sealed_together_has_a_nonce_each() -> None:
    """Drawn at once for many commits, or missing there: none is used twice, and all is opened again."""
    handed: list[Commit] = []
    keys = await keys_of_asha()
    line = SealingLine(keys, lambda commit, done: handed.append(commit))
    said = [
        [raw_message(seq, f"m{seq}", seq, "x") for seq in range(1, 1 + count)] for count in (100, 1) * 200
    ]
    for messages in said:
        change = MessagesAdded(tuple(messages))
        assert line.take(Commit(UserKey("default", "asha"), Version(0, 0), (change,)), lambda _: None)
    line.finish()
    kept: list[Any] = [change for commit in handed for change in commit.changes]
    nonces = [tokens(message)[9:21] for change in kept for message in change.messages]
    assert len(set(nonces)) == len(nonces) == sum(map(len, said))
    opened = [
        [
            sealing.open_message(await keys.keys_of(ASHA), ASHA, message, strict=True)
            for message in change.messages
        ]
        for change in kept
    ]
    assert opened == said


@pytest.mark.anyio
async def test_the_line_forgets_who_is_erased() -> None:
    """Of who writes, name and hash are at hand there; not longer than they are."""
    store = SealedStore(MemoryStore(), data_keys(), clock=SystemClock())
    await store.open()
    user = UserKey("default", "asha")
    for seq in (1, 2):
        said = MessagesAdded((raw_message(seq, f"m{seq}", seq, "x"),))
        written = await store.commit(Commit(user, Version(0, seq - 1), (said,)))
    line: Any = store._sealing
    assert user in line._hashes
    await store.commit(Commit(user, written.version, (Erased(1),)))
    assert user not in line._hashes
    await store.close()
