"""API keys and minted tokens: made, kept as hashes, rotated, revoked; by the library and by the command line."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from samvad import limits
from samvad.auth import api_keys
from samvad.auth.api_keys import ApiKey, id_of, make_key
from samvad.auth.authenticator import Authenticator
from samvad.auth.keyring import FileKeys, Keyring, decoded, encoded
from samvad.auth.user_tokens import UserTokens
from samvad.errors import SetupError, Unauthenticated, Unavailable
from tests.auth.world import HeldKeys
from tests.cli.processes import Server, refusal, run
from tests.http.support import HandClock
from tests.support import wait_until, wait_until_async

pytestmark = pytest.mark.anyio


def test_a_key_says_what_it_is() -> None:
    """256 random bits, a prefix for scanners, and a checksum by which a mistyped key is told from a wrong one."""
    made = [make_key() for _ in range(100)]
    assert len({text for text, _, _ in made}) == 100
    for text, key_id, digest in made:
        assert re.fullmatch(r"samvad_k1_[0-9A-Za-z]{10}_[0-9A-Za-z]{49}", text)
        assert id_of(text) == key_id and text not in digest
        for at in range(len(text)):
            other = "x" if text[at] != "x" else "y"
            assert id_of(text[:at] + other + text[at + 1 :]) is None
        assert id_of(text[:-1]) is id_of(text + "a") is id_of(text + "\n") is None
    assert 62**api_keys._SECRET_CHARS > 2**256


async def keyring(clock: HandClock, *keys: ApiKey) -> tuple[Keyring, HeldKeys]:
    held = HeldKeys()
    held.keys.extend(keys)
    found = Keyring(held, clock)
    await found.refresh()
    return found, held


def key_of(**more: Any) -> tuple[str, ApiKey]:
    text, key_id, digest = make_key()
    fields: dict[str, Any] = {"scopes": frozenset({"users"}), "created_ms": 0, "name": "test"}
    return text, ApiKey(id=key_id, digest=digest, **(fields | more))


async def test_only_the_key_itself_is_taken() -> None:
    """Neither one of another secret, nor one that has ended, was revoked, or is not there."""
    clock = HandClock()
    now_ms = clock.now_ms()
    good, one = key_of(expires_ms=now_ms + 1_000)
    gone, two = key_of(revoked_ms=now_ms)
    over, three = key_of(expires_ms=now_ms)
    ring, _ = await keyring(clock, one, two, three)
    assert ring.check(good) == one
    stranger, four = key_of()
    forged = f"samvad_k1_{one.id}_{stranger.split('_')[3][:43]}"
    assert ring.check(forged + api_keys.check_of(forged)) is None
    assert [ring.check(each) for each in (gone, over, stranger, "", "samvad_k1_")] == [None] * 5
    clock.advance(1)
    assert ring.check(good) is None
    assert four.principal.scopes == {"users"}


async def test_scopes_that_are_not_known_count_for_nothing() -> None:
    """A keyring of a newer version opens nothing here by accident."""
    _, key = key_of(scopes=frozenset({"users", "root"}))
    assert key.principal.scopes == {"users"}


async def test_when_a_key_was_used_is_noted_now_and_then() -> None:
    """To ten minutes: not a write for every request."""
    clock = HandClock()
    text, key = key_of()
    ring, held = await keyring(clock, key)
    first_ms = clock.now_ms()
    for _ in range(100):
        ring.check(text)
        await ring.save_used()
    assert held.used == {}
    clock.advance(limits.KEY_USED_S + 1)
    await ring.save_used()
    assert held.used == {key.id: first_ms}


async def test_keys_go_on_while_their_place_is_down_and_not_for_ever(tmp_path: Path) -> None:
    """For a day as they were last known, over a restart too; then it is 503, for nobody knows."""
    clock = HandClock()
    text, key = key_of()
    held = HeldKeys()
    held.keys.append(key)
    copy = tmp_path / "data" / "keys-copy.json"
    first = Authenticator(clock, keyring=Keyring(held, clock, copy=copy))
    await first.ready()
    assert (await first.identify(text)).principal.user is None
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600 and text.encode() not in copy.read_bytes()

    class Down(HeldKeys):
        async def load(self) -> bytes | None:
            raise Unavailable

    again = Authenticator(clock, keyring=Keyring(Down(), clock, copy=copy))
    await again.ready()
    clock.ms = round(copy.stat().st_mtime * 1000)
    again = Authenticator(clock, keyring=Keyring(Down(), clock, copy=copy))
    await again.ready()
    assert again.readings_failed == 1
    assert again.required and (await again.identify(text)).credential == f"key:{key.id}"
    clock.advance(limits.KEYS_STALE_S_MAX)
    with pytest.raises(Unavailable):
        await again.identify(text)
    with pytest.raises(Unauthenticated):
        await again.identify(None)


async def test_a_fault_in_the_reading_does_not_end_it() -> None:
    """Whatever the place of the keys does: they are read again, or a revoked one would work for ever."""

    class Faulty(HeldKeys):
        every_s = 0.01
        reads = 0

        async def load(self) -> bytes | None:
            self.reads += 1
            if self.reads < 4:
                raise RuntimeError("a fault of ours")
            return await super().load()

    source = Faulty()
    source.keys.append(key_of()[1])
    auth = Authenticator(HandClock(), keyring=Keyring(source, HandClock()))
    await auth.start()
    try:

        async def asks() -> bool:
            return auth.required

        await wait_until_async(asks, "the keys are read")
        assert auth.readings_failed == 3
    finally:
        await auth.stop()


async def test_asking_begins_with_the_first_key_and_never_ends() -> None:
    """A server that asked nobody asks everybody once there is a key, also when all keys are gone again."""
    clock = HandClock()
    held = HeldKeys()
    auth = Authenticator(clock, keyring=Keyring(held, clock))
    await auth.ready()
    assert (await auth.identify(None)).credential == "local"
    assert (await auth.identify("Basic or a JWT for a proxy before us")).credential == "local"
    held.keys.append(key_of()[1])
    await auth.refresh()
    held.keys.clear()
    await auth.refresh()
    for token in (None, "Basic or a JWT for a proxy before us"):
        with pytest.raises(Unauthenticated):
            await auth.identify(token)


async def test_a_file_that_holds_no_keys_is_found_out(tmp_path: Path) -> None:
    """A broken keyring stops the start, and does not stop a server that runs: it goes on with what it knows."""
    source = FileKeys(tmp_path)
    clock = HandClock()
    text, key = key_of()
    await source.change(lambda raw: encoded([*decoded(raw, source.place), key]))
    auth = Authenticator(clock, keyring=Keyring(source, clock))
    await auth.ready()
    for broken in (b"{", b"[]", b'{"keys": [{"id": "x"}]}', b'{"keys": [{"id": "\xff"}]}', b""):
        (tmp_path / "keys.json").write_bytes(broken)
        with pytest.raises(SetupError, match=r"keys\.json does not hold keys"):
            decoded(source.read(), source.place)
        await auth.refresh()
        assert (await auth.identify(text)).key_id == key.id
    assert auth.readings_failed == 5
    clock.advance(limits.KEYS_STALE_S_MAX)  # it is as good as none: a key that was revoked ends as well
    await auth.refresh()
    with pytest.raises(Unavailable):
        await auth.identify(text)
    (tmp_path / "keys.json").unlink()
    await source.change(lambda raw: encoded([key]))
    await auth.refresh()
    assert (await auth.identify(text)).key_id == key.id and auth.readings_failed == 6


# --- minted tokens -------------------------------------------------------------------------------------------


def test_minted_tokens_cannot_be_forged() -> None:
    """Every change of a letter is found out; so are other secrets, and claims that no server would have made."""
    clock = HandClock()
    tokens = UserTokens(lambda: [b"a" * 32], clock)
    token = tokens.sign(tokens.claims("default", "asha", None, None, 60))
    assert tokens.check(token) is not None
    for at in range(len(token)):
        other = "A" if token[at] != "A" else "B"
        assert tokens.check(token[:at] + other + token[at + 1 :]) is None
    for wrong in (
        token + "A",
        token[:-1],
        token + "=",
        "",
        "samvad_t1..",
        token.replace(".", "..", 1),
        token + "\n",
    ):
        assert tokens.check(wrong) is None
    assert UserTokens(lambda: [b"b" * 32], clock).check(token) is None
    endless = tokens.claims("default", "asha", None, None, 60)._replace(expires_ms=1 << 60)
    assert tokens.check(tokens.sign(endless)) is None
    clock.advance(60)
    assert tokens.check(token) is None


def test_the_secret_can_be_changed() -> None:
    """The first one signs, all verify: put the new one before the old one, and drop that an hour later."""
    clock = HandClock()
    old, new = b"o" * 32, b"n" * 32
    token = UserTokens(lambda: [old], clock).sign(
        UserTokens(lambda: [old], clock).claims("t", "u", None, None, 60)
    )
    both = UserTokens(lambda: [new, old], clock)
    assert both.check(token) is not None
    fresh = both.sign(both.claims("t", "u", None, None, 60))
    assert UserTokens(lambda: [new], clock).check(fresh) is not None
    assert UserTokens(lambda: [new], clock).check(token) is None


# --- the command line, and a server that runs ------------------------------------------------------------------


def test_the_life_of_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made, used, rotated with an overlap, revoked, under a server that runs; no secret is shown or kept."""
    monkeypatch.setenv("SAMVAD_LIMIT_REFUSED", "0")  # it is asked until the answer changes
    key = run(["keys", "create", "--name", "back end", "--expires", "90d"], tmp_path)
    text, key_id = key.stdout.strip(), re.findall(r"key (\w+)\.", key.stderr)[0]
    assert text.startswith(f"samvad_k1_{key_id}_")
    with Server(tmp_path, "--host", "0.0.0.0") as server:  # with credentials, any address

        def status(token: str | None, path: str = "/api/session/asha/profile") -> int:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            return int(server.request("GET", path, headers=headers)[0])

        assert (status(None), status(text)) == (401, 200)
        assert (status(text, "/metrics"), status(text, "/api/session/stats")) == (403, 403)
        assert (status(None, "/healthz"), status(None, "/readyz"), status(None, "/openapi.json")) == (
            200,
            200,
            200,
        )
        rotated = run(["keys", "rotate", key_id, "--overlap", "30m"], tmp_path).stdout.strip()
        wait_until(lambda: status(rotated) == 200, "the new key is known")
        assert status(text) == 200
        assert run(["keys", "revoke", key_id], tmp_path).returncode == 0
        wait_until(lambda: status(text) == 401, "the old key is refused")
        assert status(rotated) == 200
        server.signal()
        assert server.exit_code() == 0
    listed = json.loads(run(["keys", "list", "--json"], tmp_path).stdout)["keys"]
    assert [(each["state"], each["replacedBy"]) for each in listed] == [
        ("revoked", listed[1]["id"]),
        ("valid", None),
    ]
    assert all(each["lastUsed"] for each in listed)
    shown = run(["keys", "list"], tmp_path).stdout
    kept = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir() if path.is_file())
    for secret in (text, rotated):
        assert secret[-49:] not in shown and secret[-49:].encode() not in kept
        assert not any(secret[-49:] in line for line in server.errors)
    assert stat.S_IMODE((tmp_path / "data" / "keys.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "--name", "x", "--scopes", "users,root"], "'root' is none"),
        (["create", "--name", ""], "--name"),
        (["create", "--name", "x", "--expires", "soon"], "90d, 12h or 30m"),
        (["create", "--name", "x", "--tenant", "a/b"], "tenant"),
        (["rotate", "nothere"], "There is no key"),
        (["revoke", "nothere"], "There is no key"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    """And exit code 2."""
    assert words in refusal(["keys", *arguments], tmp_path)


def test_a_server_that_must_ask_may_listen_before_there_is_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--auth required: nobody gets in, until a key is made."""
    monkeypatch.setenv("SAMVAD_LIMIT_REFUSED", "0")  # it is asked until the answer changes
    with Server(tmp_path, "--host", "0.0.0.0", "--auth", "required") as server:
        assert server.request("GET", "/api/session/asha/profile")[0] == 401
        text = run(["keys", "create", "--name", "first"], tmp_path).stdout.strip()
        headers = {"Authorization": f"Bearer {text}"}
        wait_until(
            lambda: server.request("GET", "/api/session/asha/profile", headers=headers)[0] == 200,
            "it is known",
        )
