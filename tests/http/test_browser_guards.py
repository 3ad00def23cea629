"""What a web page of another site may do through the browser of somebody on this machine: nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from samvad import open_samvad
from samvad.errors import InvalidRequest
from samvad.http.app import create_app
from samvad.http.browsers import Browsers
from tests.http.support import Api

pytestmark = pytest.mark.anyio
HOSTS = {"localhost", "127.0.0.1", "[::1]"}
STATE = "/api/session/user_456/state"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:1"]
)
async def test_own_names_are_served(host: str) -> None:
    """The names of this machine, with any port."""
    async with open_samvad("memory://") as samvad:
        api = Api(samvad, create_app(samvad, hosts=HOSTS))
        answer = await api("POST", STATE, {"a": 1}, headers={"host": host})
        assert answer.status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[::2]:80", ""]
)
async def test_other_names_are_refused(host: str) -> None:
    """A name that merely resolves to this machine (DNS rebinding) neither reads nor writes."""
    async with open_samvad("memory://") as samvad:
        await samvad.save_user_state("user_456", {"secret": 1})
        api = Api(samvad, create_app(samvad, hosts=HOSTS))
        assert (await api("GET", STATE, headers={"host": host})).status == 403
        assert (await api("POST", STATE, {"a": 1}, headers={"host": host})).status == 403
        assert (await samvad.get_user_state("user_456")).state == {"secret": 1}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [b"host", b"origin"])
def test_two_names_are_one_too_many(name: bytes) -> None:
    """Of two hosts or origins nobody knows which one a proxy has judged."""
    own = {b"host": b"localhost:1", b"origin": b"http://localhost:1"}
    scope = {"method": "POST", "headers": [*own.items(), (b"accept", b"a"), (b"accept", b"b")]}
    Browsers(HOSTS).check(scope, dict(scope["headers"]))
    for fields in ([(name, b"evil.example"), *own.items()], [*own.items(), (name, b"evil.example")]):
        scope["headers"] = fields
        with pytest.raises(InvalidRequest, match=r"once\."):
            Browsers(None).check(scope, dict(fields))


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:9", "http://localhost.evil"]
)
async def test_changes_for_other_sites_are_refused(origin: str) -> None:
    """A browser names the page in `Origin`; the request that needs no body is refused as well."""
    async with open_samvad("memory://") as samvad:
        await samvad.save_session("session_123", "user_456")
        api = Api(samvad, create_app(samvad))
        headers = {"host": "localhost:8080", "origin": origin}
        path = "/api/session/session_123"
        assert (await api("POST", f"{path}/interruptions/resume", headers=headers)).status == 403
        assert (await api("DELETE", path, headers=headers)).status == 403
        assert (
            await api("DELETE", path, headers={"origin": origin})
        ).status == 403  # over HTTP/1.0, without a host
        own = {"host": "localhost:8080", "origin": "http://localhost:8080"}
        assert (await api("DELETE", path, headers=own)).status == 200


async def test_files_are_their_owners(tmp_path: Path) -> None:
    """Databases, logs, indexes, locks and their directories can be read by nobody else, whatever the umask."""
    before = os.umask(0)
    try:
        async with open_samvad(f"sqlite:///{tmp_path}/made/talk.db") as samvad:
            await samvad.append_to_user_history("user_456", "user", "hello")
            await samvad.knowledge.add_text("Title", "Content", user_id="user_456")
            found = [tmp_path / "made", *(tmp_path / "made").rglob("*")]
            assert {"talk.db", "talk.db-wal", "talk.db.lock", "talk.knowledge.db"} <= {
                each.name for each in found
            }
            for path in found:
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    finally:
        os.umask(before)


async def test_the_first_request_opens_a_mounted_service(tmp_path: Path) -> None:
    """Mounted where nobody runs its lifespan, the application opens its service by itself."""
    samvad = open_samvad(f"sqlite:///{tmp_path}/talk.db")
    try:
        answer = await Api(samvad, create_app(samvad))("POST", STATE, {"a": 1})
        assert answer.status == 200
    finally:
        await samvad.aclose()
