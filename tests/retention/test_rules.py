"""Rules as they are set, the clock that must be believed, and what can go wrong with either."""

from __future__ import annotations

from pathlib import Path

import pytest

from samvad import open_samvad
from samvad.errors import SetupError
from samvad.retention.guard import ClockGuard
from samvad.retention.looking import Counts
from samvad.retention.rules import DAY_MS, RetentionOptions, Rules, age_ms
from samvad.retention.sweeper import ClockAhead
from samvad.settings import load
from samvad.testing.clock import START_MS, VirtualClock
from tests.retention.support import DAY_S, both, service


@pytest.mark.parametrize(
    ("text", "days"), [("1d", 1), ("90d", 90), ("12w", 84), ("2y", 730), ("off", 0), ("99999d", 99_999)]
)
def test_ages(text: str, days: int) -> None:
    """Days, weeks, years of 365 days."""
    assert age_ms(text) == days * DAY_MS


@pytest.mark.parametrize("text", ["", "0d", "-1d", "90", "90 d", "1h", "1.5d", "d", "123456d", "90D", "١d"])
def test_what_is_no_age(text: str) -> None:
    """Anything else is refused, in one line that says what would do."""
    with pytest.raises(ValueError):  # noqa: PT011
        age_ms(text)
    with pytest.raises(SetupError, match="must be an age such as 90d, 12w or 2y, or off"):
        RetentionOptions(retain_sessions=text).retention()
    if text:
        with pytest.raises(SetupError, match="SAMVAD_RETAIN_SESSIONS must be an age such as 90d, 12w or 2y"):
            load(environ={"SAMVAD_RETAIN_SESSIONS": text})


def test_settings_are_rules() -> None:
    """What is set is what holds; nothing is set by default."""
    assert not RetentionOptions(**load(environ={}).retention_options()).retention().any
    settings = load(
        environ={
            "SAMVAD_RETAIN_MESSAGES": "500",
            "SAMVAD_RETAIN_MESSAGE_AGE": "90d",
            "SAMVAD_RETAIN_IDLE_USERS": "off",
        }
    )
    options = RetentionOptions(**settings.retention_options())
    assert options.retention_is_on
    assert options.retention().of("any") == Rules(messages=500, message_age=90 * DAY_MS)


def test_tenants_have_rules_of_their_own(tmp_path: Path) -> None:
    """A table for each; what it leaves out is as for all."""
    file = tmp_path / "tenants.toml"
    file.write_text('[clinic]\nmessage_age = "30d"\nmessages = 0\n\n["a b"]\nidle_users = "off"\n')
    retention = RetentionOptions(
        retain_messages=9, retain_idle_users="1y", retain_tenants=str(file)
    ).retention()
    assert retention.of("default") == Rules(messages=9, idle_users=365 * DAY_MS)
    assert retention.of("clinic") == Rules(message_age=30 * DAY_MS, idle_users=365 * DAY_MS)
    assert retention.of("a b") == Rules(messages=9)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "stands outside of a table"),
        ("[t]\nmessage = 1", "is not a retention rule"),
        ("[t]\nmessages = true", "must be a whole number"),
        ("[t]\nmessages = -1", "must be a whole number"),
        ('[t]\nsessions = "3h"', "must be an age"),
        ("[t]\nsessions = 3", "must be an age"),
        ("[t", "is not TOML"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    """Whatever is wrong with it."""
    file = tmp_path / "tenants.toml"
    file.write_text(text)
    with pytest.raises(SetupError, match=says):
        open_samvad("memory://", retain_tenants=str(file))
    with pytest.raises(SetupError, match="Cannot read"):
        open_samvad("memory://", retain_tenants=str(tmp_path / "none.toml"))


def test_the_clock_is_believed_again_after_a_while() -> None:
    """A jump is doubted for as long as the slack is; what goes on as the monotonic clock does never is."""
    guard = ClockGuard(START_MS, START_MS, 0.0, 3 * DAY_MS)
    assert guard.ahead_ms(START_MS + 100 * DAY_MS, 100 * DAY_S) == 0  # nobody wrote, and time went by
    assert guard.ahead_ms(START_MS + 103 * DAY_MS, 100 * DAY_S) == 0  # as much as is allowed
    jumped_ms = START_MS + 203 * DAY_MS
    assert guard.ahead_ms(jumped_ms, 101 * DAY_S) == 99 * DAY_MS
    assert guard.ahead_ms(jumped_ms + 2 * DAY_MS, 103.9 * DAY_S) > 0
    assert guard.ahead_ms(START_MS + 107 * DAY_MS, 104 * DAY_S) == 0  # it was set right
    assert guard.ahead_ms(jumped_ms, 105 * DAY_S) > 0
    assert guard.ahead_ms(jumped_ms + 3 * DAY_MS, 108 * DAY_S) == 0  # doubted long enough
    assert ClockGuard(None, jumped_ms, 0.0, DAY_MS).ahead_ms(jumped_ms, 5.0) == 0
    assert ClockGuard(START_MS, START_MS - 9 * DAY_MS, 0.0, DAY_MS).ahead_ms(START_MS - 9 * DAY_MS, 0.0) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("engine", ["memory", "sqlite"])
async def test_a_clock_that_jumped_erases_nobody(engine: str, tmp_path: Path) -> None:
    """Nothing is swept, and it is said; also where the clock was wrong at the start already and users write on."""
    clock = VirtualClock()
    samvad = service(engine, clock, tmp_path, retain_idle_users="30d", retain_message_age="30d")
    async with samvad:
        await samvad.append_to_user_history("asha", "user", "x")
        assert await both(samvad) == Counts()
        clock.set_wall_ms(START_MS + 400 * DAY_MS)
        await samvad.append_to_user_history("bala", "user", "with the wrong time")
        with pytest.raises(ClockAhead, match=r"400\.0 days after anything that was written"):
            await samvad.sweeper.sweep()
        assert (await samvad.sweeper.sweep(dry_run=True)).counts == Counts(users=1, messages=1)
        assert samvad.sweeper.failures == 1
        assert list(await samvad.list_users()) == ["asha", "bala"]
        clock.set_wall_ms(START_MS + DAY_MS)
        assert await both(samvad) == Counts()
    if engine == "memory":
        return
    clock = VirtualClock(START_MS + 800 * DAY_MS)
    async with service(engine, clock, tmp_path, retain_idle_users="30d") as samvad:
        await samvad.sweeper.begin()
        await samvad.append_to_user_history("chitra", "user", "x")
        with pytest.raises(ClockAhead):
            await samvad.sweeper.sweep()
        clock.advance(7 * DAY_S)
        assert (await samvad.sweeper.sweep()).counts == Counts(users=2, messages=2)
        assert list(await samvad.list_users()) == ["chitra"]


@pytest.mark.anyio
async def test_the_operator_may_know_better(tmp_path: Path) -> None:
    """Told to trust the clock, it is swept."""
    clock = VirtualClock()
    async with service("memory", clock, tmp_path, retain_idle_users="30d") as samvad:
        await samvad.append_to_user_history("asha", "user", "x")
        clock.set_wall_ms(START_MS + 400 * DAY_MS)
        with pytest.raises(ClockAhead):
            await samvad.sweeper.sweep()
        assert (await samvad.sweeper.sweep(trust_clock=True)).counts == Counts(users=1, messages=1)
