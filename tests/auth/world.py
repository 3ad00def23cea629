"""Two tenants with the same users in them, and everybody who may ask: for the matrix of access."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from samvad import Samvad, open_samvad
from samvad.auth.api_keys import ApiKey, make_key
from samvad.auth.authenticator import Authenticator
from samvad.auth.keyring import Keyring, encoded
from samvad.http.app import create_app
from samvad.knowledge.store import KnowledgeStore
from samvad.stores.base import Store
from samvad.stores.memory import MemoryStore
from samvad.types import SCOPES, trusted
from tests.http.support import Api, HandClock

CANARY = "canary7f3a"
# Names of one length, so that answers about them can be compared byte by byte.
ASHA, BALA, NOBODY = "user_asha", "user_bala", "user_none"
MISSING = {"user": NOBODY, "session": "session_none", "document": "kb_none"}
OF_ASHA = {"user": ASHA, "session": "session_asha", "document": "kb_asha"}


# What is asked of a store of conversations, and of one of documents: all of their protocols but their own upkeep.
_UPKEEP = {"open", "close", "check", "expire", "changes"}
ASKED = {
    each: {name for name, of in vars(each).items() if inspect.isfunction(of) and name[0] != "_"} - _UPKEEP
    for each in (Store, KnowledgeStore)
}


class SpyStore:
    """A store, noting what it is asked in `asked`, so that two requests can be told to have cost the same."""

    def __init__(self, store: Any, protocol: type, asked: list[str]) -> None:
        self._store = store
        self._noted = ASKED[protocol]
        self.asked = asked

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in self._noted:
            return found

        def noting(*args: Any, **kwargs: Any) -> Any:  # at the call: who counts calls holds on to the method
            self.asked.append(f"{type(self._store).__name__}.{name}")
            return found(*args, **kwargs)

        return noting


class HeldKeys:
    """Keys in memory, for a keyring that reads them as it reads a file."""

    place = "a test"
    every_s = 5.0

    def __init__(self) -> None:
        self.keys: list[ApiKey] = []
        self.used: dict[str, int] = {}

    async def load(self) -> bytes | None:
        return encoded(self.keys) if self.keys else None

    async def change(self, make: Any) -> None:
        raise NotImplementedError

    async def load_used(self) -> dict[str, int]:
        return self.used

    async def save_used(self, used: Any) -> None:
        self.used |= used


class World(NamedTuple):
    """The application, and who may ask it."""

    api: Api
    samvad: Samvad
    auth: Authenticator
    clock: HandClock
    keys: HeldKeys
    store: SpyStore

    def key(self, *scopes: str, tenant: str = "default", **more: Any) -> str:
        """A new API key."""
        text, key_id, digest = make_key()
        made = ApiKey(
            id=key_id,
            name="test",
            digest=digest,
            scopes=frozenset(scopes),
            created_ms=0,
            tenant=tenant,
            **more,
        )
        self.keys.keys.append(made)
        return text

    def token(
        self, user: str, *, tenant: str = "default", session: str | None = None, ttl_s: int = 900
    ) -> str:
        """A token of a user, as a back end mints it."""
        return self.auth.tokens.sign(self.auth.tokens.claims(tenant, user, session, None, ttl_s))

    async def snapshot(self) -> str:
        """All that there is, as a text."""
        found: list[Any] = []
        for tenant in ("default", "other"):
            service = self.samvad.acting_as(trusted(tenant))
            for user in await service.list_users():
                record = await service.read_user(user)
                found.append(
                    [
                        tenant,
                        user,
                        record.version,
                        repr(record.state),
                        repr(record.window),
                        repr(record.profile),
                    ]
                )
                found.append(repr(await service.get_user_sessions(user)))
                documents = self.samvad.knowledge.acting_as(trusted(tenant))
                found.append(repr(await documents.list_documents(user_id=user)))
            held = self.samvad.interruptions
            found += [repr(held.list(name, tenant=tenant)) for name in ("session_asha", "session_bala")]
        return json.dumps(found, default=repr)


def bearing(token: str | None) -> dict[str, str]:
    """The header that brings a token."""
    return {} if token is None else {"authorization": f"Bearer {token}"}


async def populate(samvad: Samvad) -> None:
    """Give everybody what they have; again, where some of it was removed."""
    for tenant, user, mark in (
        ("default", ASHA, CANARY),
        ("default", BALA, "bala"),
        ("other", BALA, f"{CANARY}-other"),
    ):
        service, name = samvad.acting_as(trusted(tenant)), user.removeprefix("user_")
        await service.save_user_state(user, {"mark": mark})
        await service.save_user_profile(user, {"mark": mark})
        await service.append_to_user_history(user, "user", f"I say {mark}", id=f"m-{mark}")
        await service.save_session(f"session_{name}", user, mark=mark)
        samvad.interruptions.push(
            f"session_{name}",
            user,
            tenant=tenant,
            type="BARGE_IN",
            full_text=f"{mark} and on",
            heard_text=mark,
        )
        documents = samvad.knowledge.acting_as(trusted(tenant))
        await documents.add_text(f"Note {mark}", f"The {mark} is here.", id=f"kb_{name}", user_id=user)


@contextlib.asynccontextmanager
async def world(**options: Any) -> AsyncIterator[World]:
    """Asha and Bala in the tenant `default`, each with everything that a user can have; Bala in `other` as well."""
    clock, keys = HandClock(), HeldKeys()
    store = SpyStore(MemoryStore(), Store, [])
    async with open_samvad("memory://", clock=clock, store=store, **options) as samvad:  # type: ignore[arg-type]
        shelf = samvad.knowledge.core.shelf
        shelf.store = SpyStore(shelf.store, KnowledgeStore, store.asked)  # type: ignore[assignment]
        auth = Authenticator(clock, keyring=Keyring(keys, clock), required=True)
        found = World(Api(samvad, create_app(samvad, auth=auth)), samvad, auth, clock, keys, store)
        await populate(samvad)
        yield found


ALL = tuple(sorted(SCOPES - {"admin"}))


class Socket:
    """A client of /api/live, over ASGI."""

    def __init__(self, here: World, token: str | None, by: str = "header") -> None:
        self.inbound: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.inbound.put_nowait({"type": "websocket.connect"})
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.warnings: list[dict[str, Any]] = []
        subprotocols, headers = ["samvad.v1"], []
        if token is not None and by == "header":
            headers.append((b"authorization", f"Bearer {token}".encode()))
        elif token is not None:
            subprotocols.append(f"samvad.bearer.{token}")
        scope = {
            "type": "websocket",
            "path": "/api/live",
            "raw_path": b"/api/live",
            "headers": headers,
            "subprotocols": subprotocols,
            "extensions": {"websocket.http.response": {}},
            "client": ("127.0.0.1", 5),
        }
        self.task = asyncio.create_task(here.api.app(scope, self.inbound.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.put_nowait(message)

    def send(self, frame: dict[str, Any]) -> None:
        """A frame of the client's."""
        self.inbound.put_nowait({"type": "websocket.receive", "text": json.dumps(frame)})

    async def next(self) -> Any:
        """What the server sends next: a frame, or another message of ASGI."""
        async with asyncio.timeout(20):
            message = await self.sent.get()
        found = json.loads(message["text"]) if message.get("text") else message
        if found["type"] == "warning":
            self.warnings.append(found)
        return found

    async def warning(self) -> Any:
        """The last warning, or else the next one."""
        while not self.warnings:
            await self.next()
        return self.warnings.pop()

    async def until(self, *kinds: str) -> Any:
        """The next frame of one of these types."""
        while (found := await self.next()).get("type") not in kinds:
            assert CANARY not in json.dumps(found, default=repr)
        return found

    async def close(self) -> None:
        """The client goes."""
        self.inbound.put_nowait({"type": "websocket.disconnect"})
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
