"""`samvad doctor --production`: each check fails where it must, and passes where it may."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from samvad import open_samvad
from samvad.auth import audit
from samvad.auth.api_keys import ApiKey, make_key
from samvad.cli import production, production_files
from samvad.cli.checks import Finding
from samvad.clock import SystemClock
from samvad.settings import Given, Settings, describe
from tests.cli.test_looking import call

GOOD_SECRET = "Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MGFiY2RlZmdoaWo="
DAY_MS = 24 * 3600 * 1000


def levels(found: Iterable[Finding] | Finding) -> list[str]:
    """How bad it is; everything that is not well says how to mend it, in a line that shows no secret."""
    all_of_it = [found] if isinstance(found, Finding) else list(found)
    for each in all_of_it:
        assert (each.level == "ok") is not bool(each.todo), each
        assert "\n" not in each.found + each.todo and GOOD_SECRET not in repr(each), each
    return [each.level for each in all_of_it]


def settings(**given: Any) -> Settings:
    """Settings, as they come from `load`."""
    return Settings(**given)


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("127.9.9.9", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("samvad.example", False),
        ("", False),
    ],
)
def test_what_only_this_machine_reaches(host: str, own: bool) -> None:
    """Loopback addresses and their name."""
    assert production.is_loopback(host) is own


@pytest.mark.parametrize(
    ("roles", "auth", "expected"),
    [
        ("user,assistant", "auto", ["ok"]),
        ("none", "required", ["ok"]),
        ("user,system", "required", ["warn"]),
        ("user,tool", "auto", ["warn"]),
        ("system,tool", "off", []),
        ("admin", "auto", ["fail"]),
    ],
)
def test_what_people_may_write(roles: str, auth: str, expected: list[str]) -> None:
    """A setting that lets people speak as the system or a tool is told; one that is none is refused."""
    assert levels(production.person_roles(settings(person_roles=roles, auth=auth))) == expected


@pytest.mark.parametrize(
    ("allowed", "auth", "expected"),
    [(True, "auto", ["warn"]), (False, "required", ["ok"]), (True, "off", [])],
)
def test_whose_instruction(allowed: bool, auth: str, expected: list[str]) -> None:
    """That people may set the instruction of their own live conversations is told, with the setting."""
    found = list(production.person_instruction(settings(person_instruction=allowed, auth=auth)))
    assert levels(found) == expected
    assert all("SAMVAD_PERSON_INSTRUCTION=false" in each.todo for each in found if each.level == "warn")


def test_root() -> None:
    """Uid 0 is too much."""
    assert levels(production.process(0)) == ["fail"]
    assert levels(production.process(10_001)) == ["ok"]


@pytest.mark.parametrize(
    ("version", "day", "level"),
    [
        ((3, 11), "2026-11-26", "ok"),
        ((3, 11), "2027-10-31", "ok"),
        ((3, 11), "2027-11-01", "fail"),
        ((3, 14), "2030-12-01", "fail"),
        ((3, 99), "2040-01-01", "ok"),
    ],
)
def test_the_end_of_python(version: tuple[int, int], day: str, level: str) -> None:
    """A Python without fixes, by its own calendar."""
    assert levels(production.python_version(version, datetime.date.fromisoformat(day))) == [level]


def test_debugging() -> None:
    """A log at debug level."""
    assert levels(production.log_level(settings(log_level="debug"))) == ["fail"]
    assert levels(production.log_level(settings())) == ["ok"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, []),
        ({"auth_issuer": "https://id.example", "auth_audience": "a", "auth_jwt_type": "id"}, ["ok"]),
        ({"auth_issuer": "https://id.example", "auth_audience": "a"}, ["ok", "warn"]),
        ({"auth_issuer": "http://localhost:9", "auth_audience": "a", "auth_jwt_type": "id"}, ["fail"]),
        ({"auth_issuer": "http://id.example", "auth_audience": "a"}, ["fail"]),
        ({"auth_issuer": "https://id.example"}, ["fail"]),
        ({"auth_issuer": "https://id.example", "auth_audience": "a", "auth_algorithms": "HS256"}, ["fail"]),
        (
            {"auth_issuer": "https://id.example", "auth_audience": "a", "auth_jwks_url": "http://[::1]/k"},
            ["ok", "fail", "warn"],
        ),
        ({"auth": "off"}, []),
    ],
)
def test_issuers(given: dict[str, Any], wanted: list[str]) -> None:
    """Keys that come in the clear, an audience that is missing, an algorithm whose secret both sides share."""
    assert levels(production.issuers(settings(**given))) == wanted


@pytest.mark.parametrize(
    ("secret", "weak"),
    [
        (GOOD_SECRET, False),
        ("f1d2d2f924e986ac86fdf7b36c94bcdf32beec15", False),
        ("short", True),
        ("a" * 64, True),
        ("abcabcabcabcabcabcabcabcabcabcabcabc", True),
        ("PleaseChangeMe-PleaseChangeMe-1234567", True),
        ("my-Secret-for-the-tokens-of-samvad-0815", True),
    ],
)
def test_weak_secrets(secret: str, weak: bool) -> None:
    """Too short, too regular, or a word that anybody would try."""
    assert (production.weakness(secret) is not None) is weak
    assert levels(production.secrets(settings(auth_token_secret=secret))) == ["fail" if weak else "ok"]
    for name in ("live_token_secret", "log_secret"):
        if len(secret) >= 16:
            assert levels(production.secrets(settings(**{name: secret}))) == ["fail" if weak else "ok"]


def test_several_secrets_are_each_looked_at() -> None:
    """One that is only accepted any more opens as many doors."""
    assert levels(production.secrets(settings(auth_token_secret=f"{GOOD_SECRET}, {'b' * 40}"))) == ["fail"]
    assert levels(production.secrets(settings())) == []
    assert levels(production.secrets(settings(store="firestore://p"))) == ["warn"]


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        (None, ["warn"]),
        ("file:data/master.key", ["fail"]),
        ("file:data/sub/../master.key", ["fail"]),
        ("file:../elsewhere/master.key", ["ok"]),
        (GOOD_SECRET, ["warn"]),
        ("gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k", ["ok"]),
        (f"file:../k, {GOOD_SECRET}", ["ok", "warn"]),
    ],
)
def test_master_keys(key: str | None, wanted: list[str]) -> None:
    """None, beside what it protects, or where everything that runs as this user can read it."""
    given = {} if key is None else {"master_key": Given("SAMVAD_MASTER_KEY", key)}
    assert levels(production.places_of_secrets(settings(master_key=key), given)) == wanted


@pytest.mark.parametrize(
    "name",
    [each.name for each in describe() if each.name.startswith("limit_") and each.default not in ("", "0")],
)
def test_limits(name: str) -> None:
    """Each that is lifted."""
    found = list(production.limits_set(settings(**{name: 0})))
    assert levels(found) == ["fail"] and name.upper() in found[0].found
    assert levels(production.limits_set(settings())) == ["ok"]


def test_proxies() -> None:
    """Users whose addresses are all the proxy's."""
    assert levels(production.proxies(settings())) == ["warn"]
    assert levels(production.proxies(settings(host="0.0.0.0"))) == ["warn"]
    assert levels(production.proxies(settings(limit_proxies=1))) == ["ok"]


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (None, []),
        ("redis://127.0.0.1:6379/0", ["ok"]),
        ("redis://localhost:6379/0", ["ok"]),
        ("unix:///run/redis.sock", ["ok"]),
        (f"rediss://:{GOOD_SECRET}@redis.example:6379/0", ["ok"]),
        (f"redis://:{GOOD_SECRET}@redis.example:6379/0", ["fail"]),
        ("rediss://redis.example:6379/0", ["fail"]),
        ("redis://10.0.0.7:6379/0", ["fail", "fail"]),
    ],
)
def test_redis(url: str | None, wanted: list[str]) -> None:
    """Without TLS, or without a password, where others can reach it."""
    assert levels(production.redis(settings(limit_redis_url=url))) == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, []),
        ({"cors_origins": "https://app.example,https://b.example"}, ["ok", "ok"]),
        ({"cors_origins": "http://app.example"}, ["fail"]),
        ({"cors_origins": "http://localhost:3000"}, ["fail"]),
        ({"cors_origins": "*"}, ["fail"]),
        ({"cors_origins": "https://app.example", "auth": "off"}, ["fail", "ok"]),
    ],
)
def test_cors(given: dict[str, Any], wanted: list[str]) -> None:
    """Pages that somebody between could write, or that need no credentials."""
    assert levels(production.cors(settings(**given))) == wanted


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://models.example/v1", []),
        ("http://127.0.0.1:11434/v1", []),
        ("http://models.example/v1", ["fail"]),
    ],
)
def test_addresses_of_providers(url: str, wanted: list[str]) -> None:
    """What is said goes out in the clear."""
    for name in ("openai_base_url", "embedding_base_url"):
        assert levels(production.addresses(settings(**{name: url}))) == wanted


@pytest.mark.parametrize(
    ("networks", "wanted"),
    [
        ("", []),
        ("10.1.0.0/16", []),
        ("127.0.0.0/8", ["fail"]),
        ("10.1.0.0/16, 169.254.169.254/32", ["fail"]),
        ("0.0.0.0/0", ["fail"]),
        ("::/0", ["fail"]),
        ("nonsense", ["fail"]),
    ],
)
def test_networks_to_fetch_from(networks: str, wanted: list[str]) -> None:
    """Pages that would be this machine's own."""
    assert levels(production.networks(settings(fetch_networks=networks))) == wanted


def test_an_emulator() -> None:
    """A test double in the place of the store."""
    environ = {"FIRESTORE_EMULATOR_HOST": "localhost:8080"}
    assert levels(production.emulator(settings(store="firestore://p"), environ)) == ["fail"]
    assert levels(production.emulator(settings(store="firestore://p"), {})) == []
    assert levels(production.emulator(settings(), environ)) == []


@pytest.mark.parametrize(
    ("endpoint", "wanted"),
    [
        ("https://otel.example", []),
        ("http://localhost:4318", []),
        ("http://otel.example:4318", ["warn"]),
        ("", []),
    ],
)
def test_traces(endpoint: str, wanted: list[str]) -> None:
    """A collector elsewhere, without TLS."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    assert levels(production.collector(settings(otel="on"), environ)) == wanted
    assert levels(production.collector(settings(), environ)) == []


def test_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    """That everything is kept for ever is said, and is no failure."""
    rule = describe()[0]._replace(name="retain_idle_users", env="SAMVAD_RETAIN_IDLE_USERS")
    monkeypatch.setattr(production, "describe", lambda: [rule])
    assert levels(production.retention({})) == ["warn"]
    assert levels(production.retention({"retain_idle_users": Given("", "90d")})) == ["ok"]
    assert levels(production.retention({"port": Given("", 80)})) == ["warn"]


# --- files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, for files that are their owner's."""
    monkeypatch.chdir(tmp_path)
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "FIRESTORE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_credentials(here: Path) -> None:
    """Off, or none at all, is refused; that they are asked for only because there are some is said."""
    check = production_files.credentials
    assert levels(check(settings(auth="off"))) == ["fail"]
    assert levels(check(settings())) == ["fail"]
    assert levels(check(settings(host="0.0.0.0"))) == ["fail"]
    assert levels(check(settings(auth="required"))) == ["warn"]
    assert levels(check(settings(auth_issuer="https://id.example", auth_audience="a"))) == ["warn"]
    assert levels(check(settings(auth="required", auth_firebase_project="p"))) == ["ok"]
    assert levels(check(settings(auth="required", store="firestore://p"))) == ["ok"]
    call("keys", "create", "--name", "back end", "--expires", "90d")
    assert levels(check(settings())) == ["warn"]
    assert levels(check(settings(auth="required"))) == ["ok"]
    (here / "data/keys.json").write_text("{")
    assert levels(check(settings())) == ["fail"]


def key(**more: Any) -> ApiKey:
    """An API key that gives no reason for complaint, but for what is said."""
    _, key_id, digest = make_key()
    now_ms = SystemClock().now_ms()
    fields: dict[str, Any] = {"created_ms": now_ms - 30 * DAY_MS, "expires_ms": now_ms + 60 * DAY_MS}
    fields |= {"id": key_id, "name": "it's mine", "digest": digest, "scopes": frozenset({"users"})}
    return ApiKey(**fields | more)


def test_api_keys() -> None:
    """One that never ends, one that nobody uses, one that may do everything."""
    check, now_ms = production_files.api_keys, SystemClock().now_ms()
    old = {"created_ms": now_ms - 100 * DAY_MS}
    assert levels(check([key()], {}, now_ms)) == []
    assert levels(check([key(expires_ms=None)], {}, now_ms)) == ["fail"]
    assert levels(check([key(scopes=frozenset({"admin"}))], {}, now_ms)) == ["warn"]
    unused = key(**old)
    assert levels(check([unused], {}, now_ms)) == ["fail"]
    assert levels(check([unused], {unused.id: now_ms - 91 * DAY_MS}, now_ms)) == ["fail"]
    assert levels(check([unused], {unused.id: now_ms - 5 * DAY_MS}, now_ms)) == []
    (finding,) = check([key(expires_ms=None)], {}, now_ms)
    assert "samvad keys create --name 'it'\"'\"'s mine' --expires 90d" in finding.todo


def all_files(**given: Any) -> list[str]:
    """The levels of the check of permissions."""
    return levels(production_files.permissions(production_files.private_files(settings(**given), {})))


def test_files_of_the_data_directory(here: Path) -> None:
    """Everything in it, at any depth, and the directory itself."""
    with open_samvad("sqlite:///data/samvad.db") as samvad:
        samvad.append_to_user_history("asha", "user", "hello")
    call("keys", "create", "--name", "n")
    (here / "data/journal").mkdir(mode=0o700)
    (here / "data/journal/segment").touch(mode=0o600)
    assert all_files() == ["ok"]
    for name in (
        "data",
        "data/samvad.db",
        "data/keys.json",
        "data/audit.key",
        "data/audit",
        "data/journal/segment",
    ):
        mode = (here / name).stat().st_mode
        for bits in (0o040, 0o004, 0o020, 0o001):
            (here / name).chmod(mode | bits)
            assert all_files() == ["fail"], (name, bits)
        (here / name).chmod(mode)
    for number in range(9):
        (here / f"data/{number}").touch(mode=0o644)
        (here / f"data/{number}").chmod(0o644)
    found = list(production_files.permissions(production_files.private_files(settings(), {})))
    assert len(found) == 6 and found[-1].found.startswith("4 more")


def test_files_elsewhere(here: Path) -> None:
    """A database elsewhere, a master key, Google's credentials, and `.env` where it holds a secret."""
    (here / "else").mkdir()
    for name in ("else/talk.db", "else/talk.db-wal", "master.key", "google.json", ".env"):
        (here / name).write_text("")
        (here / name).chmod(0o644)
    assert all_files(store="sqlite:///else/talk.db") == ["fail", "fail"]
    assert all_files(master_key="file:master.key") == ["fail"]
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": "google.json"}
    assert levels(production_files.permissions(production_files.private_files(settings(), environ))) == [
        "fail"
    ]
    (here / ".env").write_text("SAMVAD_PORT=80\n")
    assert all_files() == ["ok"]
    (here / ".env").write_text(f"SAMVAD_AUTH_TOKEN_SECRET={GOOD_SECRET}\n")
    assert all_files() == ["fail"]
    (here / ".env").chmod(0o600)
    assert all_files() == ["ok"]


def test_the_audit_log(here: Path) -> None:
    """Off, broken, or of a key that is not there."""
    check = production_files.audit_log
    assert levels(check(settings(audit="off"))) == ["fail"]
    assert levels(check(settings(store="memory://"))) == ["fail"]
    assert levels(check(settings())) == ["ok"]
    for name in ("one", "two"):
        call("keys", "create", "--name", name)
    assert levels(check(settings())) == ["ok"]
    (path,) = (here / "data" / audit.DIRECTORY).glob("*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"keys create", b"keys revoke", 1))
    assert levels(check(settings())) == ["fail"]
    path.write_bytes(whole)
    (here / "data" / audit.KEY_FILE).unlink()
    assert levels(check(settings())) == ["fail"]


def test_the_kernels_clock() -> None:
    """Kept by something, by nothing, or not known; the kernel is really asked."""
    assert [levels(production_files.clock_kept(state)) for state in (0, 5, None)] == [
        ["ok"],
        ["warn"],
        ["ok"],
    ]
    assert production_files._kernel_clock() in range(6)


# --- all of it -----------------------------------------------------------------------------------------------


def test_a_server_that_is_fit_for_the_internet(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing fails; every subject is told, as a table and as JSON; no secret is."""
    monkeypatch.setattr("os.geteuid", lambda: 10_001)
    monkeypatch.setattr("samvad.cli.checks.disk.file_system", lambda path: "ext4")
    monkeypatch.setattr("samvad.cli.checks.disk.sync_ms", lambda path: 1.0)
    (here / "secrets").mkdir(mode=0o700)
    (here / "secrets/master.key").write_text(GOOD_SECRET)
    (here / "secrets/master.key").chmod(0o600)
    (here / ".env").touch(mode=0o600)
    (here / ".env").write_text(
        f"SAMVAD_AUTH=required\nSAMVAD_MASTER_KEY=file:secrets/master.key\nSAMVAD_LIMIT_PROXIES=1\n"
        f"SAMVAD_AUTH_TOKEN_SECRET={GOOD_SECRET}\nSAMVAD_CORS_ORIGINS=https://app.example\n"
    )
    call("keys", "create", "--name", "back end", "--expires", "90d")
    told = json.loads(call("doctor", "--production", "--json"))
    assert "person instruction" in {each["subject"] for each in told["findings"] if each["level"] == "warn"}
    assert told["failures"] == 0 and told["ok"] == len(told["findings"]) - told["warnings"]
    subjects = {each["subject"] for each in told["findings"] if each["level"] == "ok"}
    assert {
        "user", "Python", "log level", "token secret", "master key", "limits", "proxies", "CORS", "credentials",
        "permissions", "audit log", "SQLite", "file system", "fsync",
    } <= subjects  # fmt: skip
    assert GOOD_SECRET not in json.dumps(told)
    assert "fail" not in call("doctor", "--production").replace(" 0 failures", "")


def test_a_server_that_is_not(here: Path) -> None:
    """What is fine to try out fails in production, each with what to do; without --production it does not."""
    call("doctor", "--log-level", "debug", "--insecure", "--host", "0.0.0.0", "--auth", "off")
    arguments = (
        "--log-level",
        "debug",
        "--insecure",
        "--host",
        "0.0.0.0",
        "--auth",
        "off",
        "--durability",
        "memory",
    )
    told = json.loads(call("doctor", "--production", "--json", *arguments, code=1))
    failed = {each["subject"] for each in told["findings"] if each["level"] == "fail"}
    assert {"log level", "exposure", "durability", "credentials"} <= failed
    assert all(each["todo"] for each in told["findings"] if each["level"] != "ok")
    assert told["failures"] == len([each for each in told["findings"] if each["level"] == "fail"])
