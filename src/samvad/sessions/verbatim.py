"""Commits that a journal cannot apply anew, because they do not say what was asked for: the store itself answers.

The service never makes one. Whoever uses a JournaledStore as a plain Store does: such a commit is journaled,
waits for its turn in the user's lane, and is answered with what the store says of it, refusals included.
Nobody is shown it before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from samvad.errors import SamvadError, Unavailable
from samvad.records import Committed, Origin
from samvad.sessions.coalesce import erases
from samvad.sessions.flush_lane import Entry, FlushLane, flush_span

if TYPE_CHECKING:
    from samvad.sessions.flusher import Flusher


async def flush(flusher: Flusher, lane: FlushLane, entry: Entry) -> bool:
    """Bring the first entry of a lane to the store as it is. False: the store is away, wait before the next try."""
    origin = entry.commit.origin or Origin(entry.replica, entry.number)
    commit = msgspec.structs.replace(entry.commit, origin=origin)
    entry.tried = True
    answer: Committed | SamvadError
    try:
        with flush_span(lane, [entry]):
            answer = await flusher.breaker.through(lambda: flusher.store.commit(commit))
    except Unavailable:
        return False
    except SamvadError as error:
        answer = error
    else:
        flusher.brought(lane, [entry])
    lane.entries.popleft()
    lane.record = None  # what follows was made without knowing what this has changed
    lane.refused()
    flusher.journal.forget(entry.number)
    if entry.waiter is not None:
        lane.waiting = max(0, lane.waiting - 1)
    if isinstance(answer, Committed):
        flusher.on_rebased(lane.user)
        if erases(commit):
            flusher.scrubber.scrub()
    entry.answer(answer)
    return True
