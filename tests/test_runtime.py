"""Samvad in a process: opened and closed, with and without await, and what cannot be set."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from samvad import open_samvad, runtime
from samvad.errors import InvalidRequest, NotFound, SetupError, ShuttingDown, Unreadable
from samvad.stores.memory import MemoryStore
from samvad.testing.clock import VirtualClock
from tests.support import wait_until_async

pytestmark = pytest.mark.anyio


def test_a_script_needs_no_await(database_path: Path) -> None:
    """The verbs are plain functions, with their answers and errors; what they wrote is there the next time."""
    for count in (1, 2):
        with open_samvad(f"sqlite:///{database_path}") as samvad:
            assert samvad.append_to_user_history("asha", "user", "hello").seq == count
            assert samvad.get_user_profile("asha").history_length == count
            samvad.save_session("s", "asha", language="hi")
            assert [s.language for s in samvad.get_user_active_sessions("asha")] == ["hi"]
            with pytest.raises(NotFound):
                samvad.end_session("other")
            with pytest.raises(InvalidRequest):
                samvad.append_to_user_history("asha", "robot", "hello")
            pushed = samvad.interruptions.push(
                "s", "asha", type="BARGE_IN", full_text="one two", heard_text="one"
            )
            assert pushed.unheard_text.strip() == "two"
            assert samvad.principal.tenant == "default"
            with pytest.raises(AttributeError):
                samvad.no_such_verb  # noqa: B018


def test_a_script_closes_also_after_an_error(database_path: Path) -> None:
    """What the script raised is raised, and the file is free again."""
    with pytest.raises(ZeroDivisionError), open_samvad(f"sqlite:///{database_path}"):
        _ = 1 // 0
    with open_samvad(f"sqlite:///{database_path}") as samvad:
        assert samvad.list_users() == []


def test_a_script_is_told_why_it_cannot_open(database_path: Path) -> None:
    """A file that is in use, in one line, from the `with` itself."""
    with (
        open_samvad(f"sqlite:///{database_path}"),
        pytest.raises(SetupError, match="in use"),
        open_samvad(f"sqlite:///{database_path}"),
    ):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "",
        "samvad.db",
        "sqlite:",
        "sqlite:samvad.db",
        "sqlite://samvad.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:////",
        "sqlite:///a.db?mode=ro",
        "sqlite:///a%00.db",
        "sqlite://[x",
        "memory://name",
        "memory:///path",
        "postgres://host/name",
        "http://[",
        "://",
    ],
)
def test_a_bad_url_is_one_clear_line(url: str) -> None:
    """It says what was given and what could be."""
    with pytest.raises(SetupError) as refused:
        open_samvad(url)
    assert "\n" not in refused.value.message
    assert "://" in refused.value.message


def test_urls_that_name_a_store(tmp_path: Path) -> None:
    """Three slashes are relative, four absolute; percent signs are decoded."""
    for url, path in (
        (f"sqlite:///{tmp_path}/a%20b.db", tmp_path / "a b.db"),
        ("sqlite:///talk.db", Path("talk.db")),
        ("sqlite:///sub/talk.db", Path("sub/talk.db")),
    ):
        assert open_samvad(url).store.path == path  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "settings",
    [
        {"windows_messages": 5},
        {"window_messages": 0},
        {"window_messages": 1_001},
        {"durability": "maybe"},
        {"record_ttl_s": 0},
        {"cache_bytes_max": -1},
        {"session_idle_s": 0},
        {"active_window_s": -5},
    ],
    ids=str,
)
def test_a_setting_that_cannot_be(settings: dict[str, Any]) -> None:
    """Unknown ones are named, impossible ones say what is possible."""
    with pytest.raises(SetupError, match=next(iter(settings))):
        open_samvad("memory://", **settings)


async def test_the_window_can_be_set() -> None:
    """Another size than 100, exactly."""
    async with open_samvad("memory://", window_messages=3) as samvad:
        for n in range(7):
            await samvad.append_to_user_history("asha", "user", str(n))
        profile = await samvad.get_user_profile("asha")
        assert [m.content for m in profile.conversation_history] == ["4", "5", "6"]


async def test_a_window_may_differ_from_the_last_run(database_path: Path) -> None:
    """Made larger, it reaches back over what was said before."""
    for window in (3, 10, 2):
        async with open_samvad(f"sqlite:///{database_path}", window_messages=window) as samvad:
            for _ in range(4):
                await samvad.append_to_user_history("asha", "user", "x")
            profile = await samvad.get_user_profile("asha")
            assert profile.history_length == min(window, profile.position.seq)


async def test_closing_is_final_and_may_be_repeated(database_path: Path) -> None:
    """A closed service acknowledges nothing, says why, and may be closed again."""
    samvad = open_samvad(f"sqlite:///{database_path}")
    assert await samvad.aclose() == 0
    async with samvad:
        await samvad.append_to_user_history("asha", "user", "x")
    assert await samvad.aclose() == 0
    with pytest.raises(ShuttingDown):
        await samvad.append_to_user_history("asha", "user", "x")


async def test_old_records_and_receipts_are_swept_out() -> None:
    """The upkeep drops what has outlived its time, without anybody asking for it."""
    clock = VirtualClock()
    async with open_samvad("memory://", clock=clock) as samvad:
        await samvad.get_user_profile("asha")
        clock.advance(31 * 60)
        assert samvad.cache.sweep() == 1
        assert len(samvad.cache) == 0


async def test_a_service_is_cancelled_cleanly(database_path: Path) -> None:
    """Cancelled in the middle, it closes: the file is free, and what was acknowledged is there."""
    told = 0

    async def talk() -> None:
        nonlocal told
        async with open_samvad(f"sqlite:///{database_path}") as samvad:
            while True:
                told = (await samvad.append_to_user_history("asha", "user", "x")).seq
                if told == 20:
                    asyncio.get_running_loop().call_soon(talking.cancel)

    talking = asyncio.create_task(talk())
    await asyncio.gather(talking, return_exceptions=True)
    assert talking.cancelled()
    async with open_samvad(f"sqlite:///{database_path}") as samvad:
        assert (await samvad.get_user_profile("asha")).position.seq >= told >= 20


class ForgetfulStore(MemoryStore):
    """Its first round of upkeep meets a fault of its own."""

    rounds = 0

    async def expire(self, *, receipts_before_ms: int) -> int:
        self.rounds += 1
        if self.rounds == 1:
            raise Unreadable
        return await super().expire(receipts_before_ms=receipts_before_ms)


async def test_a_round_of_upkeep_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a listener that fails keep the rounds from beginning, or the service from closing as it should."""
    monkeypatch.setattr(runtime, "_UPKEEP_S", 0.001)
    store = ForgetfulStore()
    samvad = open_samvad("memory://", store=store)

    async def failing() -> None:
        raise ValueError("not ready")

    async def second_round() -> bool:
        return store.rounds > 1

    samvad.after_open.append(failing)
    await samvad.open()
    await wait_until_async(second_round, "the upkeep goes on")
    await samvad.append_to_user_history("asha", "user", "hello")
    assert await samvad.aclose() == 0
    with pytest.raises(ShuttingDown):
        await samvad.append_to_user_history("asha", "user", "too late")
