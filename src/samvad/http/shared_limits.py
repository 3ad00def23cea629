"""Rate limits that several replicas share: the same sliding windows, in Redis (extra `redis`), counted by one script.

What is there are hashes of names, and numbers, for a little longer than a window. Redis being away never stops
anybody: each replica goes by its own windows until it is back.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from samvad.errors import SetupError
from samvad.http.windows import SLOTS, Left, Wanted

_TIMEOUT_S: Final = 0.25  # a request waits no longer than this for Redis
# All keys share a hash tag, so that a cluster keeps them together and the script may touch them all.
_PREFIX: Final = "samvad:{limits}:"
# KEYS: a hash for each window, slot to amount. ARGV: the time, or nothing for Redis' own; then amount, seconds and cost
# of each. Gives what is left, the seconds until all is back, and those to wait. Takes all of it or nothing.
_SCRIPT: Final = f"""
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local found, room = {{}}, true
for i, key in ipairs(KEYS) do
  local amount, seconds, cost = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local slot_s = seconds / {SLOTS}
  local slot = math.floor(now / slot_s)
  local kept, total, newest = {{}}, 0, nil
  local all = redis.call('HGETALL', key)
  for j = 1, #all, 2 do
    local at = tonumber(all[j])
    if at < slot - {SLOTS} then
      redis.call('HDEL', key, all[j])
    else
      local taken = tonumber(all[j + 1])
      kept[#kept + 1] = {{at, taken}}
      total = total + taken
      if not newest or at > newest then newest = at end
    end
  end
  local left, wait = amount - total, 0
  if cost > left then
    room = false
    wait = seconds
    table.sort(kept, function(a, b) return a[1] < b[1] end)
    local freed = left
    for _, each in ipairs(kept) do
      freed = freed + each[2]
      if cost <= freed then
        wait = math.max(math.ceil((each[1] + {SLOTS} + 1) * slot_s - now), 1)
        break
      end
    end
  end
  local reset = newest and math.ceil((newest + {SLOTS} + 1) * slot_s - now) or 0
  found[#found + 1] = {{math.max(left, 0), reset, wait}}
end
if room then
  for i, key in ipairs(KEYS) do
    local seconds, cost = tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
    redis.call('HINCRBY', key, string.format('%d', math.floor(now / (seconds / {SLOTS}))), cost)
    redis.call('EXPIRE', key, math.ceil(seconds * 1.1))
    found[i][1] = found[i][1] - cost
  end
end
return found
"""


class RedisWindows:
    """Windows in one Redis, or one cluster. SetupError where the extra is not installed, or `url` cannot be.

    `now_s` stands for Redis' own clock, in tests.
    """

    def __init__(self, url: str, *, now_s: Callable[[], float] | None = None) -> None:
        try:
            import redis
            import redis.asyncio
        except ImportError:
            raise SetupError(
                "Limits in Redis need the extra redis: pip install 'samvad-sessions[redis]'."
            ) from None
        self._errors: Any = redis.RedisError
        self._now_s = now_s
        try:
            self._redis: Any = redis.asyncio.from_url(
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
            )
            pool: Any = self._redis.connection_pool
            pool.make_connection()  # connects nowhere yet: what the URL asks for is looked at
        except (ValueError, TypeError):
            raise SetupError(
                "SAMVAD_LIMIT_REDIS_URL must be redis://HOST[:PORT][/NUMBER], rediss://… or unix://…."
            ) from None
        self._script = self._redis.register_script(_SCRIPT)

    async def spend(self, wanted: Sequence[Wanted]) -> list[Left]:
        """Take all of it, or where there is not room for all of it, nothing; OSError where Redis does not answer."""
        if not wanted:  # as of most keys: no request of theirs waits for Redis
            return []
        keys = [
            f"{_PREFIX}{quota.name}:{hashlib.sha256(key.encode()).hexdigest()[:32]}"
            for key, quota, _ in wanted
        ]
        numbers: list[Any] = ["" if self._now_s is None else repr(self._now_s())]
        for _, quota, cost in wanted:
            numbers += [quota.amount, quota.window_s, cost]
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                found = await self._script(keys=keys, args=numbers)
        except self._errors as error:
            raise OSError(type(error).__name__) from error
        return [Left(quota, *each) for (_, quota, _), each in zip(wanted, found, strict=True)]

    async def close(self) -> None:
        """Let the connections go."""
        await self._redis.aclose()
