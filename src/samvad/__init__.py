"""Samvad (संवाद, dialogue) keeps conversations for AI assistants.

    async with open_samvad("sqlite:///talk.db") as samvad:
        await samvad.append_to_user_history("user_456", "user", "What documents do I need?")
        profile = await samvad.get_user_profile("user_456")

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from samvad import errors as errors
    from samvad import types as types
    from samvad.interruptions import InterruptionContextManager as InterruptionContextManager
    from samvad.runtime import Options as Options
    from samvad.runtime import Samvad as Samvad
    from samvad.runtime import open_samvad as open_samvad
    from samvad.sessions.service import SessionPersistenceService as SessionPersistenceService

_HOMES = {
    "InterruptionContextManager": "samvad.interruptions",
    "Options": "samvad.runtime",
    "Samvad": "samvad.runtime",
    "SessionPersistenceService": "samvad.sessions.service",
    "errors": "samvad",
    "open_samvad": "samvad.runtime",
    "types": "samvad",
}

__all__ = [
    "InterruptionContextManager",
    "Options",
    "Samvad",
    "SessionPersistenceService",
    "__version__",
    "errors",
    "open_samvad",
    "types",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'samvad' has no attribute {name!r}")
    if home == "samvad":
        return importlib.import_module(f"samvad.{name}")
    return getattr(importlib.import_module(home), name)
