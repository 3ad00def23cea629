"""What was carried, counted and told in words."""

from __future__ import annotations

import msgspec

from samvad.cli.carry.lines import EndLine
from samvad.cli.carry.writing import UserTaker
from samvad.cli.output import printable

DIFFERENCES_SHOWN = 20


class Totals(msgspec.Struct):
    """How much was carried, and what was left alone."""

    added: int = 0
    there: int = 0
    erased: int = 0
    differs: int = 0
    sessions: int = 0
    interruptions: int = 0
    messages: int = 0
    erasures: int = 0
    keys: int = 0  # of encrypted users, carried to another store
    sealed: bool = False  # what came in clear was sealed on the way
    in_clear: bool = False  # what is from before encryption was carried as it is
    ended: int = 0  # users who lived in the target and had been erased in the source, or are on the list
    differences: list[str] = msgspec.field(default_factory=list)
    kinds: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def users(self) -> int:
        """All users seen."""
        return self.added + self.there + self.erased + self.differs

    def count(self, user_id: str, taker: UserTaker, end: EndLine | None) -> None:
        """Count a user whose lines were all taken."""
        outcome = taker.outcome
        if outcome is None or end is None:  # erased while being read
            outcome = "erased"
        setattr(self, outcome, getattr(self, outcome) + 1)
        if outcome == "differs":
            self.differences.append(f"{printable(user_id)}: {taker.why}")
        if end is not None and outcome in ("added", "there"):
            self.sessions += end.sessions
            self.interruptions += end.interruptions
            self.messages += end.messages

    def lines(self) -> list[str]:
        """In words."""
        parts = [f"{self.added:,} added", f"{self.there:,} already there"]
        if self.erased:
            parts.append(f"{self.erased:,} erased since")
        if self.differs:
            parts.append(f"{self.differs:,} left alone")
        told = [
            f"users      {self.users:,}: {', '.join(parts)}",
            f"sessions   {self.sessions:,}, with {self.interruptions:,} interruptions",
            f"messages   {self.messages:,}",
            *([f"keys       {self.keys:,}"] if self.keys else []),
            *(f"{name:<10} {count:,}" for name, count in self.kinds.items()),
            f"erasures   {self.erasures:,}"
            + (f", {self.ended:,} of users who lived there" if self.ended else ""),
        ]
        if self.added or self.there:
            told.append("verified   each user by counts and checksum")
        if self.sealed:
            told.append("sealed     all of it, on the way")
        if self.in_clear:
            told.append(
                "in clear   what is from before encryption, as it was; --new-keys would seal all of it"
            )
        return told
