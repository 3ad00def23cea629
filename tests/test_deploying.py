"""The image and the compose file are what they say: linted, and everything that they name is there."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from samvad.cli import VERBS
from samvad.cli.serve import serve
from samvad.settings import describe, unknown_names
from tests.cli.processes import Server, environment, refusal
from tests.support import REPOSITORY, loudly_skip
from tests.test_tidy import pins

DOCKERFILE = REPOSITORY / "Dockerfile"
FOREIGN = {"FIRESTORE_EMULATOR_HOST", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PATH"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continuation lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", " ", text)
    return [
        (word, rest.strip())
        for line in joined.splitlines()
        if line
        for word, _, rest in [line.partition(" ")]
    ]


def final_stage() -> list[tuple[str, str]]:
    """What ends up in the image."""
    found = instructions()
    last = max(at for at, (word, _) in enumerate(found) if word == "FROM")
    return found[last:]


def of(word: str, stage: list[tuple[str, str]] | None = None) -> list[str]:
    """The arguments of each instruction of that name."""
    return [rest for each, rest in (stage or instructions()) if each == word]


def test_the_dockerfile_passes_hadolint() -> None:
    """The usual linter of Dockerfiles has nothing to say."""
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        loudly_skip("there is no hadolint (requirements/dev.lock has it)")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_image_runs_as_nobody_and_keeps_nothing_of_the_build() -> None:
    """Two stages; a numeric user who is not root; one place to write; a health check; commands without a shell."""
    stage = final_stage()
    assert len(of("FROM")) == 2
    assert [user.split(":")[0].isdecimal() and user.split(":")[0] != "0" for user in of("USER", stage)] == [
        True
    ]
    assert all(copy.startswith("--from=build ") for copy in of("COPY", stage))
    assert not of("RUN", stage) and not of("ADD")
    assert of("VOLUME", stage) == ["/data"]
    assert json.loads(of("ENTRYPOINT", stage)[0]) == ["samvad"]
    verb, *flags = json.loads(of("CMD", stage)[0])
    assert verb in VERBS and flags == []
    assert of("STOPSIGNAL", stage) == ["SIGTERM"]


def test_every_package_of_the_image_is_pinned_by_hash() -> None:
    """Nothing is installed but from locks, with hashes, as wheels; and the pins are those that are tested."""
    for command in " && ".join(of("RUN")).split(" && "):
        if "pip" in command and "install" in command:
            assert "--require-hashes" in command or "--no-index" in command, command
            assert "--no-deps" in command, command
        if "pip wheel" in command:
            assert "--no-index" in command and "--no-build-isolation" in command
    container, dev, plain = (
        pins(REPOSITORY / "requirements" / f"{name}.lock") for name in ("container", "dev", "serve")
    )
    assert container.keys() >= plain.keys() | {"google-cloud-firestore"}
    assert {name: dev[name] for name in container} == container, "run `make lock`"


def test_what_is_copied_is_there_and_secrets_are_not() -> None:
    """.dockerignore lets through what the build copies, and neither data nor settings nor history."""
    allowed = [
        line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    for copy in of("COPY"):
        if copy.startswith("--from="):
            continue
        *sources, _ = copy.split()
        for source in sources:
            assert (REPOSITORY / source).exists(), source
            assert source in allowed, f"{source} does not reach the builder"
    for secret in (".env", ".git", "data", "samvad.db", "today.backup", "tests", "docs", "key.json"):
        assert not any(fnmatch.fnmatch(secret, pattern) for pattern in allowed), secret


def variables(lines: list[str]) -> dict[str, str]:
    """NAME=value of ENV instructions."""
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


def test_the_variables_are_settings() -> None:
    """Of the image and of compose.yaml: no variable that the server would refuse."""
    known = {each.env for each in describe()} | FOREIGN
    for found in (variables(of("ENV", final_stage())), compose()["services"]["samvad"]["environment"]):
        assert set(found) <= known
        assert unknown_names(found, {}) == []


@pytest.mark.crash
def test_the_image_starts_and_its_health_check_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the image's variables: refused without credentials, until somebody says that the network is trusted."""
    given = variables(of("ENV", final_stage()))
    for name, value in given.items():
        if name.startswith("SAMVAD_") and name not in ("SAMVAD_DATA_DIR", "SAMVAD_PORT"):
            monkeypatch.setenv(name, value)
    assert "--insecure" in refusal(["serve", "--port", "0"], tmp_path)
    monkeypatch.setenv("SAMVAD_INSECURE", "true")
    command = json.loads(of("HEALTHCHECK", final_stage())[0].partition(" CMD ")[2])
    with Server(tmp_path) as server:
        assert server.url.startswith("http://0.0.0.0:")
        port = str(server.address[1])
        assert health(command, port, tmp_path) == 0
    assert health(command, port, tmp_path) != 0


def health(command: list[str], port: str, cwd: Path) -> int:
    """The exit code of the health check, for a server on that port."""
    program = [sys.executable if command[0] == "python" else command[0], *command[1:]]
    extra = environment({"SAMVAD_PORT": port})
    return subprocess.run(
        program, cwd=cwd, env=extra, capture_output=True, check=False, timeout=30
    ).returncode


def compose() -> dict[str, Any]:
    """compose.yaml."""
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
    return found


def test_compose_names_what_is_there() -> None:
    """The server's command and flags exist, both services speak of one emulator, and only this machine reaches them."""
    services = compose()["services"]
    emulator, server = services["firestore"], services["samvad"]
    verb, *arguments = server["command"]
    assert verb in VERBS
    flags = [each for each in arguments if each.startswith("--")]
    import inspect

    known = {"--" + name.replace("_", "-") for name in inspect.signature(serve).parameters}
    assert set(flags) <= known
    project = arguments[arguments.index("--store") + 1].removeprefix("firestore://")
    assert f"--project={project}" in emulator["command"]
    assert project.startswith("demo-")  # Google's clients refuse to reach real projects of that name
    (port,) = [each.rpartition(":")[2] for each in emulator["command"] if each.startswith("--host-port=")]
    assert server["environment"]["FIRESTORE_EMULATOR_HOST"] == f"firestore:{port}"
    for service in services.values():
        assert all(each.startswith("127.0.0.1:") for each in service["ports"])
    assert set(server["depends_on"]) <= services.keys()
    assert {volume.partition(":")[0] for volume in server["volumes"]} == compose()["volumes"].keys()
    assert (REPOSITORY / server["build"] / "Dockerfile").is_file()


def test_the_emulator_command_is_gclouds() -> None:
    """`gcloud emulators firestore start` is what the emulator's own harness would be started with."""
    command = compose()["services"]["firestore"]["command"]
    assert command[:4] == ["gcloud", "emulators", "firestore", "start"]


def test_the_stop_leaves_time_to_drain() -> None:
    """Compose waits longer than the server takes; and so does Cloud Run, with its 10 seconds."""
    drain_s = float(next(each.default for each in describe() if each.name == "drain_s"))
    assert drain_s < float(compose()["services"]["samvad"]["stop_grace_period"].removesuffix("s")) <= 10
