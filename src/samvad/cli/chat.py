"""`samvad chat`: talk to an assistant in the terminal, through a server's live socket."""

from __future__ import annotations

import asyncio
import getpass
import sys
from typing import Annotated

import typer

from samvad.cli import flags
from samvad.cli.command import PlainCommand, verbs
from samvad.errors import SetupError

app = verbs()


@app.command(cls=PlainCommand)
def chat(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]", help="A server, as http://127.0.0.1:8080; without it one is started."
        ),
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="USER", help="Who is talking. [default: your login name]")
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", metavar="SESSION", help="Go on with this session.")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", metavar="TAG", help="hi, ta, en-IN …, or auto.")
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option("--provider", metavar="NAME", help="Who answers, where the server has several."),
    ] = None,
    store: flags.Store = None,
    data_dir: flags.DataDir = None,
) -> None:
    """Talk to an assistant in the terminal. Ctrl-C interrupts it, /help lists what else there is.

    Where the server at URL asks for credentials, the token stands in the variable SAMVAD_TOKEN.

    Lines from a pipe are asked one after the other, and nothing but the answers is printed.
    """
    from samvad.cli.chat_server import EmbeddedServer
    from samvad.cli.chat_talk import Talk
    from samvad.cli.chat_terminal import Terminal

    if url is not None:
        if store is not None or data_dir is not None:
            raise SetupError("--store and --data-dir are the server's; leave them out where a URL is given.")
        if not url.startswith(("http://", "https://")) or " " in url:
            raise SetupError(f"{url} is no address of a server; it looks like http://127.0.0.1:8080.")
    who = user or getpass.getuser()
    start = {"sessionId": session, "language": language, "provider": provider}
    terminal = Terminal(interactive=sys.stdin.isatty() and sys.stdout.isatty())
    with EmbeddedServer(url, store=store, data_dir=data_dir) as server:
        first = {key: each for key, each in start.items() if each is not None}
        talk = Talk(server.url, who, terminal, first, token=lambda: server.token(who))
        code = asyncio.run(talk.run())
    raise typer.Exit(code)
