"""The keys of back ends in Firestore: all replicas read them, and no change is lost."""

from __future__ import annotations

import asyncio

import pytest

from samvad.auth.api_keys import ApiKey, make_key
from samvad.auth.authenticator import Authenticator
from samvad.auth.keyring import Keyring, decoded, encoded
from samvad.errors import Unauthenticated
from samvad.stores.firestore_keys import FirestoreKeys
from tests.firestore.support import open_store
from tests.http.support import HandClock

pytestmark = pytest.mark.anyio


def new_key(name: str) -> tuple[str, ApiKey]:
    """A key that reaches users."""
    text, key_id, digest = make_key()
    return text, ApiKey(id=key_id, name=name, digest=digest, scopes=frozenset({"users"}), created_ms=0)


async def test_replicas_share_their_keys() -> None:
    """Made by one process at the same time as by others, known to all; revoked for all; last used by any."""
    store = await open_store()
    try:
        sources = [FirestoreKeys(store.client, store.names) for _ in range(3)]
        assert await sources[0].load() is None and await sources[0].load_used() == {}
        keys = [new_key(f"key {number}") for number in range(8)]

        await asyncio.gather(
            *[
                sources[number % 3].change(
                    lambda raw, key=key: encoded([*decoded(raw, "test"), key])  # type: ignore[misc]
                )
                for number, (_, key) in enumerate(keys)
            ]
        )
        clock = HandClock()
        replicas = [Authenticator(clock, keyring=Keyring(source, clock)) for source in sources]
        for replica in replicas:
            await replica.ready()
            for text, key in keys:
                assert (await replica.identify(text)).key_id == key.id
        gone_text, gone = keys[0]
        await sources[1].change(lambda raw: encoded([k for k in decoded(raw, "test") if k.id != gone.id]))
        for replica in replicas:
            await replica.refresh()
            with pytest.raises(Unauthenticated):
                await replica.identify(gone_text)
            await replica.keyring.save_used(at_once=True)
        used = await sources[2].load_used()
        assert used == {key.id: clock.now_ms() for _, key in keys}
        clock.advance(3_600)
        await sources[0].save_used({keys[1][1].id: clock.now_ms()})
        assert await sources[1].load_used() == used | {keys[1][1].id: clock.now_ms()}
    finally:
        await store.close()
