"""Who is asking, and what all services share: the ground on which the verbs stand."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from samvad.clock import Clock
from samvad.errors import Forbidden, Unavailable
from samvad.records import (
    Committed,
    Removed,
    StoredSession,
    UserKey,
    UserRecord,
    Version,
)
from samvad.sessions import content, user_log, views
from samvad.sessions.lanes import Lanes
from samvad.sessions.people import check_instruction, check_role
from samvad.sessions.receipts import Receipts
from samvad.sessions.validation import check_id
from samvad.stores.base import Store
from samvad.types import Principal, Session

_decode = msgspec.json.decode

_T = TypeVar("_T")
_SEQ_MAX = 1 << 62  # more than will ever be said, and a store may count in 64 bits


_UNKNOWN = UserRecord(Version(0, 0))
_WIRE_NAMES = {"session_id": "sessionId", "tool_calls": "toolCalls", "tool_call_id": "toolCallId"}


@dataclass(frozen=True, slots=True)
class SessionCore:
    """What the services of all principals share."""

    store: Store
    lanes: Lanes
    receipts: Receipts
    clock: Clock
    rules: user_log.Rules
    session_idle_s: float
    active_window_s: float
    owners: OrderedDict[tuple[str, str], UserKey]
    # Called at once when a user was erased, or a session (tenant, id) removed: who holds something of them drops it.
    on_erased: list[Callable[[UserKey], None]]
    on_session_removed: list[Callable[[str, str], None]]
    person_roles: frozenset[str]  # of the messages that people may write; programs may write all
    person_instruction: bool  # whether people may set the instruction of their own live conversations
    # Awaited before a user is erased: who keeps something of them elsewhere removes it, or raises.
    on_erasing: Sequence[Callable[[UserKey], Awaitable[None]]] = ()


class Acting:
    """Acts for one principal; there is no verb without one, so that no door can forget to ask."""

    def __init__(self, core: SessionCore, principal: Principal) -> None:
        self.core = core
        self.principal = principal

    # --- for those who need the bytes ---------------------------------------------------------------------

    async def read_user(self, user_id: str) -> UserRecord:
        """The user's record as it is kept: JSON as encoded bytes."""
        return await self.core.lanes.read(self._user(user_id))

    def preferences(self, record: UserRecord) -> bytes:
        """The preferences of a record as JSON, or the defaults."""
        return views.preferences(record, self.core.rules)

    def is_active(self, record: UserRecord) -> bool:
        """Whether the user's state or an open session was touched within the last 30 minutes."""
        return views.is_active(record, self.core.clock.now_ms() - round(self.core.active_window_s * 1000))

    def session_of(self, stored: StoredSession) -> Session:
        """A session as callers see it; one that has been idle for too long counts as ended."""
        return views.session_of(stored, self.core.rules, self._open_after_ms())

    # --- inside ----------------------------------------------------------------------------------------

    def need(self, scope: str) -> None:
        """Forbidden unless a program with this scope is asking."""
        if not self.principal.may(scope):
            raise Forbidden

    def need_role(self, role: str) -> None:
        """RoleForbidden unless the principal may write messages of this role."""
        if self.principal.user is not None:
            check_role(role, self.core.person_roles)

    def need_instruction(self) -> None:
        """RoleForbidden unless the principal may set the instruction of a live conversation."""
        if self.principal.user is not None:
            check_instruction(self.core.person_instruction)

    def _user(self, user_id: str, scope: str = "users") -> UserKey:
        """The key of a user that the principal reaches: themself, or with `scope` any of the tenant.

        Forbidden is said before anything is looked up, so that it says nothing of who is there.
        """
        tenant, user, scopes, session = self.principal
        # Of a user who is in memory, the id was checked when they came there. Who that is, people do not find out.
        mine = user is None or user == user_id
        lane = self.core.lanes.cache.find((tenant, user_id)) if mine and isinstance(user_id, str) else None
        key = lane.key if lane is not None else UserKey(tenant, check_id(user_id, "userId"))
        if user is None:
            if scope not in scopes:
                self.need(scope)
        elif user != user_id or session is not None:
            raise Forbidden
        return key

    def _open_after_ms(self) -> int:
        return self.core.clock.now_ms() - round(self.core.session_idle_s * 1000)


def is_kept(core: SessionCore, key: UserKey) -> bool:
    """Whether the content of what a user says is kept, as far as memory tells; for who has asked already."""
    record = core.lanes.peek(key)
    return content.keeps_content(record or _UNKNOWN, key.tenant, core.rules.unkept)


async def may_keep(core: SessionCore, tenant: str, user_id: str | None) -> bool:
    """As `is_kept`, certain: False where it cannot be known now. None: of what belongs to no user."""
    if user_id is not None:
        try:
            await core.lanes.read(UserKey(tenant, user_id))
        except Unavailable:
            return False
    return is_kept(core, UserKey(tenant, user_id or ""))


def wire_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields named in Python's way, named as on the wire; others as they are."""
    return {_WIRE_NAMES.get(name, name): value for name, value in fields.items()}


async def to_the_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Do all of it, also where the caller gives up: what memory holds goes together with what the store held."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)


def removed_by(committed: Committed | None) -> Removed:
    """What a commit removed; nothing, where nothing had to be written."""
    return Removed() if committed is None else committed.removed
