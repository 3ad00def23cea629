"""What a service does in rounds, beside everything else: a part that fails stops neither the others nor the rounds."""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from samvad.errors import SamvadError

_log = logging.getLogger(__name__)


async def tried(part: Awaitable[object]) -> None:
    """One part of a round; where it fails, the log says so and the next round tries it again."""
    try:
        await part
    except SamvadError as error:
        _log.warning("a part of the upkeep could not be done", extra={"code": error.code})
    except Exception:  # the top of a task: nobody else would hear of it
        _log.exception("a part of the upkeep failed")
