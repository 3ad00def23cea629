"""What is billed is counted where Firestore is called, kept over restarts, and told at Firestore's prices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from samvad.cli import app
from samvad.clock import SystemClock
from samvad.http.app import create_app
from samvad.runtime import open_samvad
from samvad.sessions.cost import Billed, CostMeter, Prices, compared, kept_at
from tests.cli.processes import Server
from tests.firestore.support import emulator
from tests.http.support import Api

HISTORY = "/api/session/asha/history"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database of the emulator, and a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulator().host)
    return f"firestore://{emulator().new_project()}"


def test_prices() -> None:
    """100,000 of each at the documented prices, and against one write for each message."""
    billed = Billed(reads=100_000, writes=50_000, deletes=100_000, messages=100_000)
    assert billed.usd(Prices()) == pytest.approx(0.06 + 0.09 + 0.02)
    plain = compared(billed, Prices())
    assert (plain.writes, plain.share) == (100_000, 0.5)
    assert (plain.usd, plain.saved_usd) == (pytest.approx(0.26), pytest.approx(0.09))
    assert compared(Billed(), Prices()).share is None
    assert Billed(reads=1_000_000).usd(Prices(reads=1.5)) == pytest.approx(15)


@pytest.mark.anyio
async def test_what_was_done_is_counted_exactly(url: str) -> None:
    """As many reads, writes and deletes as the calls made; messages count once, whichever batch brought them."""
    async with open_samvad(url) as samvad:
        assert samvad.cost.bills
        for number in range(120):
            await samvad.append_to_user_history("asha", "user", f"{number}")
        again = await samvad.append_to_user_history("asha", "user", "x", id="given")
        assert not again.duplicate
        assert (await samvad.append_to_user_history("asha", "user", "x", id="given")).duplicate
        done = samvad.cost.process
        store: Any = samvad.store
        assert (done.reads, done.writes, done.deletes) == (
            store.operations.reads,
            store.operations.writes,
            store.operations.deletes,
        )
        assert done.messages == 121
        assert 121 <= done.writes <= 125  # each by itself, without a journal; now and then a segment
        await samvad.clear_user_data("asha")
        assert samvad.cost.process.deletes > done.deletes
        exposed = (await Api(samvad, create_app(samvad)).get("/metrics")).body.decode()
        total = samvad.cost.total
        for operation in ("reads", "writes", "deletes"):
            value = float(getattr(total, operation))
            assert f'samvad_billed_total{{operation="{operation}"}} {value}' in exposed
        assert f"samvad_billed_messages_total {float(total.messages)}" in exposed


def test_a_server_tells_and_keeps_its_cost(url: str, tmp_path: Path) -> None:
    """Over HTTP as of now, and after a stop on the command line; the next server goes on counting."""
    with Server(tmp_path, "--store", url) as server:
        for number in range(40):
            assert server.request("POST", HISTORY, {"role": "user", "content": f"{number}"})[0] == 200
        status, answer = server.request("GET", "/api/session/cost")
        assert (status, answer["success"]) == (200, True)
        assert (answer["cost"]["engine"], answer["cost"]["billed"]) == ("firestore", True)
        server.signal()
        assert server.exit_code() == 0
    told = json.loads(CliRunner().invoke(app, ["cost", "--json", "--store", url]).output)
    assert told["messages"] == 40
    assert 0 < told["writes"] <= 20, "what gathers in the journal is one write"
    assert told["onePerMessage"]["writes"] == 40
    assert told["onePerMessage"]["savedUsd"] > 0
    shown = CliRunner().invoke(app, ["cost", "--store", url]).output
    assert "40 messages: one write for each would have been" in shown
    with Server(tmp_path, "--store", url) as server:
        total = server.request("GET", "/api/session/cost")[1]["cost"]["total"]
        assert total["messages"] == 40
        assert total["writes"] >= told["writes"]
        server.signal()
        assert server.exit_code() == 0
    kept = kept_at(tmp_path / "data" / "cost.json")
    assert kept is not None and kept.store == url
    assert (tmp_path / "data" / "cost.json").stat().st_mode & 0o777 == 0o600


def test_totals_of_another_store_are_not_taken_over(url: str, tmp_path: Path) -> None:
    """Whoever changes to another project begins anew; the prices are those of the settings."""

    async def of(kept_url: str) -> Billed:
        samvad = open_samvad(url)
        meter = CostMeter(samvad.store, SystemClock(), Prices(), path=tmp_path / "cost.json", url=kept_url)
        await meter.load()
        return meter.total

    import asyncio

    (tmp_path / "cost.json").write_text(
        '{"sinceMs":1,"store":"firestore://one","billed":{"reads":5,"writes":6,"deletes":7,"messages":8}}'
    )
    assert asyncio.run(of("firestore://one")) == Billed(5, 6, 7, 8)
    assert asyncio.run(of("firestore://two")) == Billed()
    (tmp_path / "cost.json").write_text("{")
    assert asyncio.run(of("firestore://one")) == Billed()


@pytest.mark.anyio
async def test_other_stores_bill_nothing() -> None:
    """The answer has the same form, with zeros."""
    async with open_samvad("memory://") as samvad:
        api = Api(samvad, create_app(samvad))
        await api.ok("POST", HISTORY, {"role": "user", "content": "hello"})
        cost = (await api.ok("GET", "/api/session/cost"))["cost"]
        assert (cost["engine"], cost["billed"], cost["total"]["usd"]) == ("memory", False, 0)


def test_cost_on_the_command_line_without_firestore(url: str) -> None:
    """SQLite costs nothing; and where no server has counted, it says so."""
    assert "bills nothing" in CliRunner().invoke(app, ["cost"]).output
    assert "No server has counted" in str(CliRunner().invoke(app, ["cost", "--store", url]).exception)
