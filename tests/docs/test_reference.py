"""The reference says what the code says: a setting, limit, error, route, verb or metric that is not there fails."""

from __future__ import annotations

import base64
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.main import get_command

from samvad import errors, limits, types
from samvad.auth.audit import AuditLog
from samvad.auth.authenticator import Authenticator
from samvad.cli import VERBS, app
from samvad.cli.serve import serve
from samvad.clock import SystemClock
from samvad.http import connections, server
from samvad.http.app import routes
from samvad.http.metrics import Metrics
from samvad.http.rate_limits import Limiter, quotas
from samvad.http.shared_limits import RedisWindows
from samvad.interruptions import InterruptionContextManager
from samvad.live.opening import plain_live
from samvad.runtime import Options, open_samvad
from samvad.sessions.service import SessionPersistenceService
from samvad.settings import Settings, describe
from tests.docs.pages import page
from tests.support import REPOSITORY

REFERENCE = "docs/reference/"
# Errors that no caller of HTTP ever sees: of starting, and between a lane and its store.
NOT_ANSWERS = {"setup", "store_locked", "stale_version", "message_exists"}


def code(cell: str) -> str:
    """What a table's cell says in `code`; the cell itself where there is none."""
    found = re.match(r"`([^`]*)`", cell)
    return found[1] if found else cell


def name_of(cell: str) -> str:
    """The name of a function in `name(arguments)`."""
    return code(cell).partition("(")[0]


def test_settings() -> None:
    """Every setting is documented with its variable, flag and default, in the order of the class; no other is."""
    flags = inspect.signature(serve).parameters
    wanted = [
        (
            each.name,
            each.env,
            f"--{each.name.replace('_', '-')}" if each.name in flags else "–",
            each.default or "–",
        )
        for each in describe()
    ]
    rows = page(REFERENCE + "settings.md").rows("setting")
    columns = ("setting", "variable", "flag", "default")
    assert [tuple(code(row[column]) for column in columns) for row in rows] == wanted
    assert all(row["meaning"] for row in rows)


def test_limits() -> None:
    """Every limit is documented with its value, those of the server's connections too; no other is."""

    def bounds(module: Any) -> dict[str, float]:
        values = {name: value for name, value in vars(module).items() if name.isupper() and name[0] != "_"}
        return {
            name: len(value) if isinstance(value, frozenset) else value
            for name, value in values.items()
            if isinstance(value, int | float | frozenset) and not isinstance(value, bool)
        }

    documented = {
        code(row["limit"]): float(row["value"].replace(",", ""))
        for row in page(REFERENCE + "limits.md").rows("limit")
    }
    assert documented == bounds(limits) | bounds(server) | bounds(connections)


def test_routes() -> None:
    """Every route is documented, and no other."""
    documented = [
        (code(row["method"]), code(row["path"])) for row in page(REFERENCE + "http.md").rows("method")
    ]
    assert sorted(documented) == sorted((route.method, route.path) for route in routes())


def error_classes(of: type[errors.SamvadError] = errors.SamvadError) -> Iterator[type[errors.SamvadError]]:
    """The tree of errors."""
    yield of
    for below in of.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from error_classes(below)


def test_errors() -> None:
    """Every error that a caller can get is documented with its code, status and class; no other is."""
    wanted = {
        (error.code, str(error.status), error.__name__)
        for error in error_classes()
        if error.code not in NOT_ANSWERS
    }
    rows = page(REFERENCE + "http.md").rows("code")
    assert {(code(row["code"]), row["status"], code(row["class"])) for row in rows} == wanted
    assert len(rows) == len(wanted)


def test_message_fields() -> None:
    """The fields of a message on the wire are documented."""
    documented = {code(row["field"]) for row in page(REFERENCE + "http.md").rows("field")} - {"anything else"}
    known = {field.encode_name for field in msgspec.structs.fields(types.Message)}
    assert documented == known - {"seq", "timestamp", "extra"}


def test_operations_of_a_batch() -> None:
    """Every operation of a batch is documented."""
    from samvad.http.resources.batch import _OPERATIONS

    assert [code(row["op"]) for row in page(REFERENCE + "http.md").rows("op")] == list(_OPERATIONS)


def public(of: type) -> set[str]:
    """The public methods of a class."""
    return {name for name, _ in inspect.getmembers(of, inspect.isfunction) if not name.startswith("_")}


def test_verbs() -> None:
    """Every verb of the library is documented with parameters that it has; no other is."""
    rows = page(REFERENCE + "library.md").rows("verb")
    assert {name_of(row["verb"]) for row in rows} == public(SessionPersistenceService)
    assert_parameters(SessionPersistenceService, [row["verb"] for row in rows])


def test_functions_of_interruptions() -> None:
    """Every function of the InterruptionContextManager is documented, and no other."""
    rows = page(REFERENCE + "library.md").rows("function")
    assert {name_of(row["function"]) for row in rows} == public(InterruptionContextManager)
    assert_parameters(InterruptionContextManager, [row["function"] for row in rows])


def assert_parameters(of: type, cells: list[str]) -> None:
    """What a table says of a function's parameters is so."""
    for cell in cells:
        name, _, arguments = code(cell).rstrip(")").partition("(")
        known = inspect.signature(getattr(of, name)).parameters
        named = [each.strip(" *=") for each in arguments.split(",") if each.strip(" …")]
        assert set(named) <= set(known), f"{name} takes {', '.join(known)}; the page says {cell}"


def test_options() -> None:
    """Every option of open_samvad is documented with its default; no other is."""
    rows = page(REFERENCE + "library.md").rows("option")
    wanted = {field.name: str(field.default) for field in msgspec.structs.fields(Options)}
    assert {code(row["option"]): code(row["default"]) for row in rows} == wanted


def test_types() -> None:
    """Every public type is documented with its fields."""
    wanted = {}
    for name, each in vars(types).items():
        if inspect.isclass(each) and each.__module__ == types.__name__:
            struct = issubclass(each, msgspec.Struct)
            fields = [field.name for field in msgspec.structs.fields(each)] if struct else each._fields
            wanted[name] = list(fields)
    rows = page(REFERENCE + "library.md").rows("type")
    assert {code(row["type"]): re.findall(r"`(\w+)`", row["fields"]) for row in rows} == wanted


def commands() -> Iterator[tuple[str, Any]]:
    """Every command of the command line, with its full name."""
    main: Any = get_command(app)
    for verb in VERBS:
        command = main.get_command(None, verb)
        below = getattr(command, "commands", None)
        if below:
            yield from ((f"samvad {verb} {name}", each) for name, each in below.items())
        else:
            yield f"samvad {verb}", command


def test_commands() -> None:
    """Every command is documented under a heading of its own, with each of its flags and arguments; no other is."""
    found = page(REFERENCE + "cli.md")
    sections = re.split(r"^## (samvad .*)$", found.text(), flags=re.MULTILINE)
    documented = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert list(documented) == [name for name, _ in commands()]
    for name, command in commands():
        wanted = set()
        for parameter in command.params:
            if parameter.name == "help":
                continue
            if parameter.param_type_name == "argument":
                wanted.add(parameter.metavar)
            else:
                wanted.update((*parameter.opts, *parameter.secondary_opts))
        said = {
            text.split(" ")[0]
            for text in re.findall(
                r"`((?:-|USER|FILE|FROM|TO|PATH…|WORDS…|ID|\[URL)[^`]*)`", documented[name]
            )
        }
        assert said - {"-h", "--help"} == wanted, name


def all_metrics(directory: Path) -> str:
    """What /metrics would say where everything is on. Nothing is opened for it."""
    clock = SystemClock()
    told = []
    for url in (f"sqlite:///{directory}/samvad.db", "firestore://nobody"):
        samvad = open_samvad(
            url,
            master_key=base64.b64encode(b"k" * 32).decode(),
            journal_dir=directory / "journal" if url.startswith("firestore") else None,
            retain_messages=1,
        )
        shared = RedisWindows("redis://127.0.0.1:1")
        limiter = Limiter(clock, quotas(Settings()), shared=shared)
        metrics = Metrics(samvad, Authenticator(clock), limiter)
        metrics.audit = AuditLog(directory, clock)
        metrics.live = plain_live(samvad)
        assert samvad.knowledge is not None
        metrics.observe("healthz", 200, 0.001)
        told.append(metrics.render().decode())
    return "".join(told)


def test_metrics(tmp_path: Path) -> None:
    """Every metric is documented with its type and its labels, and no other."""
    lines = all_metrics(tmp_path).splitlines()
    kinds = {line.split(" ")[2]: line.split(" ")[3] for line in lines if line.startswith("# TYPE ")}
    rows = {code(row["metric"]): row for row in page(REFERENCE + "metrics.md").rows("metric")}
    assert {name: row["type"] for name, row in rows.items()} == kinds
    for line in lines:
        if (sample := re.match(r"(\w+?)(?:_bucket|_sum|_count)?\{([^}]*)\}", line)) is not None:
            row = rows.get(sample[1]) or rows[re.match(r"\w+", line)[0]]  # type: ignore[index]
            labels = set(re.findall(r'(\w+)="', sample[2])) - {"le"}
            assert labels == set(re.findall(r"`(\w+)`", row["labels"])), line


def test_tables_of_the_database() -> None:
    """Every table of the schema is documented, and no other."""
    scripts = sorted((REPOSITORY / "src/samvad/stores/sqlite_migrations").glob("*.sql"))
    made: list[str] = []
    for script in scripts:
        made += re.findall(r"^CREATE TABLE (\w+)", script.read_text(), re.MULTILINE)
        gone = re.findall(r"^DROP TABLE (\w+)", script.read_text(), re.MULTILINE)
        made = [name for name in made if name not in gone]
    assert [code(row["table"]) for row in page(REFERENCE + "files.md").rows("table")] == made


def test_files_of_the_data_directory(tmp_path: Path) -> None:
    """A store that is open has the files that the page names; one that is closed, two of them."""
    documented = {code(row["file"]) for row in page(REFERENCE + "files.md").rows("file")}
    with open_samvad(f"sqlite:///{tmp_path}/samvad.db") as samvad:
        samvad.append_to_user_history("asha", "user", "Hello")
        samvad.knowledge.add_text("Greeting", "How to greet people.")
        while_open = {path.name + "/" * path.is_dir() for path in tmp_path.iterdir()}
    while_open -= {"samvad.knowledge.db-wal", "samvad.knowledge.db-shm"}
    assert while_open == documented - {".import-….json"}
    knowledge = {"samvad.knowledge.db", "samvad.knowledge-index"}
    assert {path.name for path in tmp_path.iterdir()} == {"samvad.db", "samvad.db.lock"} | knowledge


DECISIONS = sorted((REPOSITORY / "docs" / "decisions").glob("*.md"))


@pytest.mark.parametrize(
    ("number", "path"), [*enumerate(DECISIONS, 1)], ids=lambda each: getattr(each, "stem", None)
)
def test_decisions_have_a_form(number: int, path: Path) -> None:
    """They are numbered without a gap, and each says its context, what was decided and what follows."""
    assert path.name.startswith(f"{number:04}-")
    headings = list(page(path.relative_to(REPOSITORY).as_posix()).headings())
    assert headings[0].startswith(f"{number}. ")
    assert headings[1:] == ["Context", "Decision", "Consequences"]
