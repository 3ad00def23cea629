"""What operators do by mistake: one line says what is wrong and what to do, and does not send them astray."""

from __future__ import annotations

from pathlib import Path

import pytest

from samvad.errors import SetupError
from samvad.runtime import open_samvad
from samvad.stores.firestore import FirestoreStore
from tests.cli.processes import refusal, run
from tests.encryption.test_at_rest import new_key

KEYS = Path("data") / "samvad.db.keys"


@pytest.fixture
def sealed(tmp_path: Path) -> dict[str, str]:
    """An encrypted database in `tmp_path / "data"`; the variables with which it can be read."""
    key = new_key()
    (tmp_path / "data").mkdir()
    with open_samvad(f"sqlite:///{tmp_path}/data/samvad.db", master_key=key) as samvad:
        samvad.append_to_user_history("asha", "user", "Hello")
    return {"SAMVAD_MASTER_KEY": key}


@pytest.mark.parametrize(
    "command", [["encryption", "status"], ["encryption", "rotate"], ["stats"], ["serve"]]
)
def test_keys_that_are_gone(tmp_path: Path, sealed: dict[str, str], command: list[str]) -> None:
    """What is encrypted there is not called in clear: its keys are to be brought back."""
    (tmp_path / KEYS).unlink()
    assert refusal(command, tmp_path, sealed) == (
        f"samvad: What is kept in data/samvad.db is encrypted, and its keys are not there: bring {KEYS} back."
    )


@pytest.mark.parametrize(
    "command", [["encryption", "status"], ["encryption", "rotate"], ["stats"], ["serve"]]
)
def test_keys_that_are_damaged(tmp_path: Path, sealed: dict[str, str], command: list[str]) -> None:
    """A file that is no file of keys: the copy that belongs to the database is to be put back."""
    (tmp_path / KEYS).write_bytes(b"These are no keys. " * 400)
    told = refusal(command, tmp_path, sealed)
    assert told.startswith(f"samvad: {KEYS} is damaged, or is no file of keys: put back the copy"), told


def test_an_audit_log_without_its_key(tmp_path: Path) -> None:
    """It is there; what is missing is its key, and a new one would not do."""
    (tmp_path / "data" / "audit").mkdir(parents=True)
    told = refusal(["audit", "verify"], tmp_path)
    assert told.startswith("samvad: The key of the audit log, data/audit.key, is not there: put it back"), (
        told
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("{}", "holds no credentials"),
        ("#", "holds no credentials"),
    ],
)
async def test_a_file_without_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, why: str
) -> None:
    """The file is named, and not that there are no credentials at all."""
    file = tmp_path / "account.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    with pytest.raises(SetupError, match="GOOGLE_APPLICATION_CREDENTIALS is ") as refused:
        await FirestoreStore("project").open()
    assert f"{file}, and that file {why}" in str(refused.value)


@pytest.mark.parametrize("command", [["stats"], ["user", "show", "asha"], ["backup", "some.backup"]])
def test_a_store_that_does_not_answer(tmp_path: Path, command: list[str]) -> None:
    """It is said once."""
    away = {"FIRESTORE_EMULATOR_HOST": "127.0.0.1:1"}
    done = run([*command, "--store", "firestore://demo-away"], tmp_path, away)
    assert done.returncode == 1
    assert done.stderr.startswith("samvad: Firestore cannot be reached") and done.stderr.count("\n") == 1, (
        done.stderr
    )
