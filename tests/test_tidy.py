"""The house rules, as tests: a rule that nobody checks is soon none."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support import REPOSITORY

LINES_MAX = 450  # of one module
SOURCE = REPOSITORY / "src" / "samvad"
LOCKS = sorted((REPOSITORY / "requirements").glob("*.lock"))

# Files whose waiting is a helper that polls a condition, or the very thing under test. Say which, and why.
MAY_SLEEP = {
    "tests/auth/test_holding.py": "virtual time, which passes in no time",
    "tests/auth/test_pacing.py": "virtual time, which passes in no time",
    "tests/journaled/test_erase_interleavings.py": "virtual time, which passes in no time",
    "tests/journaled/test_pace.py": "virtual time, which passes in no time",
    "tests/journaled/virtual.py": "virtual time, which passes in no time",
    "tests/support.py": "wait_until polls",
}

# Written in pieces, so that this file keeps its own rules.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:wo" + "rk|ro" + "ot|ho" + r"me|Use" + r"rs)/[\w.]")
REGISTRY_HOST = re.compile(
    r"\b(?:pypi\.o" + r"rg|pythonhosted\.o" + r"rg|registry\.npmjs\.o" + r"rg|npmjs\.c" + r"om|"
    r"deb\.debian\.o"
    + r"rg|registry\.yarnpkg\.c"
    + r"om|proxy\.golang\.o"
    + r"rg|static\.crates\.i"
    + r"o)\b"
)


@cache
def repository_files() -> tuple[Path, ...]:
    """Every text file that is tracked, or would be with the next commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    ).stdout
    paths = (REPOSITORY / name for name in listed.decode().split("\0") if name)
    return tuple(path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192])


def python_files(folder: str) -> list[Path]:
    """The Python files of the repository that lie under `folder`."""
    return [
        path
        for path in repository_files()
        if path.suffix == ".py" and path.is_relative_to(REPOSITORY / folder)
    ]


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file; those of `src` and `tests` are walked by several rules."""
    return ast.parse(path.read_bytes(), str(path))


def name(path: Path, line: int | None = None) -> str:
    """`path:line`, as an editor opens it."""
    relative = path.relative_to(REPOSITORY).as_posix()
    return relative if line is None else f"{relative}:{line}"


def complain(rule: str, found: list[str]) -> None:
    """Fail with the rule and every place that breaks it."""
    if found:
        pytest.fail("\n  ".join([rule, *found]), pytrace=False)


def test_modules_are_short() -> None:
    """A module of src can be read in one sitting."""
    lengths = {path: len(path.read_bytes().splitlines()) for path in python_files("src")}
    found = [f"{name(path)}: {length} lines" for path, length in lengths.items() if length > LINES_MAX]
    complain(f"split these modules (at most {LINES_MAX} lines):", found)


@cache
def interface_methods() -> frozenset[str]:
    """The documented methods of protocols and abstract classes; whoever carries them out need not repeat it."""
    return frozenset(
        method.name
        for path in python_files("src")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        and any(re.search(r"\b(Protocol|ABC)\b", ast.unparse(base)) for base in node.bases)
        for method in node.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(method)
    )


def undocumented(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[str, int]]:
    """Public classes, functions and methods without a docstring, as (dotted name, line)."""
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        decorators = {ast.unparse(each).rsplit(".", 1)[-1] for each in node.decorator_list}
        elsewhere = decorators & {"overload", "override", "setter"} or (
            owner and node.name in interface_methods()
        )
        if not node.name.startswith("_") and not elsewhere and ast.get_docstring(node) is None:
            yield owner + node.name, node.lineno
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from undocumented(node.body, f"{owner}{node.name}.")


def test_what_is_public_is_documented() -> None:
    """Every public module, class, function and method of src says what it is for."""
    found = [name(path) for path in python_files("src") if ast.get_docstring(tree(path)) is None]
    for path in python_files("src"):
        found += [f"{name(path, line)} {what}" for what, line in undocumented(tree(path).body)]
    complain("write a docstring:", found)


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, with the dotted name of what is called."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node


def test_only_the_command_line_prints() -> None:
    """The library writes nothing to the standard output of the program that holds it."""
    found = [
        name(path, call.lineno)
        for path in python_files("src")
        if not path.is_relative_to(SOURCE / "cli")
        for called, call in calls(path)
        if called == "print"
    ]
    complain("log it, or move it to cli:", found)


def test_tests_wait_for_conditions() -> None:
    """No test takes the passing of time for an event (sleep(0), a mere yield, is allowed)."""
    found = [
        name(path, call.lineno)
        for path in python_files("tests")
        if name(path) not in MAY_SLEEP
        for called, call in calls(path)
        if called in {"sleep", "time.sleep", "asyncio.sleep", "anyio.sleep", "trio.sleep"}
        and not (call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0)
    ]
    complain("wait for a condition (tests.support.wait_until), or give a reason in MAY_SLEEP:", found)
    complain(
        "not there any more, take out of MAY_SLEEP:",
        [each for each in MAY_SLEEP if not (REPOSITORY / each).exists()],
    )


def test_broad_excepts_are_marked() -> None:
    """Only the top of a task or thread catches everything, and says so; cleaning up and raising is free."""
    found = []
    for path in python_files("src"):
        lines = path.read_text().splitlines()
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = set(re.findall(r"\w+", ast.unparse(node.type))) if node.type else {"BaseException"}
            if not caught & {"Exception", "BaseException"} or isinstance(node.body[-1], ast.Raise):
                continue
            around = " ".join(lines[node.lineno - 2 : node.body[0].lineno])
            if not re.search(r"#.*\btop of\b", around):
                found.append(name(path, node.lineno))
    complain("catch what can be dealt with here, or mark it: `# the top of the task: …`", found)


def test_nothing_betrays_a_developers_machine() -> None:
    """No file names a path of somebody's machine or the host of a package registry."""
    found = []
    for path in repository_files():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            found += [
                f"{name(path, number)}: {match[0]}"
                for match in (MACHINE_PATH.search(line), REGISTRY_HOST.search(line))
                if match
            ]
    complain("write it without:", found)


def pins(lock: Path) -> dict[str, tuple[str, int]]:
    """What a lock pins: version and number of hashes by package (extras left out)."""
    found: dict[str, tuple[str, int]] = {}
    package = ""
    for line in lock.read_text().splitlines():
        if pin := re.match(r"([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==([^ ;]+)", line):
            package = pin[1]
            found[package] = (pin[2], 0)
        elif re.match(r"\s+--hash=sha256:[0-9a-f]{64}( \\)?$", line):
            version, hashes = found[package]
            found[package] = (version, hashes + 1)
        elif line and not line.lstrip().startswith("#"):
            pytest.fail(f"{name(lock)} has more than pins and hashes: {line!r}", pytrace=False)
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks_pin_by_hash_alone(lock: Path) -> None:
    """A lock says which bytes to install, and leaves it to the machine where to get them."""
    text = lock.read_text()
    complain(
        "no address or path in a lock:",
        re.findall(r"\S*://\S*|(?<!\w)-[-\w]*(?:url|links|index)\S*|\S* @ \S*", text),
    )
    assert pins(lock)
    complain("no hash:", [package for package, (_, hashes) in pins(lock).items() if not hashes])


def test_a_serving_environment_can_grow_into_a_testing_one() -> None:
    """dev.lock holds every pin of serve.lock and build.lock: `make test` after `make serve` only adds."""
    serve, build, dev = (
        pins(REPOSITORY / "requirements" / f"{each}.lock") for each in ("serve", "build", "dev")
    )
    wanted = {package: version for package, (version, _) in (serve | build).items()}
    complain(
        "run `make lock`:",
        [f"{each}=={wanted[each]}" for each in wanted if dev.get(each, "")[0] != wanted[each]],
    )


def test_each_dependency_has_a_reason() -> None:
    """A core dependency is in the lock, and the line above it says why it is there."""
    text = (REPOSITORY / "pyproject.toml").read_text()
    dependencies = tomllib.loads(text)["project"]["dependencies"]
    locked = pins(REPOSITORY / "requirements" / "serve.lock")
    lines = [line.strip() for line in text.splitlines()]
    for dependency in dependencies:
        package = re.match(r"[\w-]+", dependency)
        assert package, dependency
        assert package[0] in locked, f"run `make lock`: {package[0]} is not in serve.lock"
        assert lines[lines.index(f'"{dependency}",') - 1].startswith("# "), f"why {package[0]}?"
