"""Master keys in Cloud KMS: Google's own client against a server that speaks the service's protocol."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from samvad import open_samvad
from samvad.errors import SetupError, StoreUnavailable
from samvad.stores import master_keys
from samvad.stores.data_key_file import DataKeyFile
from samvad.stores.data_keys import DataKeys
from samvad.stores.encrypting import keys_file
from samvad.stores.master_keys import KmsMasterKey
from tests.encryption.kms import KEY_NAME, CloudKms
from tests.google_server import Refusal

pytestmark = pytest.mark.anyio
CONTEXT = b"samvad ring\0ring"
KEY = bytes(range(32))


def test_a_key_is_wrapped_and_comes_back() -> None:
    """Bound to its context, routed by the name of the key, and never the same twice."""
    with CloudKms() as cloud:
        master = KmsMasterKey(KEY_NAME, cloud.client())
        wrapped = master.wrap(KEY, CONTEXT)
        assert KEY not in wrapped and wrapped != master.wrap(KEY, CONTEXT)
        assert master.unwrap(wrapped, CONTEXT) == KEY
        assert set(cloud.routed) == {f"name={KEY_NAME}"}
        with pytest.raises(SetupError, match="the key that wrapped it"):
            master.unwrap(wrapped, CONTEXT + b"!")
        with pytest.raises(SetupError, match="the key that wrapped it"):
            master.unwrap(wrapped[:-1] + bytes([wrapped[-1] ^ 1]), CONTEXT)


def test_what_is_damaged_on_the_way_is_not_believed() -> None:
    """One bit of an answer is another: a key that was wrapped wrongly would open nothing, when it is too late."""
    with CloudKms() as cloud:
        master = KmsMasterKey(KEY_NAME, cloud.client())
        wrapped = master.wrap(KEY, CONTEXT)
        cloud.damage = True
        with pytest.raises(StoreUnavailable, match="damaged on the way"):
            master.wrap(KEY, CONTEXT)
        with pytest.raises(StoreUnavailable, match="damaged on the way"):
            master.unwrap(wrapped, CONTEXT)


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, SetupError, "roles/cloudkms.cryptoKeyEncrypterDecrypter"),
        (grpc.StatusCode.NOT_FOUND, SetupError, "a key that is there and enabled"),
        (grpc.StatusCode.FAILED_PRECONDITION, SetupError, "a key that is there and enabled"),
        (grpc.StatusCode.INTERNAL, StoreUnavailable, "does not answer"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, StoreUnavailable, "does not answer"),
    ],
)
def test_a_refusal_says_what_to_do(code: grpc.StatusCode, kind: type[Exception], says: str) -> None:
    """An operator's mistake is told from a service that is away."""
    with CloudKms(lambda method, asked: Refusal(code, "No.")) as cloud:
        master = KmsMasterKey(KEY_NAME, cloud.client())
        with pytest.raises(kind) as refused:
            master.wrap(KEY, CONTEXT)
        assert says in str(refused.value) and KEY_NAME in str(refused.value)


def test_a_short_absence_is_not_noticed() -> None:
    """The client asks again."""
    refusals = [Refusal(grpc.StatusCode.UNAVAILABLE, "Away.")] * 2
    with CloudKms(lambda method, asked: refusals.pop() if refusals else None) as cloud:
        master = KmsMasterKey(KEY_NAME, cloud.client())
        assert master.unwrap(master.wrap(KEY, CONTEXT), CONTEXT) == KEY
        assert cloud.asked == ["Encrypt"] * 3 + ["Decrypt"]


async def test_a_store_is_kept_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting as it stands in the manual: written, read by the next process, rotated to a key of one's own."""
    path = tmp_path / "samvad.db"
    setting = f"gcpkms://{KEY_NAME}"
    with CloudKms() as cloud:
        made: list[Any] = []

        def client(*args: Any, **kwargs: Any) -> Any:
            made.append(cloud.client())
            return made[-1]

        monkeypatch.setattr("google.cloud.kms.KeyManagementServiceClient", client)
        async with open_samvad(f"sqlite:///{path}", master_key=setting) as samvad:
            await samvad.append_to_user_history("asha", "user", "kept by Google's key")
        first = len(cloud.asked)
        assert b"kept by Google" not in path.read_bytes()
        async with open_samvad(f"sqlite:///{path}", master_key=setting) as samvad:
            for _ in range(3):
                profile = await samvad.get_user_profile("asha")
        assert [message.content for message in profile.conversation_history] == ["kept by Google's key"]
        assert cloud.asked[first:] == ["Decrypt"]  # once a start, not once a user
        own = "A" * 43 + "="
        keys = DataKeys(DataKeyFile(keys_file(path)), master_keys.master_keys(f"{own},{setting}"))
        await keys.open()
        await keys.rewrap()
        await keys.close()
        asked = len(cloud.asked)
        async with open_samvad(f"sqlite:///{path}", master_key=own) as samvad:
            profile = await samvad.get_user_profile("asha")
        assert [message.content for message in profile.conversation_history] == ["kept by Google's key"]
        assert len(cloud.asked) == asked
    async with open_samvad(
        f"sqlite:///{path}", master_key=f"{own},{setting}"
    ) as samvad:  # nor is it asked now
        assert (await samvad.get_user_profile("asha")).conversation_history


async def test_a_long_absence_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's own client goes on for a minute, whatever the time of one call: a start does not wait so long."""
    monkeypatch.setattr("samvad.stores.master_keys._KMS_TIMEOUT_S", 0.5)
    away = Refusal(grpc.StatusCode.UNAVAILABLE, "Try again.")
    with CloudKms(lambda method, asked: away) as running:
        master = KmsMasterKey(KEY_NAME, running.client())
        asking = asyncio.ensure_future(asyncio.to_thread(master.wrap, KEY, CONTEXT))
        told, _ = await asyncio.wait([asking], timeout=20)
        assert told and isinstance(asking.exception(), StoreUnavailable)
