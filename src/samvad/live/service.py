"""All live conversations of a server: who talks in which session, and what they share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from samvad import limits, logs
from samvad.errors import InvalidRequest, Overloaded
from samvad.live.context import Background
from samvad.live.conversation import Conversation
from samvad.live.meter import LiveMeter
from samvad.live.open_turns import OpenTurns
from samvad.live.parts import LiveOptions, Parts
from samvad.live.providers.base import Provider
from samvad.live.recovery import recover_left_over
from samvad.live.tokens import ResumeTokens, load_key
from samvad.live.tools import ToolRegistry
from samvad.records import UserKey
from samvad.sessions.service import SessionPersistenceService
from samvad.stores.encrypting import data_keys_around
from samvad.types import trusted

if TYPE_CHECKING:
    from samvad.live.connection import Connection
    from samvad.runtime import Samvad

_log = logging.getLogger(__name__)
FOLDER: Final = "live"
EXTRACTIVE: Final = "extractive"
_CLOSE_S: Final = 3.0

MakeProvider = Callable[[str], Provider]


class LiveService:
    """The live half of a server, over an open service.

    `make_provider` gives a provider by name; `provider` is the name of the one that answers where a client names
    none. `directory` is where the key of resume tokens and the list of turns under way are kept (None: in memory).
    SetupError where a part cannot be made.
    """

    def __init__(
        self,
        samvad: Samvad,
        make_provider: MakeProvider,
        *,
        provider: str = EXTRACTIVE,
        options: LiveOptions | None = None,
        tools: ToolRegistry | None = None,
        directory: Path | None = None,
        secret: str | None = None,
    ) -> None:
        self.samvad = samvad
        self.options = options or LiveOptions()
        self.provider_name = provider
        self._make_provider = make_provider
        self._providers: dict[str, Provider] = {}
        self.tokens = ResumeTokens(
            load_key(directory, secret), samvad.core.clock, ttl_s=self.options.token_ttl_s
        )
        folder = None if directory is None else directory / FOLDER
        self.meter = LiveMeter()
        self.parts = Parts(
            samvad,
            self.options,
            tools or ToolRegistry(),
            OpenTurns(folder, data_keys_around(samvad.store)),
            self._opened,
            self.meter,
        )
        self.on_first_open: Callable[[], None] = lambda: None  # a provider has imported what it needs
        self._opened_once: set[str] = set()
        self.conversations: dict[tuple[str, str], Conversation] = {}
        self.connections: dict[Connection, UserKey | None] = {}
        self._leaving: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        samvad.core.on_erased.append(self._erased)
        samvad.core.on_session_removed.append(self._session_removed)
        samvad.before_close.append(self.close)

    # --- connections -------------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> None:
        """Take in a connection; Overloaded where there are too many."""
        if self._closing or len(self.connections) >= self.options.sockets_max:
            raise Overloaded("Too many live conversations; try again soon.")
        self.connections[connection] = None

    def belongs_to(self, connection: Connection, key: UserKey) -> None:
        """The connection is this user's; Overloaded where the user has too many."""
        count = sum([owner == key for owner in self.connections.values()])
        if count >= self.options.sockets_per_user_max:
            raise Overloaded("This user has too many live conversations; close one first.")
        self.connections[connection] = key
        logs.concerns(*key)

    def dismiss(self, connection: Connection) -> None:
        """The connection is gone."""
        self.connections.pop(connection, None)

    # --- conversations -----------------------------------------------------------------------------------

    def provider(self, name: str | None) -> Provider:
        """The provider that a client asked for, or the server's own. InvalidRequest for another one."""
        name = name or self.provider_name
        if name not in (self.provider_name, EXTRACTIVE):
            raise InvalidRequest(f"This server answers with {self.provider_name!r}; leave `provider` out.")
        found = self._providers.get(name)
        if found is None:
            found = self._providers[name] = self._make_provider(name)
        return found

    def _opened(self, name: str) -> None:
        if name not in self._opened_once:
            self._opened_once.add(name)
            self.on_first_open()

    def find(self, key: UserKey, session_id: str) -> Conversation | None:
        """The conversation of a session that is open in this process."""
        conversation = self.conversations.get((key.tenant, session_id))
        if conversation is None or conversation.closed or conversation.key != key:
            return None
        return conversation

    def begin(
        self,
        service: SessionPersistenceService,
        key: UserKey,
        session_id: str,
        known: Background,
        *,
        provider: str | None,
        language: str,
        system_instruction: str,
        client_activity: bool,
    ) -> Conversation:
        """A new conversation in a session. Overloaded where there are too many."""
        if len(self.conversations) >= limits.LIVE_CONVERSATIONS_MAX:
            self._drop_one_that_waits()
        conversation = Conversation(
            self.parts,
            service,
            key,
            session_id,
            self.provider(provider),
            known,
            language=language,
            system_instruction=system_instruction,
            client_activity=client_activity,
        )
        self.conversations[key.tenant, session_id] = conversation
        return conversation

    def stays(self, conversation: Conversation) -> None:
        """Its client is back."""
        timer = self._leaving.pop((conversation.key.tenant, conversation.session_id), None)
        if timer is not None:
            timer.cancel()

    def waits(self, conversation: Conversation) -> None:
        """Its client is gone, and may come back for a while."""
        self.stays(conversation)
        if conversation.closed or self._closing:
            return
        place = (conversation.key.tenant, conversation.session_id)
        loop = asyncio.get_running_loop()
        self._leaving[place] = loop.call_later(
            self.options.detached_s, lambda: self.spawn(self.end(conversation))
        )

    async def end(self, conversation: Conversation) -> None:
        """The conversation is over."""
        self.stays(conversation)
        place = (conversation.key.tenant, conversation.session_id)
        if self.conversations.get(place) is conversation:
            del self.conversations[place]
        await conversation.close()

    def _drop_one_that_waits(self) -> None:
        for place in self._leaving:
            self.spawn(self.end(self.conversations[place]))
            return
        raise Overloaded("Too many live conversations; try again soon.")

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do this beside everything else; what goes wrong is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_done)

    def _spawned_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a task of the live service failed", exc_info=task.exception())

    # --- what happens elsewhere ----------------------------------------------------------------------------

    def _erased(self, key: UserKey) -> None:
        for place, conversation in list(self.conversations.items()):
            if conversation.key == key:
                self._abandon(place, conversation, "erased")
        for connection, owner in list(self.connections.items()):
            if owner == key:
                connection.end("erased")
        self.parts.open_turns.forget(key)

    def _session_removed(self, tenant: str, session_id: str) -> None:
        conversation = self.conversations.get((tenant, session_id))
        if conversation is not None:
            self._abandon((tenant, session_id), conversation, "deleted")

    def _abandon(self, place: tuple[str, str], conversation: Conversation, reason: str) -> None:
        del self.conversations[place]
        self.stays(conversation)
        if conversation.line is not None:
            conversation.line.end(reason)
        self.spawn(conversation.abandon())

    async def recover(self) -> int:
        """Bring to their end the turns that a killed server left; how many there were."""
        try:
            return await recover_left_over(
                lambda tenant: self.samvad.acting_as(trusted(tenant)), self.parts.open_turns
            )
        except OSError as error:
            _log.warning("the list of turns under way cannot be read", extra={"fault": error.strerror})
            return 0

    def say_goodbye(self) -> None:
        """The server stops: tell every client."""
        for connection in list(self.connections):
            connection.end("server_stopping")

    async def close(self) -> None:
        """Say goodbye to all clients, keep what was said, and let the providers go."""
        if self._closing:
            return
        self._closing = True
        self.say_goodbye()
        for timer in self._leaving.values():
            timer.cancel()
        closing = [asyncio.ensure_future(each.close()) for each in self.conversations.values()]
        self.conversations.clear()
        if closing:
            await asyncio.wait(closing, timeout=_CLOSE_S)
        for provider in self._providers.values():
            await provider.close()
