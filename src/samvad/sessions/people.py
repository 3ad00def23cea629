"""What people may write, beside programs: an assistant believes what its history says, so not all of it is theirs.

A person asks with a credential of their own, from a browser say; a program answers for what it writes, and may all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from samvad.errors import RoleForbidden, SetupError
from samvad.sessions.operations import NewMessage
from samvad.types import ROLES

PERSON_ROLES: Final = "user,assistant"
NO_ROLES: Final = "none"
# Fields of a session in which live conversations keep what becomes messages, and with whom the provider goes on.
LIVE_TURN: Final = "liveTurn"
LIVE_RESUMPTION: Final = "liveResumption"
LIVE_FIELDS: Final = frozenset({LIVE_TURN, LIVE_RESUMPTION})
# Ends the id of a live answer, which the client can know while the answer is still being heard.
LIVE_ANSWER: Final = "-assistant"
_LIVE_ANSWER: Final = re.compile(rf"{LIVE_ANSWER}(-\d+)?$")


def roles_of(text: str) -> frozenset[str]:
    """The roles in a text such as `user,assistant`; none in `none`. SetupError where one of them is no role."""
    named = frozenset(each for part in text.split(",") if (each := part.strip()))
    if named == {NO_ROLES}:
        return frozenset()
    if not named or not named <= ROLES:
        raise SetupError(
            f"person_roles must be some of user,assistant,system,tool, or {NO_ROLES}, not {text[:60]!r}."
        )
    return named


def check_role(role: str, allowed: frozenset[str]) -> None:
    """RoleForbidden unless people may write as this role."""
    if role not in allowed:
        raise RoleForbidden(
            f"A user's own token may not write messages of the role {role!r}: have a program write them.",
            role=role,
        )


def check_instruction(allowed: bool) -> None:
    """RoleForbidden unless people may set the instruction of their own live conversations."""
    if not allowed:
        raise RoleForbidden(
            "A user's own token may not set systemInstruction: have a program begin the conversation.",
            role="system",
        )


def check_messages(messages: Iterable[NewMessage], allowed: frozenset[str]) -> None:
    """RoleForbidden where people may not write one of these.

    That a tool was called is for those who may say what it answered. Under the id of a live answer, another message
    would take its place.
    """
    for message in messages:
        check_role(message.role, allowed)
        if message.id is not None and "assistant" not in allowed and _LIVE_ANSWER.search(message.id):
            raise RoleForbidden(
                f"An id that ends in {LIVE_ANSWER!r} is for what the assistant says.", role="assistant"
            )
        if message.fields.get("toolCalls") and "tool" not in allowed:
            raise RoleForbidden(
                "A user's own token may not write toolCalls: have a program write them.", role="tool"
            )
