"""Secrets are printed nowhere: a canary in every setting that is one, through everything that writes something."""

from __future__ import annotations

import base64
import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from samvad.cli import app
from samvad.errors import SetupError
from samvad.settings import Settings, describe, load
from tests.cli.processes import WAIT_S, Server, run
from tests.live.support import dialled

SECRETS = [each for each in describe() if each.secret]
ALIKE = ("secret", "password", "api_key", "master_key", "redis", "credential")  # what a secret is called


def canary(name: str) -> str:
    """A value that nobody may see, of 32 characters and more; no two settings have the same."""
    return base64.b64encode(name.encode().ljust(32, b"~")[:32]).decode()


def value(name: str) -> str:
    """What the setting is given: its canary, in the form that it takes. A new one takes any text, or says so here."""
    return f"redis://:{canary(name)}@127.0.0.1:1/0" if name == "limit_redis_url" else canary(name)


CANARIES = {each.name: canary(each.name) for each in SECRETS}
ENVIRON = {each.env: value(each.name) for each in SECRETS}


def clean(text: str | bytes, where: str) -> None:
    """Fail where a canary is in a text, whole or a good part of it."""
    text = text if isinstance(text, str) else text.decode("latin-1")
    for name, secret in CANARIES.items():
        for part in (secret, secret[:16], secret[8:28]):
            assert part not in text, f"{name} is shown {where}"


def test_what_is_called_like_a_secret_is_one() -> None:
    """A new setting cannot escape by not being marked."""
    marked = {each.name for each in SECRETS}
    assert {each.name for each in describe() if any(word in each.name for word in ALIKE)} == marked
    assert len(set(CANARIES.values())) == len(CANARIES) >= 6


def test_no_flag_takes_a_secret() -> None:
    """What stands on the command line can be read by everybody on the machine, in /proc."""
    import typer

    def options(command: Any) -> Iterator[str]:
        for parameter in command.params:
            yield from parameter.opts
        for each in getattr(command, "commands", {}).values():
            yield from options(each)

    named = {"--" + each.name.replace("_", "-") for each in SECRETS} | {"--token", "--password", "--key"}
    assert not named & set(options(typer.main.get_command(app)))


def test_settings_show_none() -> None:
    """As an object, in an exception, in a format, in a container."""
    settings = load({}, environ=ENVIRON, env_file=Path("/nonexistent"))
    assert all(CANARIES[each.name] in getattr(settings, each.name) for each in SECRETS)
    for text in (
        repr(settings),
        str(settings),
        f"{settings!s:>9}",
        repr([settings]),
        repr(RuntimeError(settings)),
    ):
        clean(text, "in the settings")
        assert "port=8080" in text


@pytest.mark.parametrize("secret", SECRETS, ids=lambda each: each.name)
@pytest.mark.parametrize("change", ["{}", "short {:.9}", "{}\0", "{} {}", "file:/nonexistent/{}"])
def test_mistakes_show_none(tmp_path: Path, secret: Any, change: str) -> None:
    """A value that cannot be is refused without it; the file that is not there may be named."""
    given = change.format(value(secret.name), value(secret.name))
    try:
        clean(repr(load({}, environ={secret.env: given}, env_file=tmp_path / ".env")), "in the settings")
    except SetupError as error:
        clean(error.message, "in a mistake")


@pytest.mark.parametrize(
    "command",
    [
        ["doctor"],
        ["doctor", "--production"],
        ["doctor", "--production", "--json"],
        ["keys", "list"],
        ["keys", "create", "--name", "n"],
        ["stats"],
        ["encryption", "status"],
        ["serve", "--port", "none"],
        ["serve", "--host", "0.0.0.0"],
        ["--help"],
        ["serve", "--help"],
    ],
    ids=" ".join,
)
def test_commands_show_none(tmp_path: Path, command: list[str]) -> None:
    """Whatever they tell, and however they fail."""
    done = run(command, tmp_path, {**ENVIRON, "SAMVAD_TOKEN": CANARIES["auth_token_secret"]})
    clean(done.stdout + done.stderr, f"by samvad {' '.join(command)}")
    assert "Traceback" not in done.stderr


def test_a_bad_line_of_the_file_shows_none(tmp_path: Path) -> None:
    """`.env` with a line that is no setting, and with a name that is misspelt."""
    for line in (f"SAMVAD_MASTER_KEY {canary('master_key')}", f"SAMVAD_MASTERKEY={canary('master_key')}"):
        (tmp_path / ".env").write_text(f"{line}\n")
        done = run(["serve", "--port", "0"], tmp_path)
        assert done.returncode == 2
        clean(done.stderr, "of .env")


@pytest.mark.anyio
async def test_a_server_shows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At DEBUG, with all of them in use and every remote end away: in logs, metrics, answers, files, /proc."""
    for name, given in {
        **ENVIRON,
        "SAMVAD_LOG_LEVEL": "debug",
        "SAMVAD_AUDIT": "all",
        "SAMVAD_LIVE_PROVIDER": "openai",
        "SAMVAD_LIVE_MODEL": "m",
        "SAMVAD_OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
        "SAMVAD_EMBEDDING_PROVIDER": "openai",
        "SAMVAD_EMBEDDING_MODEL": "m",
        "SAMVAD_EMBEDDING_LANGUAGES": "all",
    }.items():
        monkeypatch.setenv(name, given)
    key = run(["keys", "create", "--name", "n", "--scopes", "admin"], tmp_path).stdout.strip()
    headers = {"authorization": f"Bearer {key}"}
    with Server(tmp_path) as server:
        answers = [
            server.request("POST", "/api/auth/tokens", {"userId": "asha"}, headers),
            server.request(
                "POST", "/api/session/asha/history", {"role": "user", "content": "hello"}, headers
            ),
            server.request("POST", "/api/knowledge/add-text", {"title": "t", "content": "c"}, headers),
            server.request("POST", "/api/knowledge/search", {"query": "c"}, headers),
            server.request("GET", "/api/session/asha/state", None, {"authorization": "Bearer none"}),
            server.request("GET", "/readyz"),
        ]
        assert [status for status, _ in answers] == [200, 200, 200, 200, 401, 200]
        token = answers[0][1]["token"]
        async with dialled(server.url, additional_headers={"Authorization": f"Bearer {token}"}) as line:
            await line.send({"type": "start_session", "userId": "asha"})
            await line.send({"type": "user_text", "text": "hello"})
            await line.next("error")
        connection = http.client.HTTPConnection(*server.address, timeout=WAIT_S)
        connection.request("GET", "/metrics", headers=headers)
        clean(connection.getresponse().read(), "in the metrics")
        connection.close()
        clean("\0".join(map(str, server.process.args)), "on the command line")  # type: ignore[arg-type]
        clean(json.dumps(answers), "in an answer")
        server.signal()
        assert server.exit_code() == 0
        clean("".join(server.errors) + server.more_output(), "in the log")
        assert "limits are this replica's own" in "".join(server.errors)  # Redis was asked
    for path in (Path(at) / name for at, _, names in os.walk(tmp_path) for name in names):
        clean(path.read_bytes(), f"in {path.name}")
        assert path.stat().st_mode & 0o077 == 0, path  # and all that a server leaves is its owner's


def test_a_struct_of_ones_own() -> None:
    """The canaries are found where they are: else everything above would prove nothing."""
    assert isinstance(load({}, environ=ENVIRON, env_file=Path("/nonexistent")), Settings)
    with pytest.raises(AssertionError, match="is shown"):
        clean(f"x{canary('master_key')[:20]}x", "here")
