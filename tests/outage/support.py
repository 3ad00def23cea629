"""What Firestore really has, asked past server and proxy."""

from __future__ import annotations

from typing import Any

import msgspec

from samvad.records import UserKey


async def history(store: Any, user: str) -> list[str]:
    """All that was said by a user, oldest first; its seq have no hole, and say so in the messages as well."""
    found: list[Any] = []
    more = True
    while more:
        page, more = await store.page(
            UserKey("default", user), after=len(found), before=None, limit=1_000, bytes_max=1 << 40
        )
        found += page
    bodies = [msgspec.json.decode(message.body) for message in found]
    assert [message.seq for message in found] == list(range(1, len(found) + 1))
    assert [body["seq"] for body in bodies] == list(range(1, len(found) + 1))
    return [body["content"] for body in bodies]
