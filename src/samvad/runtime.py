"""Samvad in a process: the service, its store and what belongs to them, opened and closed together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import msgspec

from samvad import limits, tracing
from samvad.clock import Clock, SystemClock
from samvad.errors import SetupError
from samvad.interruptions import InterruptionContextManager
from samvad.knowledge.left_indexes import remove_left
from samvad.records import UserKey
from samvad.retention.rules import RetentionOptions
from samvad.sessions.acting import SessionCore, may_keep
from samvad.sessions.cache import RecordCache
from samvad.sessions.content import EVERY_TENANT, Content
from samvad.sessions.cost import CostMeter, Prices
from samvad.sessions.elsewhere import Elsewhere
from samvad.sessions.feed import Feed
from samvad.sessions.journal import Journal
from samvad.sessions.journal_place import keeps
from samvad.sessions.journaled import JournaledStore
from samvad.sessions.lane import Lane
from samvad.sessions.lanes import Lanes
from samvad.sessions.parked import ParkedNotes
from samvad.sessions.people import PERSON_ROLES, roles_of
from samvad.sessions.plain_verbs import SyncSamvad
from samvad.sessions.receipts import Receipts
from samvad.sessions.service import SessionPersistenceService
from samvad.sessions.upkeep import tried
from samvad.sessions.user_log import Rules
from samvad.sessions.verb_spans import trace_verbs
from samvad.sessions.watching import Watcher
from samvad.stores.base import Store, TellsChanges
from samvad.stores.encrypting import Guard
from samvad.stores.observing import observe
from samvad.stores.urls import store_from_url
from samvad.types import LOCAL, Durability

if TYPE_CHECKING:
    from samvad.auth.erasure_receipts import ErasureSigner
    from samvad.knowledge.addresses import Network
    from samvad.knowledge.base import KnowledgeBase
    from samvad.knowledge.embedding import Embedder
    from samvad.retention.sweeper import Sweeper

_log = logging.getLogger(__name__)
tracing.when_used(trace_verbs)
_UPKEEP_S = 60.0


class Options(RetentionOptions, frozen=True, kw_only=True):
    """What can be set of a service, whoever runs it. Times are seconds, sizes bytes."""

    durability: Literal["auto", "store", "memory"] = "auto"
    window_messages: int = limits.WINDOW_MESSAGES
    language: str = "en"
    record_ttl_s: float = limits.RECORD_TTL_S
    cache_bytes_max: int = limits.CACHE_BYTES_MAX
    journal_bytes_max: int = limits.JOURNAL_BYTES_MAX
    session_idle_s: float = limits.SESSION_IDLE_S_MAX
    active_window_s: float = limits.ACTIVE_WINDOW_S
    record_interruptions: bool = False
    listen: bool = True
    fetch_networks: str = ""
    content: Content = "keep"
    content_none_tenants: str = ""
    person_roles: str = PERSON_ROLES
    person_instruction: bool = True
    keep_questions: Literal["no", "memory", "store"] = "memory"
    price_reads_usd: float = Prices().reads
    price_writes_usd: float = Prices().writes
    price_deletes_usd: float = Prices().deletes

    def networks(self) -> list[Network]:
        """`fetch_networks` taken apart: SetupError where one is none."""
        import ipaddress

        try:
            return [
                ipaddress.ip_network(each.strip()) for each in self.fetch_networks.split(",") if each.strip()
            ]
        except ValueError:
            raise SetupError(
                f"fetch_networks must be networks such as 10.1.0.0/16,fd12::/48, not {self.fetch_networks[:60]!r}."
            ) from None

    def unkept(self) -> frozenset[str]:
        """The tenants of which no content is kept."""
        if self.content == "none":
            return frozenset({EVERY_TENANT})
        named = (each.strip() for each in self.content_none_tenants.split(","))
        return frozenset(each for each in named if each)

    def check(self) -> None:
        """SetupError where a value cannot be."""
        if self.content not in ("keep", "none"):
            raise SetupError("content must be 'keep' or 'none'.")
        if not 1 <= self.window_messages <= limits.WINDOW_MESSAGES_MAX:
            raise SetupError(f"window_messages must be 1 to {limits.WINDOW_MESSAGES_MAX}.")
        if self.durability not in ("auto", "store", "memory"):
            raise SetupError("durability must be 'auto', 'store' or 'memory'.")
        self.networks()
        self.retention()
        roles_of(self.person_roles)
        if not isinstance(self.person_instruction, bool):  # a text such as "false" would allow it
            raise SetupError("person_instruction must be True or False.")
        for name in (
            "record_ttl_s",
            "cache_bytes_max",
            "journal_bytes_max",
            "session_idle_s",
            "active_window_s",
        ):
            if getattr(self, name) <= 0:
                raise SetupError(f"{name} must be greater than 0.")
        for name in ("price_reads_usd", "price_writes_usd", "price_deletes_usd"):
            if not getattr(self, name) >= 0:
                raise SetupError(f"{name} must not be negative.")


class Samvad(SessionPersistenceService):
    """The service of the local principal, with its store and its interruptions.

    Made by `open_samvad`. Use it as an async context manager, or with a plain `with` in a script: then
    the verbs are plain functions. It belongs to the event loop that opened it.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock | None = None,
        options: Options | None = None,
        journal_dir: str | Path | None = None,
        cost_file: Path | None = None,
        url: str = "",
        embedder: Embedder | None = None,
        master_key: str | None = None,
    ) -> None:
        self.options = options or Options()
        self.options.check()
        clock = clock or SystemClock()
        self._guard = Guard(store, master_key, journal_dir, clock)
        store = self._guard.store
        inner = store.inner if isinstance(store, JournaledStore) else store
        self.store_meter = observe(inner, lean=inner is store and journal_dir is None)
        early = self.options.durability == "memory"
        durability: Durability = "stored" if store.capabilities.durable and not early else "memory"
        if journal_dir is not None and self.options.durability == "auto":
            durability = "journaled" if keeps(Path(journal_dir)) else "memory"
        if isinstance(store, JournaledStore):
            durability = store.rules.durability
        shared = store.capabilities.shared
        rules = Rules(
            self.options.window_messages,
            self.options.language,
            durability,
            shared,
            self.options.unkept(),
        )
        if journal_dir is not None and self.options.durability == "auto":
            bytes_max = self.options.journal_bytes_max
            journal = Journal(journal_dir, clock=clock, bytes_max=bytes_max, **self._guard.journal_codec)
            store = JournaledStore(store, journal, clock=clock, rules=rules)
        self.cache: RecordCache[Lane] = RecordCache(
            clock, ttl_s=self.options.record_ttl_s, bytes_max=self.options.cache_bytes_max
        )
        lanes = Lanes(
            store, clock, rules, cache=self.cache, session_idle_s=self.options.session_idle_s, early=early
        )
        core = SessionCore(
            store=store,
            lanes=lanes,
            receipts=Receipts(store, clock, lanes.loaded),
            clock=clock,
            rules=rules,
            session_idle_s=self.options.session_idle_s,
            active_window_s=self.options.active_window_s,
            owners=OrderedDict(),
            on_erased=[self._forget_user],
            on_session_removed=[self._forget_session],
            person_roles=roles_of(self.options.person_roles),
            person_instruction=self.options.person_instruction,
            on_erasing=[] if isinstance(store, JournaledStore) else [self._erase_documents],
        )
        super().__init__(core, LOCAL)
        self.store = store
        chosen = self.options
        prices = Prices(chosen.price_reads_usd, chosen.price_writes_usd, chosen.price_deletes_usd)
        self.cost = CostMeter(store, clock, prices, path=cost_file, url=url)
        self._parked_notes: ParkedNotes | None = None
        self.erasure_signer: ErasureSigner | None = None  # of receipts, where somebody asks for one
        self.data_dir: Path | None = None  # of a server or a command: where its audit log is, if it keeps one
        self.feed = Feed(lanes)
        # Awaited when the service closes, while it still writes: who has something to keep keeps it now.
        self.before_close: list[Callable[[], Awaitable[None]]] = []
        # Awaited beside everything else once the service is open.
        self.after_open: list[Callable[[], Awaitable[None]]] = []
        if isinstance(store, JournaledStore):
            self._parked_notes = store.flusher.on_parked = ParkedNotes(store, clock)
            store.on_rebased = lanes.invalidate
            store.on_doubt = lanes.doubt
            store.on_outdated = lanes.outdated
            store.known = lanes.peek
            store.flusher.before_erasing.append(self._erase_documents)  # when the store can be reached
        self.interruptions = InterruptionContextManager(clock)
        self._knowledge: KnowledgeBase | None = None
        self._embedder = embedder
        self._upkeep: asyncio.Task[None] | None = None
        self._sweeper: Sweeper | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self.watcher: Watcher | None = None
        self._watch(store)
        self._opening: asyncio.Future[None] | None = None
        self._opened = False
        self._closed = False
        self._portal: contextlib.ExitStack | None = None

    @property
    def knowledge(self) -> KnowledgeBase:
        """The documents of the assistant, and what is found in them; nothing of it runs until it is asked."""
        if self._knowledge is None:
            from samvad.knowledge.opening import knowledge_beside

            self._knowledge = knowledge_beside(
                self.store,
                self.core.clock,
                embedder=self._embedder,
                networks=self.options.networks(),
                keeps=self.options.keep_questions,
            ).acting_as(self.principal)
            self._knowledge.core.statistics.may_keep = lambda scope: may_keep(
                self.core, scope.tenant or "", scope.user
            )
        return self._knowledge

    @property
    def knowledge_is_open(self) -> bool:
        """Whether the knowledge base was asked for already."""
        return self._knowledge is not None

    @property
    def sweeper(self) -> Sweeper:
        """Who applies the retention rules of the options."""
        if self._sweeper is None:
            from samvad.retention.opening import sweeper_of

            self._sweeper = sweeper_of(self)
        return self._sweeper

    async def open(self) -> Self:
        """Open the store; SetupError where that cannot be. Who comes while it is being opened waits for it."""
        if self._closed:
            raise SetupError("This service was closed; make another with open_samvad().")
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        try:
            await asyncio.shield(self._opening)
        except BaseException:
            if self._opening.done():
                self._opening = None
            raise
        return self

    async def _open(self) -> None:
        tracing.adopt()
        await self.cost.load()
        await self._guard.before_open()
        await self.store.open()
        await self._guard.after_open(self.store)
        if self._parked_notes is not None:
            self._parked_notes()  # what an earlier run left there is tried again
        self._opened = True
        self._upkeep = asyncio.create_task(self._keep_up())
        if self.options.retention_is_on and not getattr(self.store, "readonly", False):
            self._sweeping = asyncio.create_task(self.sweeper.run())
        if self.watcher is not None:
            self.watcher.start()

    def _watch(self, store: Store) -> None:
        """Listen to what other processes write, where the store tells it."""
        if not self.options.listen or not store.capabilities.tells:
            return
        elsewhere = Elsewhere(self.core, self.interruptions.users, self._gone)
        inner = store.inner if isinstance(store, JournaledStore) else store
        self.watcher = Watcher(cast(TellsChanges, inner), elsewhere.heard)
        if isinstance(store, JournaledStore):
            store.on_back = self.watcher.again

    @property
    def is_open(self) -> bool:
        """Whether the service was opened (once closed, it stays so for those who ask here: it will not reopen)."""
        return self._opened or self._closed

    async def aclose(self, drain_s: float = limits.DRAIN_S_MAX) -> int:
        """Finish what is under way, for at most `drain_s`, and close; returns how many operations were left over."""
        if not self._opened:
            return 0
        for listener in self.before_close:
            await listener()
        self._opened = False
        self._closed = True
        for task in (self._upkeep, self._sweeping):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self.watcher is not None:
            await self.watcher.stop()
        ends_s = self.core.clock.monotonic_s() + drain_s
        left = await self.core.lanes.drain(drain_s)
        if isinstance(self.store, JournaledStore):
            left += await self.store.drain(max(0.0, ends_s - self.core.clock.monotonic_s()))
        if self._knowledge is not None:
            await self._knowledge.core.statistics.close()
            await self._knowledge.core.shelf.close()
        await tried(self._guard.keep_up(self.store))
        await self.store.close()
        await self._guard.close()
        await self.cost.save()
        if self._parked_notes is not None:
            await self._parked_notes.settle()
        return left

    async def _keep_up(self) -> None:
        for listener in self.after_open:
            await tried(listener())
        await tried(remove_left(self.store, self._knowledge, None))
        while True:
            await asyncio.sleep(_UPKEEP_S)
            self.cache.sweep()
            await tried(self.cost.save())
            await tried(self._guard.keep_up(self.store))
            before_ms = self.core.clock.now_ms() - limits.IDEMPOTENCY_TTL_S * 1000
            await tried(self.store.expire(receipts_before_ms=before_ms))

    def _forget_session(self, tenant: str, session_id: str) -> None:
        self.interruptions.clear(session_id, tenant=tenant)

    def _forget_user(self, key: UserKey) -> None:
        """Drop what memory beside the cache holds of an erased user."""
        self._guard.erased()
        self.core.receipts.forget(key)
        self.interruptions.clear_user(key.user_id, tenant=key.tenant)
        if self._knowledge is not None:
            self._knowledge.forget_user(key.tenant, key.user_id)
        for place in [place for place, owner in self.core.owners.items() if owner == key]:
            del self.core.owners[place]

    async def _gone(self, user_hash: bytes | None) -> None:
        """Another process erased somebody, or may have: what files here hold of them."""
        self._guard.erased()
        await tried(remove_left(self.store, self._knowledge, user_hash))

    async def _erase_documents(self, key: UserKey) -> None:
        """Remove an erased user's documents; they go first, so that none outlives its user."""
        from samvad.knowledge.opening import has_documents

        if self._knowledge is not None or has_documents(self.store):
            await self.knowledge.erase_user(key.tenant, key.user_id)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> SyncSamvad:
        from anyio.from_thread import start_blocking_portal

        with contextlib.ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            stack.enter_context(portal.wrap_async_context_manager(self))
            self._portal = stack.pop_all()
        return SyncSamvad(self, portal.call)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._portal is not None:
            self._portal.__exit__(kind, error, trace)
            self._portal = None


def open_samvad(
    url: str = "sqlite:///samvad.db",
    *,
    clock: Clock | None = None,
    store: Store | None = None,
    journal_dir: str | Path | None = None,
    cost_file: str | Path | None = None,
    embedder: Embedder | None = None,
    master_key: str | None = None,
    **settings: Any,
) -> Samvad:
    """The service over the store that `url` names (or over `store`), to be entered with `async with` or `with`.

    With `journal_dir`, writes are acknowledged once they are in a journal there, and go to the store behind it.
    With an `embedder`, the knowledge base finds by meaning as well as by words.
    With `cost_file`, what the store bills is added up there over restarts (see `samvad.cost`).
    With `master_key`, what is kept is encrypted (see the how-to on encryption).
    `settings` are the fields of `Options`; `vfs`, `wal_pages_max` and `readonly` go to the SQLite store.
    Raises SetupError for a bad URL or setting; opening raises it where the store cannot be opened.

    >>> with open_samvad("memory://") as samvad:
    ...     samvad.append_to_user_history("user_456", "user", "Hello").seq
    1
    """
    store_settings: dict[str, Any] = {
        name: settings.pop(name)
        for name in ("vfs", "wal_pages_max", "readonly", "synchronous")
        if name in settings
    }
    if store_settings and not url.startswith("sqlite:"):
        raise SetupError(
            f"{', '.join(store_settings)} is a setting of the SQLite store; {url!r} names another."
        )
    known = [field.name for field in msgspec.structs.fields(Options)]
    if unknown := sorted(set(settings) - set(known)):
        raise SetupError(f"There is no setting {unknown[0]!r}; there are: {', '.join(known)}.")
    try:
        options = msgspec.convert(settings, Options, strict=True)
    except msgspec.ValidationError as error:
        raise SetupError(f"A setting does not fit: {error}.") from None
    clock = clock or SystemClock()
    if journal_dir is not None and url.startswith("firestore:"):
        store_settings["attempts_max"] = 2  # the flusher tries again, and knows when the store is down
    return Samvad(
        store or store_from_url(url, clock, **store_settings),
        clock=clock,
        options=options,
        journal_dir=journal_dir,
        cost_file=None if cost_file is None else Path(cost_file),
        url=url,
        embedder=embedder,
        master_key=master_key,
    )
