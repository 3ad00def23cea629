"""Refusals of those who ask again and again wait: nobody gets a core for themselves by being told no."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from samvad import limits
from samvad.http.app import create_app
from samvad.http.holding import Holding
from samvad.http.rate_limits import Limiter, quotas
from samvad.settings import Settings
from samvad.testing import loop as virtual
from tests.auth.world import ASHA, bearing, world
from tests.http.support import Api

PROFILE = f"/api/session/{ASHA}/profile"


def on_virtual_time(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    virtual.run(lambda _: body())


@pytest.mark.parametrize("connections", [10, 300, 1_000])
def test_who_hammers_on_many_connections_is_told_at_a_bounded_pace(connections: int) -> None:
    """Each connection asks again as soon as it is refused, for a minute. They are told evenly, too."""
    told: Counter[int] = Counter()
    pace = max(limits.REFUSALS_PER_S, connections / (limits.REFUSAL_HELD_S_MAX / 2))

    async def body() -> None:
        holding, loop = Holding(), asyncio.get_running_loop()

        async def hammer() -> None:
            while loop.time() < 60:
                assert not await holding.hold("noisy")
                told[int(loop.time() * 10)] += 1
                assert told[int(loop.time() * 10)] <= connections + 2 * limits.REFUSALS_PER_S, (
                    "it does not wait"
                )
                await asyncio.sleep(0.001)

        await asyncio.gather(*(hammer() for _ in range(connections)))
        assert len(holding) == 0

    on_virtual_time(body)
    assert sum(told.values()) / 60 <= pace * 1.1
    settled = [told[tenth] for tenth in range(200, 600)]
    assert max(settled) <= 4 + pace / 10 * 3, "they do not come all at one moment"


def test_who_is_refused_now_and_then_does_not_wait() -> None:
    """Nor does anybody else wait for what a noisy one must wait for."""

    async def body() -> None:
        holding, loop = Holding(), asyncio.get_running_loop()
        noisy = [asyncio.create_task(holding.hold("noisy")) for _ in range(500)]
        await asyncio.sleep(0)
        for _ in range(limits.REFUSALS_PER_S):
            began_s = loop.time()
            assert not await holding.hold("asha")
            assert loop.time() == began_s
            await asyncio.sleep(0.5)
        assert not any(await asyncio.gather(*noisy))
        assert loop.time() <= limits.REFUSALS_PER_S * 0.5 + limits.REFUSAL_HELD_S_MAX

    on_virtual_time(body)


def test_what_waits_is_bounded() -> None:
    """Beyond, the answer comes at once and says to close the connection; what gave up waiting is forgotten."""

    async def body() -> None:
        holding = Holding()
        many = limits.REFUSALS_HELD_EACH_MAX + limits.REFUSALS_PER_S
        first = [asyncio.create_task(holding.hold("noisy")) for _ in range(many)]
        await asyncio.sleep(0)
        assert len(holding) == limits.REFUSALS_HELD_EACH_MAX
        assert await holding.hold("noisy") is True
        others = [asyncio.create_task(holding.hold(f"other-{n % 50}")) for n in range(10_000)]
        await asyncio.sleep(0)
        assert len(holding) == limits.REFUSALS_HELD_MAX
        for task in (*first, *others):
            task.cancel()
        await asyncio.gather(*first, *others, return_exceptions=True)
        assert len(holding) == 0

    on_virtual_time(body)


def test_a_stop_waits_for_none_of_them() -> None:
    """They are told at once, those that come later too."""

    async def body() -> None:
        holding, loop = Holding(), asyncio.get_running_loop()
        held = [asyncio.create_task(holding.hold("noisy")) for _ in range(300)]
        await asyncio.sleep(0)
        began_s = loop.time()
        holding.let_go()
        assert not any(await asyncio.gather(*held, holding.hold("noisy")))
        assert loop.time() == began_s

    on_virtual_time(body)


@pytest.mark.anyio
async def test_requests_are_held_and_then_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over HTTP: a refusal that would be one too many to wait says `Connection: close`; a stop lets all go."""
    monkeypatch.setattr(limits, "REFUSALS_HELD_EACH_MAX", 3)
    async with world() as here:
        limiter = Limiter(here.clock, quotas(Settings(limit_user_requests=1)))
        app = create_app(here.samvad, auth=here.auth, limiter=limiter)
        api, headers = Api(here.samvad, app), bearing(here.token(ASHA))
        assert (await api("GET", PROFILE, headers=headers)).status == 200
        at_once = [await api("GET", PROFILE, headers=headers) for _ in range(limits.REFUSALS_PER_S)]
        assert {answer.status for answer in at_once} == {429}
        waiting = [asyncio.create_task(api("GET", PROFILE, headers=headers)) for _ in range(4)]
        hung_up = [each.result() for each in (await asyncio.wait(waiting, return_when="FIRST_COMPLETED"))[0]]
        assert len(limiter.holding) == 3
        assert [(each.status, each.headers.get("connection")) for each in hung_up] == [(429, "close")]
        app.stop_streams()
        rest = [await each for each in waiting]
        assert [each.status for each in rest] == [429] * 4
        assert sum("connection" in each.headers for each in rest) == 1
