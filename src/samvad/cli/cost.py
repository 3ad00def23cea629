"""`samvad cost`: what Firestore bills for what the server has done, and what one write a message would have cost."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from samvad.cli import flags
from samvad.cli.command import PlainCommand, verbs
from samvad.cli.opening import settings_of
from samvad.cli.output import table
from samvad.clock import rfc3339
from samvad.errors import NotFound
from samvad.sessions.cost import FILE, Prices, compared, kept_at

app = verbs()


@app.command(cls=PlainCommand)
def cost(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Tell what Firestore bills for what the server of this data directory did. A server may be running.

    A running server keeps its totals once a minute; GET /api/session/cost has them as of now.
    """
    settings = settings_of(store, data_dir)
    url = settings.store_url()
    if not url.startswith("firestore:"):
        typer.echo(f"{url.partition(':')[0]} bills nothing for an operation; there is nothing to count.")
        return
    path = settings.data_path() / FILE
    kept = kept_at(path)
    if kept is None or kept.store != url:
        raise NotFound(f"No server has counted anything for {url} in {path.parent} yet.")
    prices = Prices(settings.price_reads_usd, settings.price_writes_usd, settings.price_deletes_usd)
    billed, plain = kept.billed, compared(kept.billed, prices)
    if json:
        found = {
            "since": rfc3339(kept.since_ms),
            "reads": billed.reads,
            "writes": billed.writes,
            "deletes": billed.deletes,
            "messages": billed.messages,
            "usd": billed.usd(prices),
            "onePerMessage": {"writes": plain.writes, "usd": plain.usd, "savedUsd": plain.saved_usd},
        }
        typer.echo(msgspec.json.encode(found).decode())
        return
    parts = [
        ("reads", billed.reads, prices.reads),
        ("writes", billed.writes, prices.writes),
        ("deletes", billed.deletes, prices.deletes),
    ]
    typer.echo(f"since {rfc3339(kept.since_ms)}, {url}")
    typer.echo(
        table(
            [(name, f"{count:>14,}", f"{count * price / 100_000:>12.4f} USD") for name, count, price in parts]
            + [("total", " " * 14, f"{billed.usd(prices):>12.4f} USD")]
        )
    )
    if plain.share is not None:
        typer.echo(
            f"{billed.messages:,} messages: one write for each would have been {plain.usd:.4f} USD; "
            f"these were {plain.share:.2f} writes a message, {plain.saved_usd:.4f} USD less."
        )
