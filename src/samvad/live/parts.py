"""What all conversations of a server share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from samvad import limits
from samvad.live.meter import LiveMeter
from samvad.live.open_turns import OpenTurns
from samvad.live.tools import ToolRegistry
from samvad.runtime import Samvad


class LiveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set of live conversations. Times are seconds."""

    idle_s: float = limits.LIVE_IDLE_S
    duration_s: float = limits.LIVE_DURATION_S
    warning_s: float = limits.LIVE_WARNING_S
    detached_s: float = limits.LIVE_DETACHED_S_MAX
    false_alarm_s: float = limits.LIVE_FALSE_ALARM_S
    checkpoint_s: float = limits.LIVE_CHECKPOINT_S
    token_ttl_s: float = limits.LIVE_TOKEN_TTL_S
    provider_open_s: float = limits.LIVE_PROVIDER_OPEN_S_MAX
    sockets_max: int = limits.LIVE_SOCKETS_MAX
    sockets_per_user_max: int = limits.LIVE_SOCKETS_PER_USER_MAX
    outbox_bytes_max: int = limits.LIVE_OUTBOX_BYTES_MAX
    persist: bool = True  # False only to measure what keeping costs


class Parts(NamedTuple):
    """The service, the settings, the tools, the list of turns under way, who is told of an opened provider, and
    the counters.
    """

    samvad: Samvad
    options: LiveOptions
    tools: ToolRegistry
    open_turns: OpenTurns
    opened: Callable[[str], None]
    meter: LiveMeter
