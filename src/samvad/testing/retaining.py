"""Random retention for the model: what goes is said relative to what the user has then."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from samvad.records import UserKey
from samvad.sessions.operations import Retain
from samvad.stores.base import Store

_STAY_MAX: Final = 9


def retains(times: st.SearchStrategy[int], session_ids: st.SearchStrategy[str]) -> st.SearchStrategy[Retain]:
    """An operation whose `before_seq` is how many messages are to stay, and whose `epoch` how far off it is."""
    sessions = st.lists(st.tuples(session_ids, times), max_size=2, unique_by=lambda session: session[0])
    return st.builds(
        Retain,
        at_ms=times,
        epoch=st.sampled_from([0, 0, 0, -1]),
        before_seq=st.integers(0, _STAY_MAX),
        interruptions_before_ms=st.just(0) | times,
        sessions=sessions.map(tuple),
    )


async def told(operation: Retain, model: Store, key: UserKey) -> Retain:
    """The operation with the places that it has for this user."""
    here = await model.load(key, window=1, open_after_ms=1 << 62, sessions_max=0)
    return Retain(
        at_ms=operation.at_ms,
        epoch=here.version.epoch + operation.epoch,
        before_seq=max(0, here.seq + 1 - operation.before_seq),
        interruptions_before_ms=operation.interruptions_before_ms,
        sessions=operation.sessions,
    )
