"""The first answer to a request with an Idempotency-Key is the answer to every repetition of it.

The answer is kept in the same atomic write as what the request changed, so that no crash can come between
the two. Repetitions that come while the first is still under way wait for it. An answer is kept for 24 h;
refusals that rest on what was there (404, 409, 412) are kept as well, malformed requests are not.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from samvad import errors, limits
from samvad.clock import Clock
from samvad.errors import (
    IdempotencyKeyReused,
    InvalidRequest,
    SamvadError,
    StoreUnavailable,
    Unavailable,
    UserErased,
)
from samvad.records import ANY_VERSION, Commit, ReceiptKept, StoredReceipt, UserKey
from samvad.sessions.lane import AskAgain
from samvad.sessions.operations import ReceiptKey
from samvad.stores.base import Store

_T = TypeVar("_T")
_UNKEPT_MAX: Final = 1_000
_ASKED_MAX: Final = 5  # times that a record may be loaded anew while its store is asked for a key
_KEPT_REFUSALS = {
    kind.code: kind
    for kind in (errors.NotFound, errors.Conflict, errors.SessionTaken, errors.PreconditionFailed)
}


class Refusal(msgspec.Struct, tag_field="refused", tag="error"):
    """An answer that was an error."""

    code: str
    message: str


class Receipts:
    """Looks up and keeps the answers to requests with a key."""

    def __init__(self, store: Store, clock: Clock, loaded: Callable[[UserKey], Awaitable[int]]) -> None:
        self._store = store
        self._loaded = loaded
        self._clock = clock
        # Answers that no store may hold, because they say what a user said of whom no content is kept.
        self._unkept: OrderedDict[bytes, tuple[UserKey, StoredReceipt]] = OrderedDict()
        self._under_way: dict[bytes, tuple[bytes, asyncio.Future[Any]]] = {}
        self.replays = 0

    def key(self, tenant: str, caller: str, key: str, part: str = "") -> bytes:
        """The name under which an answer is kept; InvalidRequest if the key cannot be one."""
        if not 1 <= len(key) <= limits.IDEMPOTENCY_KEY_CHARS_MAX or not key.isprintable():
            raise InvalidRequest(
                f"Idempotency-Key must be 1 to {limits.IDEMPOTENCY_KEY_CHARS_MAX} printable characters."
            )
        return hashlib.sha256("\0".join((tenant, caller, key, part)).encode()).digest()

    async def once(
        self,
        user: UserKey,
        key: bytes,
        fingerprint: bytes,
        answer_type: type[_T],
        act: Callable[[ReceiptKey], Awaitable[_T]],
        *,
        bound: bool = True,
        earlier: bytes | None = None,
    ) -> _T:
        """Run `act` unless it was run under this key before; then give the answer it gave.

        Raises IdempotencyKeyReused where the key belongs to another request, and UserErased where what
        the request did has been erased since. `bound`: `act` writes for this user, under the key. `earlier` is the
        fingerprint as earlier versions kept it: an answer of theirs is given again.
        """
        while (under_way := self._under_way.get(key)) is not None:
            if under_way[0] != fingerprint:
                raise IdempotencyKeyReused
            await asyncio.wait([under_way[1]])
        acting = asyncio.ensure_future(self._once(user, key, (fingerprint, earlier), answer_type, act, bound))
        self._under_way[key] = (fingerprint, acting)
        acting.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(acting)  # the caller may give up; a repetition still waits for this one

    def _done(self, key: bytes, done: asyncio.Future[Any]) -> None:
        del self._under_way[key]
        if not done.cancelled():
            done.exception()  # the caller was told, if there still is one

    async def _once(
        self,
        user: UserKey,
        key: bytes,
        fingerprints: tuple[bytes, bytes | None],
        answer_type: type[_T],
        act: Callable[[ReceiptKey], Awaitable[_T]],
        bound: bool,
    ) -> _T:
        fingerprint = fingerprints[0]
        for _ in range(_ASKED_MAX):
            # The record first: should another replica use the key from now on, what this one builds on tells.
            as_of = await self._loaded(user) if bound else -1
            unproven = False
            _, kept = self._unkept.get(key, (None, None))
            try:
                kept = kept or await self._store.receipt(key)
            except StoreUnavailable:
                if not self._store.capabilities.goes_on:
                    raise
                kept, unproven = None, True  # asked again before it goes to the store
            if kept is not None and kept.is_live(self._clock.now_ms()):
                return self._replay(kept, fingerprints, answer_type)
            try:
                return await act(ReceiptKey(key, fingerprint, unproven, -1 if unproven else as_of))
            except AskAgain:
                continue
            except SamvadError as error:
                if error.code in _KEPT_REFUSALS:
                    await self.keep(user, ReceiptKey(key, fingerprint), Refusal(error.code, error.message))
                raise
        raise Unavailable("Too many others are writing for this user; try again.")

    def _replay(
        self, kept: StoredReceipt, fingerprints: tuple[bytes, bytes | None], answer_type: type[_T]
    ) -> _T:
        if kept.fingerprint not in fingerprints:
            raise IdempotencyKeyReused
        if kept.answer is None:
            raise UserErased
        self.replays += 1
        if kept.answer.startswith(b'{"refused":'):
            refusal = msgspec.json.decode(kept.answer, type=Refusal)
            raise _KEPT_REFUSALS[refusal.code](refusal.message)
        return msgspec.json.decode(kept.answer, type=answer_type)

    async def keep(
        self, user: UserKey, receipt: ReceiptKey, answer: object, *, in_store: bool = True
    ) -> None:
        """Keep an answer by itself: of what happened in memory alone, or was a refusal.

        Where it may not be `in_store`, it is given again as long as this process lives, to the last 1,000 keys.
        """
        kept = StoredReceipt(
            receipt.key, receipt.fingerprint, self._clock.now_ms(), msgspec.json.encode(answer)
        )
        if not in_store:
            self._unkept[receipt.key] = user, kept
            while len(self._unkept) > _UNKEPT_MAX:
                self._unkept.popitem(last=False)
            return
        await self._store.commit(Commit(user, ANY_VERSION, (ReceiptKept(kept),)))

    def forget(self, user: UserKey) -> None:
        """The user was erased: of what memory alone holds of their answers, it is left that there was one."""
        for key, (owner, kept) in self._unkept.items():
            if owner == user:
                self._unkept[key] = owner, msgspec.structs.replace(kept, answer=None)
