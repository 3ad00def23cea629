"""The command line: `samvad VERB`, one file a verb, each imported only when it is called.

Exit codes: 0 done; 1 it did not work; 2 it cannot work as asked (settings, flags, names); 130 interrupted.
Whatever goes wrong is one line on standard error that begins with `samvad:`.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.main import get_command as built

from samvad import __version__
from samvad.cli.command import PlainGroup
from samvad.cli.output import printable
from samvad.errors import SamvadError, SetupError

EXIT_FAILED: Final = 1
EXIT_SETUP: Final = 2
EXIT_INTERRUPTED: Final = 130
# The disk, the quota or the largest file: nothing that this program could mend.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# Verb: the module that holds its `app`, and what it does in a line.
VERBS: Final = {
    "serve": ("samvad.cli.serve", "Run the server."),
    "keys": ("samvad.cli.keys", "Make, list, rotate and revoke API keys."),
    "chat": ("samvad.cli.chat", "Talk to an assistant in the terminal."),
    "doctor": ("samvad.cli.doctor", "Look for what could go wrong, and say what to do."),
    "encryption": ("samvad.cli.encryption", "Look at the keys of an encrypted store, or rotate them."),
    "audit": ("samvad.cli.audit", "Check who did what to whom, and that nothing of it was changed."),
    "parked": ("samvad.cli.parked", "Decide about operations that the store refuses for ever."),
    "cost": ("samvad.cli.cost", "Tell what Firestore bills for what the server did."),
    "kb": ("samvad.cli.kb", "Look after the knowledge base."),
    "retention": ("samvad.cli.retention", "Look at the retention rules, or apply them now."),
    "stats": ("samvad.cli.stats", "Count users, sessions and messages."),
    "user": ("samvad.cli.user", "Show, export or erase one user."),
    "import": ("samvad.cli.importing", "Take in conversations from a file of JSON lines."),
    "migrate": ("samvad.cli.migrate", "Carry everything from one store to another."),
    "backup": ("samvad.cli.backup", "Write everything to one portable file."),
    "restore": ("samvad.cli.restore", "Put what a backup holds into a store."),
    "export": ("samvad.cli.exporting", "Write the whole store to a file of JSON lines."),
    "bench": ("samvad.cli.bench", "Measure how fast this machine is, in a few seconds."),
}


class _Verbs(PlainGroup):
    """The verbs. Listing them imports none."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        if cmd_name not in self.commands:
            module = importlib.import_module(VERBS[cmd_name][0])
            command = built(module.app)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


app = typer.Typer(
    cls=_Verbs,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(value: bool) -> None:
    if value:
        typer.echo(f"samvad {__version__}")
        raise typer.Exit


@app.callback()
def samvad(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version.")
    ] = False,
) -> None:
    """State for AI assistants: users, conversations, sessions and interruptions, fast and durable."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Nothing but a fault of ours gets out as an exception."""
    try:
        code = built(app).main(arguments, prog_name="samvad", standalone_mode=False)
        sys.stdout.flush()
    except SetupError as error:
        return _complain(error.message, EXIT_SETUP)
    except SamvadError as error:
        return _complain(error.message, EXIT_FAILED)
    except typer.TyperException as error:  # a mistake on the command line
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())
            return EXIT_SETUP
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        return _complain(error.format_message().removesuffix(".") + hint + ".", error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away, as `head` does. Nothing can be written any more, not even at the exit.
        _write_no_more()
        return EXIT_FAILED
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        try:
            sys.stdout.flush()
        except OSError:  # it is the output itself that takes no more
            _write_no_more()
        return _complain(f"It was not finished: {error.strerror}.", EXIT_FAILED)
    return code if isinstance(code, int) else 0


def _write_no_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, code: int) -> int:
    print(f"samvad: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def main() -> NoReturn:
    """The program `samvad`."""
    # It forks only to become another program, and gRPC's handlers of forks have crashed that before it was one.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    sys.exit(run())


__all__ = ["VERBS", "app", "main", "run"]
