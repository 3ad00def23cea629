"""What the store bills."""

from __future__ import annotations

from typing import Any

from samvad.clock import rfc3339
from samvad.http.access import OPERATOR
from samvad.http.call import Call, Reply, encode
from samvad.http.routing import Route
from samvad.sessions.cost import Billed, CostMeter, compared


async def cost(call: Call) -> Reply:
    """What the store bills for what was done, and what one write for each message would have cost."""
    meter = call.cost
    return Reply(encode({"success": True, "cost": cost_fields(meter, call.service.core.store.name)}))


def cost_fields(meter: CostMeter, engine: str) -> dict[str, Any]:
    """The cost of this process and of all since the totals were begun, as callers see it."""

    def told(billed: Billed, since_ms: int) -> dict[str, Any]:
        return {
            "since": rfc3339(since_ms),
            "reads": billed.reads,
            "writes": billed.writes,
            "deletes": billed.deletes,
            "messages": billed.messages,
            "usd": billed.usd(meter.prices),
        }

    total = meter.total
    plain = compared(total, meter.prices)
    return {
        "engine": engine,
        "billed": meter.bills,
        "process": told(meter.process, meter.started_ms),
        "total": told(total, meter.since_ms),
        "onePerMessage": {"writes": plain.writes, "usd": plain.usd, "savedUsd": plain.saved_usd},
        "pricesPer100000Usd": meter.prices._asdict(),
    }


ROUTES = (Route("GET", "/api/session/cost", cost, "getCost", OPERATOR),)
