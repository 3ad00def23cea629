"""`samvad doctor` tells the troubles of a Firestore database apart, each with the command that mends it.

The emulator has no roles, indexes or regions: there the answers are Google's, as documented, from a server that
speaks the protocol (see google.py).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from samvad.cli import app
from samvad.cli.checks import Finding
from samvad.cli.firestore_checks import Place, findings, tell
from tests.firestore.support import emulator
from tests.support import loudly_skip

try:
    import grpc

    from samvad.stores.firestore_examination import Seen, Trouble
    from samvad.stores.firestore_indexes import COMPOSITES
    from tests.firestore.google import Google
    from tests.google_server import Refusal
except ImportError as missing:
    loudly_skip(f"google-cloud-firestore is not installed ({missing})")

Status = grpc.StatusCode
TALK = Place("talk-1", location="us-central1")
NO_ROLE = Refusal(Status.PERMISSION_DENIED, "Missing or insufficient permissions.")
NO_INDEX = Refusal(
    Status.FAILED_PRECONDITION,
    "The query requires an index. You can create it here: https://console.firebase.google.com/v1/r/project/talk-1"
    "/firestore/indexes?create_composite=Ck1wcm9qZWN0cy9",
)
BUILDING = Refusal(
    Status.FAILED_PRECONDITION,
    "The query requires an index. That index is currently building and cannot be used yet. See its status here: "
    "https://console.firebase.google.com/v1/r/project/talk-1/firestore/indexes?create_composite=Ck1wcm9qZWN0cy9",
)


def failures(answer: Any, place: Place = TALK, **google: Any) -> list[Finding]:
    """What the doctor finds wrong where Google answers like this."""
    with Google(answer, **google) as server:
        return [finding for finding in findings(place, address=server.address) if finding.level != "ok"]


def the_one(answer: Any, place: Place = TALK, **google: Any) -> Finding:
    """The only thing that is wrong."""
    (finding,) = failures(answer, place, **google)
    return finding


def always(refusal: Refusal) -> Any:
    """Every call is refused like this."""
    return lambda method, asked: refusal


CASES = [
    (
        Refusal(
            Status.NOT_FOUND,
            "The database (default) does not exist for project talk-1 Please visit https://console.cloud.google.com/"
            "datastore/setup?project=talk-1 to add a Cloud Datastore or Cloud Firestore database.",
        ),
        "there is no database (default) in the project talk-1",
        "`gcloud firestore databases create --location=REGION --project=talk-1`",
    ),
    (
        Refusal(
            Status.PERMISSION_DENIED, "Permission denied on resource project talk-1.", "CONSUMER_INVALID"
        ),
        "there is no project talk-1",
        "`gcloud projects list`",
    ),
    (
        Refusal(
            Status.PERMISSION_DENIED,
            "Cloud Firestore API has not been used in project 123 before or it is disabled. Enable it by visiting "
            "https://console.developers.google.com/apis/api/firestore.googleapis.com/overview?project=123 then retry.",
            "SERVICE_DISABLED",
        ),
        "the Firestore API is not enabled",
        "`gcloud services enable firestore.googleapis.com --project=talk-1`",
    ),
    (
        Refusal(
            Status.PERMISSION_DENIED,
            "This API method requires billing to be enabled. Please enable billing on project talk-1.",
            "BILLING_DISABLED",
        ),
        "the project talk-1 has no billing",
        "`gcloud billing projects link talk-1 --billing-account=ACCOUNT --project=talk-1`",
    ),
    (
        Refusal(
            Status.PERMISSION_DENIED,
            "Caller does not have required permission to use project talk-1.",
            "USER_PROJECT_DENIED",
        ),
        "may not use their quota project",
        "`gcloud auth application-default set-quota-project talk-1`",
    ),
    (
        NO_ROLE,
        "these credentials lack a role",
        "--member=serviceAccount:NAME@talk-1.iam.gserviceaccount.com --role=roles/datastore.user`",
    ),
    (
        Refusal(
            Status.FAILED_PRECONDITION,
            "The Cloud Firestore API is not available for Firestore in Datastore Mode database "
            "projects/talk-1/databases/(default).",
        ),
        "is in Datastore mode",
        "`gcloud firestore databases update --database='(default)' --type=firestore-native --project=talk-1`",
    ),
    (
        Refusal(
            Status.UNAUTHENTICATED,
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
            "valid authentication credential.",
            "ACCESS_TOKEN_EXPIRED",
        ),
        "these are refused",
        "`gcloud auth application-default login`",
    ),
    (
        Refusal(
            Status.UNAVAILABLE,
            "Getting metadata from plugin failed with error: ('invalid_grant: Invalid JWT Signature.', "
            "{'error': 'invalid_grant', 'error_description': 'Invalid JWT Signature.'})",
        ),
        "these are refused",
        "`gcloud auth application-default login`",
    ),
    (Refusal(Status.RESOURCE_EXHAUSTED, "Quota exceeded."), "Quota exceeded", "quota"),
    (Refusal(Status.UNAVAILABLE, "The service is currently unavailable."), "cannot be reached", "port 443"),
]  # fmt: skip


@pytest.mark.parametrize(("refusal", "found", "todo"), CASES, ids=[case[1][:30] for case in CASES])
def test_what_google_refuses_is_told_apart(refusal: Any, found: str, todo: str) -> None:
    """Each trouble has its own words and its own command, and nothing else is said to be wrong."""
    finding = the_one(always(refusal))
    assert (finding.level, finding.subject) == ("fail", "read")
    assert found in finding.found
    assert todo in finding.todo


def test_no_two_troubles_are_told_alike() -> None:
    """Whoever reads the line knows which of them it is (the two of credentials are one)."""
    told = [the_one(always(case[0])).todo for case in CASES]
    assert len(set(told)) == len(CASES) - 1


def test_a_named_database_is_named_in_the_command() -> None:
    """The commands are for the database of the URL, not for the default one."""
    refusal = CASES[0][0]
    finding = the_one(always(refusal), TALK._replace(database="chats"))
    assert "create --location=REGION --database=chats" in finding.todo


def test_a_role_that_only_reads() -> None:
    """Reading is allowed and writing is not: the role of a viewer."""
    finding = the_one(lambda method, asked: NO_ROLE if method == "Commit" else None)
    assert (finding.subject, finding.found) == ("write", "these credentials may read, and not write")
    assert "--role=roles/datastore.user" in finding.todo


@pytest.mark.parametrize("index", COMPOSITES, ids=[index.name for index in COMPOSITES])
def test_each_missing_index_is_named_with_its_command(index: Any) -> None:
    """Only this one is missing: only this one is told, with the command that makes exactly this index."""

    def answer(method: str, asked: Any) -> Refusal | None:
        if method == "RunQuery":
            wanted, added_up = asked.structured_query, []
        elif method == "RunAggregationQuery":
            wanted = asked.structured_aggregation_query.structured_query
            sums = [each.sum for each in asked.structured_aggregation_query.aggregations]
            added_up = [each.field.field_path for each in sums]
        else:
            return None
        return NO_INDEX if (wanted, added_up) == (index.query(), index.sums()) else None

    finding = the_one(answer)
    assert (finding.level, finding.found) == ("fail", f"{index.name} is missing")
    command = finding.todo.strip("`").split()
    assert command[:5] == ["gcloud", "firestore", "indexes", "composite", "create"]
    assert f"--collection-group={index.collection}" in command
    made = [flag for flag in command if flag.startswith("--field-config=")]
    assert made == [f"--field-config=field-path={f},order={order.lower()}" for f, order in index.fields]


def test_all_indexes_missing_or_being_built() -> None:
    """All at once can be made with one command; one that is being built is only to be waited for."""
    queries = ("RunQuery", "RunAggregationQuery")
    found = failures(lambda method, asked: NO_INDEX if method in queries else None)
    assert len(found) == len(COMPOSITES) + 1
    assert "firebase deploy --only firestore --project talk-1" in found[-1].todo
    building = failures(lambda method, asked: BUILDING if method in queries else None)
    assert "is being built" in building[0].found
    assert "`gcloud firestore indexes composite list --project=talk-1`" in building[0].todo


@pytest.mark.parametrize(
    ("server", "database", "near"),
    [
        ("us-central1", "nam5", True),
        ("europe-west4", "eur3", True),
        ("asia-south1", "asia-south1", True),
        ("", "nam5", True),
        ("asia-south1", "nam5", False),
        ("europe-west1", "us-east1", False),
    ],
)
def test_a_database_in_another_region_is_a_risk(server: str, database: str, near: bool) -> None:
    """Each call would cross an ocean: a warning, which fails in production."""
    found = failures(lambda method, asked: None, TALK._replace(location=server), location=database)
    assert [(each.level, each.subject, each.risky) for each in found] == (
        [] if near else [("warn", "region", True)]
    )


def test_datastore_mode_as_the_admin_api_tells_it() -> None:
    """Where data calls are answered all the same, the database's own description counts."""
    assert the_one(lambda method, asked: None, native=False).subject == "mode"


def test_a_database_that_may_not_be_described_is_fine() -> None:
    """The role that Samvad needs is enough; that the region is not known is no failure."""
    assert failures(lambda method, asked: NO_ROLE if method == "GetDatabase" else None) == []


def test_the_emulator_is_looked_at_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning that it keeps nothing, which fails in production; all else is well."""
    running = emulator()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", running.host)
    url = f"firestore://{running.new_project()}"
    done = CliRunner().invoke(app, ["doctor", "--store", url])
    assert done.exit_code == 0, done.output
    assert "every query is answered" in done.output
    assert "It keeps nothing" in done.output
    assert CliRunner().invoke(app, ["doctor", "--store", url, "--production"]).exit_code == 1


def test_no_emulator_and_no_credentials_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens at the emulator's address; or there is none, and no credentials either."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:1")
    done = CliRunner().invoke(app, ["doctor", "--store", "firestore://talk-1"])
    assert done.exit_code == 1
    assert "the emulator at 127.0.0.1:1 cannot be reached" in done.output
    assert "gcloud emulators firestore start --host-port=127.0.0.1:1" in done.output
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nowhere.json"))
    done = CliRunner().invoke(app, ["doctor", "--store", "firestore://talk-1"])
    assert done.exit_code == 1
    assert "gcloud auth application-default login" in done.output


@pytest.mark.anyio
async def test_the_service_account_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose credentials these are stands in the command that grants the role."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    from samvad.stores.firestore_client import BoundedClient
    from samvad.stores.firestore_names import Names

    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = "samvad@talk-1.iam.gserviceaccount.com"
    fields = {"type": "service_account", "client_email": account, "private_key": key.decode()}
    path = tmp_path / "key.json"
    path.write_text(json.dumps(fields | {"token_uri": "https://oauth2.invalid/token", "private_key_id": "1"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    names = Names("talk-1", "(default)")
    client = BoundedClient(names, call_timeout_s=1, attempt_timeout_s=1, attempts_max=1, emulator_host=None)
    client.open()
    assert client.account == account
    await client.close()
    refused = Seen("read", Trouble("PERMISSION_DENIED", "Missing or insufficient permissions."))
    assert f"--member=serviceAccount:{account} " in tell(TALK._replace(account=account), refused).todo


@pytest.mark.soak
def test_the_commands_are_known_to_gcloud() -> None:
    """Each command that the doctor names is one of gcloud's, with these flags (asked of gcloud itself)."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        loudly_skip("there is no gcloud")
    wanted = {
        "firestore databases create": ("--location", "--database"),
        "firestore databases update": ("--type", "--database"),
        "firestore databases list": (),
        "firestore indexes composite create": ("--collection-group", "--field-config", "--database"),
        "firestore indexes composite list": ("--database",),
    }
    for command, flags in wanted.items():
        told = subprocess.run(
            [gcloud, *command.split(), "--help"], capture_output=True, text=True, check=False, timeout=60
        )
        assert told.returncode == 0, told.stderr
        for flag in flags:
            assert flag in told.stdout, (command, flag)
