"""How much each may ask, as the settings want it; mistakes are found at the start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samvad.http.rate_limits import Limiter, Shared, quotas

if TYPE_CHECKING:
    from samvad.runtime import Samvad
    from samvad.settings import Settings


def limiter_of(settings: Settings, samvad: Samvad) -> Limiter:
    """The limiter of a server; what it holds of Redis is let go with the service. SetupError for a bad address."""
    shared: Shared | None = None
    if settings.limit_redis_url is not None:
        from samvad.http.shared_limits import RedisWindows

        shared = RedisWindows(settings.limit_redis_url)
    limiter = Limiter(samvad.core.clock, quotas(settings), shared=shared, proxies=settings.limit_proxies)
    samvad.before_close.append(limiter.close)
    return limiter
