"""Is it alive, is it ready, and how is it doing."""

from __future__ import annotations

from samvad import __version__
from samvad.http.access import OPEN
from samvad.http.call import Call, Reply, encode
from samvad.http.routing import Route
from samvad.sessions.journaled import JournaledStore


async def healthz(call: Call) -> Reply:
    """The process lives."""
    return Reply(encode({"status": "alive", "version": __version__}))


async def readyz(call: Call) -> Reply:
    """200 where a write would be acknowledged as durably as promised, else 503.

    `degraded`: the store behind is down, and writes go on in the journal. `usersParked`: of so many users the
    store refuses an operation for ever, and somebody must decide about it.
    """
    core = call.service.core
    health = await core.store.check()
    body = {
        "status": ("ready" if health.store_up else "degraded") if health.up else "unavailable",
        "store": "up" if health.up and health.store_up else "down",
        "engine": core.store.name,
        "durability": core.rules.durability,
        "operationsWaiting": core.lanes.operations_waiting,
    }
    if isinstance(core.store, JournaledStore) and (parked := len(core.store.flusher.parked())):
        body["usersParked"] = parked
    if health.fault is not None:
        body["fault"] = health.fault
    core.lanes.writes_fail = not health.up
    if health.up:
        return Reply(encode(body))
    return Reply(encode(body), 503, headers=((b"retry-after", b"1"),))


ROUTES = (
    Route("GET", "/healthz", healthz, "healthz", OPEN),
    Route("GET", "/readyz", readyz, "readyz", OPEN),
)
