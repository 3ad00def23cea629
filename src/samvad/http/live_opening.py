"""Live conversations as the settings want them, made when the first one begins; mistakes are found at the start."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samvad.live.service import LiveService
    from samvad.runtime import Samvad
    from samvad.settings import Settings

_PLAIN = "extractive"


def live_maker(samvad: Samvad, settings: Settings) -> Callable[[], LiveService]:
    """What makes the live conversations of a server. SetupError where the provider or the documents cannot be had."""
    made: list[LiveService] = []

    def make() -> LiveService:
        if not made:
            from samvad.live.opening import live_of_settings

            made.append(live_of_settings(samvad, settings))
            made[0].on_first_open = _leave_alone
        return made[0]

    if settings.live_provider != _PLAIN or settings.live_documents is not None or left_over(settings):
        make()
    return make


def _leave_alone() -> None:
    """What a provider has imported stays: to look through it for garbage again and again holds all clients up.

    A vendor's client brings some 300,000 objects, and each full collection takes 50 ms and more with them.
    """
    gc.collect()
    gc.freeze()


def left_over(settings: Settings) -> bool:
    """Whether a killed server has left turns in the middle; looks without importing anything."""
    folder = settings.data_path() / "live"
    return folder.is_dir() and any(folder.iterdir())
