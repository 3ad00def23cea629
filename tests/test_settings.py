"""Settings: where they come from, what they may be, and in which words they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from samvad.errors import SetupError
from samvad.runtime import Options, open_samvad
from samvad.settings import Settings, describe, load


def refused(environ: dict[str, str], file: Path = Path("no-such-file")) -> str:
    """The line with which these variables are refused."""
    with pytest.raises(SetupError) as caught:
        load(environ=environ, env_file=file)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_flags_win_over_the_environment_and_the_environment_over_the_file(tmp_path: Path) -> None:
    """Each source is asked only where those before it are silent."""
    file = tmp_path / ".env"
    file.write_text(
        "SAMVAD_PORT=1\nSAMVAD_LANGUAGE=hi\nexport SAMVAD_HOST='::1'  # a comment\n# nothing\nOTHER=1\n"
    )
    environ = {"SAMVAD_PORT": "2", "SAMVAD_LANGUAGE": "ta"}
    found = load({"port": "3", "language": None}, environ=environ, env_file=file)
    assert (found.port, found.language, found.host, found.drain_s) == (3, "ta", "::1", 8.0)


def test_defaults_are_those_of_the_service() -> None:
    """A server without settings runs as the library does without options."""
    assert Options(**load(environ={}, env_file=Path("none")).service_options()) == Options()


def test_a_secret_is_taken_and_never_shown() -> None:
    """Its value stands neither in what is printed of the settings nor in an error."""
    secret = "thirty-six-letters-that-nobody-knows"
    names = (
        "SAMVAD_LIVE_TOKEN_SECRET",
        "SAMVAD_MASTER_KEY",
        "SAMVAD_AUTH_TOKEN_SECRET",
        "SAMVAD_OPENAI_API_KEY",
    )
    settings = load(environ=dict.fromkeys(names, secret), env_file=Path("none"))
    assert settings.live_token_secret == settings.master_key == secret
    assert secret not in repr(settings) and repr(settings).count("'…'") == len(names)
    with pytest.raises(SetupError, match="at least 16 characters") as refused:
        load(environ={"SAMVAD_LIVE_TOKEN_SECRET": "too-short"}, env_file=Path("none"))
    assert "too-short" not in refused.value.message


def test_every_service_option_is_a_setting() -> None:
    """What can be set of the service can be set of the server."""
    assert set(Settings().service_options()) == set(Options.__struct_fields__)


def test_empty_variables_are_not_set() -> None:
    """`SAMVAD_STORE=`, as compose files write it, means the default."""
    assert load(environ={"SAMVAD_STORE": "", "SAMVAD_PORT": ""}, env_file=Path("none")) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SAMVAD_PORT", "http", "a whole number from 0 to 65535, not 'http'"),
        ("SAMVAD_PORT", "65536", "from 0 to 65535"),
        ("SAMVAD_PORT", "-1", "from 0 to 65535"),
        ("SAMVAD_DURABILITY", "yes", "auto, store or memory"),
        ("SAMVAD_RECORD_TTL_S", "0", "greater than 0"),
        ("SAMVAD_RECORD_TTL_S", "nan", "greater than 0"),
        ("SAMVAD_DRAIN_S", "inf", "from 0 to 300"),
        ("SAMVAD_INSECURE", "perhaps", "true or false"),
        ("SAMVAD_WINDOW_MESSAGES", "1001", "from 1 to 1000"),
        ("SAMVAD_LANGUAGE", "en us", "a language tag"),
    ],
)
def test_a_bad_value_is_named_with_what_it_must_be(name: str, value: str, words: str) -> None:
    """One line names the variable and what it may be."""
    message = refused({name: value})
    assert message.startswith(f"{name} must be ")
    assert words in message


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("on", True), ("No", False), ("0", False)]
)
def test_switches_are_said_in_many_ways(text: str, value: bool) -> None:
    """What people write for yes and no is understood."""
    assert load(environ={"SAMVAD_INSECURE": text}, env_file=Path("none")).insecure is value


def test_unknown_names_are_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    """A misspelt setting is an error, wherever it stands; names of others are not ours to judge."""
    assert refused({"SAMVAD_PROT": "1"}) == "SAMVAD_PROT is not a setting; did you mean SAMVAD_PORT?"
    file = tmp_path / ".env"
    file.write_text("SAMVAD_WINDOWMESSAGES=5\n")
    assert (
        refused({}, file)
        == f"SAMVAD_WINDOWMESSAGES in {file} is not a setting; did you mean SAMVAD_WINDOW_MESSAGES?"
    )
    assert "SAMVAD_PORT" in refused({"samvad_port": "1"})
    load(environ={"PORT": "x", "SAMVADHOST": "x"}, env_file=Path("none"))


def test_what_kubernetes_sets_for_a_service_of_our_name_is_explained() -> None:
    """SAMVAD_SERVICE_HOST and its kind are nobody's typing error; the message says where they come from."""
    assert "enableServiceLinks" in refused({"SAMVAD_SERVICE_HOST": "10.0.0.1"})


def test_a_broken_line_of_the_file_is_named(tmp_path: Path) -> None:
    """A line that would set one of ours and cannot be read is an error; a directory of that name is no file."""
    file = tmp_path / ".env"
    file.write_text("A=1\nSAMVAD_PORT='1\n")
    assert refused({}, file) == f"Line 2 of {file} is not of the form NAME=value."
    file.write_text("SAMVAD_MASTER_KEY\n")  # without a value it would start without encryption
    assert refused({}, file) == f"Line 1 of {file} is not of the form NAME=value."
    file.write_bytes(b"SAMVAD_HOST=\xff\n")
    assert refused({}, file) == f"{file} is not UTF-8 text."
    assert load(environ={}, env_file=tmp_path) == Settings()


def test_dollars_in_the_file_are_left_alone(tmp_path: Path) -> None:
    """A secret that happens to hold `${…}` is not rewritten."""
    file = tmp_path / ".env"
    file.write_text("SAMVAD_OPENAI_API_KEY=a${HOME}b\n")
    assert load(environ={}, env_file=file).openai_api_key == "a${HOME}b"


def test_secrets_are_not_shown() -> None:
    """Neither what prints a setting nor what refuses it tells a secret."""
    settings = load(environ={"SAMVAD_OPENAI_API_KEY": "hush"}, env_file=Path("none"))
    assert settings.openai_api_key == "hush"
    assert "hush" not in repr(settings)
    assert "hush" not in str(settings)
    assert "hush" not in refused({"SAMVAD_OPENAI_API_KEY": "hu\0sh"}).replace("hu\0sh", "hush")


@pytest.mark.parametrize("name", ["data", "with space", "per%20cent", "question?#", "ü"])
def test_the_default_store_is_in_the_data_directory(name: str, tmp_path: Path) -> None:
    """Whatever the directory is called, the database is in it."""
    settings = load({"data_dir": str(tmp_path / name)}, environ={}, env_file=Path("none"))
    with open_samvad(settings.store_url()):
        assert (tmp_path / name / "samvad.db").exists()


def test_a_silent_firestore_url_takes_the_project_of_google() -> None:
    """PROJECT_ID is read where the URL names no project, and missing it is an error."""
    environ = {"SAMVAD_STORE": "firestore://", "PROJECT_ID": "mine"}
    assert load(environ=environ, env_file=Path("none")).store_url() == "firestore://mine"
    with pytest.raises(SetupError, match="PROJECT_ID"):
        load(environ={"SAMVAD_STORE": "firestore://"}, env_file=Path("none")).store_url()


def test_every_setting_is_described() -> None:
    """Each has a variable and a sentence."""
    described = describe()
    assert [each.name for each in described] == list(Settings.__struct_fields__)
    for each in described:
        assert each.env.isupper()
        assert each.description.endswith(".")
