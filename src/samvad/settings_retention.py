"""The settings that say what is kept for how long: a part of `samvad.settings.Settings`. All are off by default."""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta

from samvad.settings_observing import ObservingSettings

AGE: Final = r"^(off|[1-9][0-9]{0,4}[dwy])$"
_MESSAGES_MOST: Final = 1_000_000_000
_EVERY_S_MOST: Final = 366.0 * 24 * 3600


def _age(description: str) -> Any:
    return Meta(description=description, extra={"expected": "an age such as 90d, 12w or 2y, or off"})


class RetentionSettings(ObservingSettings, frozen=True, kw_only=True):
    """Retention rules. Ages are days, weeks or years of 365 days: 90d, 12w, 2y."""

    retain_messages: Annotated[
        int,
        Meta(
            ge=0,
            le=_MESSAGES_MOST,
            description="How many messages of a user are kept at most, the last ones; 0: any number.",
        ),
    ] = 0
    retain_message_age: Annotated[
        Annotated[str, Meta(pattern=AGE)] | None,
        _age("How long a message is kept, such as 90d, 12w or 2y. Left out, for ever; so are the next four."),
    ] = None
    retain_sessions: Annotated[
        Annotated[str, Meta(pattern=AGE)] | None, _age("How long a session is kept after it has ended.")
    ] = None
    retain_interruptions: Annotated[
        Annotated[str, Meta(pattern=AGE)] | None, _age("How long a recorded interruption is kept.")
    ] = None
    retain_documents: Annotated[
        Annotated[str, Meta(pattern=AGE)] | None,
        _age(
            "How long a user's own document in the knowledge base is kept after it was added. Shared ones stay."
        ),
    ] = None
    retain_idle_users: Annotated[
        Annotated[str, Meta(pattern=AGE)] | None,
        _age("A user of whom nothing was written for this long is erased, as refresh erases."),
    ] = None
    retain_tenants: Annotated[
        str | None,
        Meta(
            description="TOML file with rules for single tenants, a table for each (see the how-to on retention)."
        ),
    ] = None
    retain_every_s: Annotated[
        float,
        Meta(
            ge=0,
            le=_EVERY_S_MOST,
            description="How often the server sweeps, about; 0: it does not, and something else calls "
            "`samvad retention sweep`.",
        ),
    ] = 24 * 3600.0

    def retention_options(self) -> dict[str, Any]:
        """What of these `open_samvad` takes: all of it."""
        names = RetentionSettings.__annotations__
        return {name: getattr(self, name) for name in names}
