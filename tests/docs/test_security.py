"""SECURITY.md against OWASP's numbers, against the tests that there are, and against the cryptography in the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from samvad.http.attempts import EVENTS
from tests.docs.pages import page
from tests.support import REPOSITORY

SOURCE = REPOSITORY / "src" / "samvad"
STATUSES = {"met", "met if set", "not met", "not applicable"}

# ASVS 5.0.0: the level of each requirement, in their order; copied from the standard's own table.
LEVELS = {
    "8.1": "1233",
    "8.2": "1123",
    "8.3": "133",
    "8.4": "23",
    "9.1": "111",
    "9.2": "1222",
    "11.1": "2233",
    "11.2": "22233",
    "11.3": "11233",
    "11.4": "1222",
    "11.5": "23",
    "11.6": "23",
    "11.7": "33",
    "14.1": "22",
    "14.2": "12223333",
    "14.3": "122",
    "16.1": "2",
    "16.2": "22222",
    "16.3": "2222",
    "16.4": "222",
    "16.5": "2223",
}
TOP_TEN = [
    "Broken Object Level Authorization",
    "Broken Authentication",
    "Broken Object Property Level Authorization",
    "Unrestricted Resource Consumption",
    "Broken Function Level Authorization",
    "Unrestricted Access to Sensitive Business Flows",
    "Server Side Request Forgery",
    "Security Misconfiguration",
    "Improper Inventory Management",
    "Unsafe Consumption of APIs",
]

HANDLES_KEYS = {"cryptography", "hmac", "jwt", "ssl"}
APPROVED = {
    "hashlib": {"sha256", "blake2b"},
    "hmac": {"digest", "compare_digest"},
    "secrets": {"choice", "randbits", "token_hex", "token_urlsafe"},
    "ssl": {"create_default_context", "SSLContext"},
}
MAY_ROLL_DICE = {  # and what for
    "cli/chat_talk.py": "how long to wait before it connects again",
    "live/providers/line.py": "the same",
    "retention/sweeper.py": "when the next sweep begins",
    "sessions/breaker.py": "when the store is asked again",
    "sessions/flusher.py": "how long to wait before a retry",
    "sessions/watching.py": "the same",
    "stores/firestore_client.py": "the same",
}
PRIMITIVES = {
    "cryptography.exceptions",
    "cryptography.hazmat.primitives.asymmetric.ec",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.asymmetric.rsa",
    "cryptography.hazmat.primitives.ciphers.aead",
}


def rows() -> list[dict[str, str]]:
    """The rows of all tables about OWASP's points."""
    return page("SECURITY.md").rows("point")


def test_the_points_are_those_of_the_standard() -> None:
    """All of levels 1 and 2 stand there, in order, with the standard's level; of level 3 those that are met."""
    levels = {
        f"{section}.{at}": level for section, of_it in LEVELS.items() for at, level in enumerate(of_it, 1)
    }
    asvs = [row for row in rows() if "level" in row]
    assert {row["point"]: row["level"] for row in asvs}.items() <= levels.items()
    numbers = [row["point"] for row in asvs]
    assert numbers == [each for each in levels if each in numbers]
    assert {each for each, level in levels.items() if level in "12"} <= set(numbers)
    assert all(row["status"] == "met" for row in asvs if row["level"] == "3")
    top = [(row["point"], row["name"]) for row in rows() if "name" in row]
    assert top == [(f"API{at}:2023", name) for at, name in enumerate(TOP_TEN, 1)]


def test_what_is_met_has_a_test_and_what_is_not_says_why() -> None:
    """No row is a tick alone."""
    for row in rows():
        how = row["how, and the test"]
        assert row["status"] in STATUSES, row
        assert len(re.sub(r"`tests/[^`]+`|[,. ]", "", how)) > 10 or row["status"] == "met", row
        assert not row["status"].startswith("met") or "`tests/" in how, row
        assert row["status"] != "met if set" or "`SAMVAD_" in how, row


@cache
def functions(path: Path) -> set[str]:
    """The tests in a file, as pytest finds them."""
    return {
        node.name
        for node in ast.parse(path.read_bytes()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_is_named_is_there() -> None:
    """A test that was renamed or removed is missed here."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page("SECURITY.md").text())
    assert len(named) > 100
    for file, test in named:
        path = REPOSITORY / file
        assert path.is_file() and path.name.startswith("test_"), file
        assert test in functions(path) if test else functions(path), f"{file}::{test}"


def test_security_events_are_what_the_code_tells() -> None:
    """Metrics, lines of the log and names of entries on the page of security events are those of the code."""
    metrics = {row["metric"].strip("`") for row in page("docs/reference/metrics.md").rows("metric")}
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    events = page("docs/reference/security-events.md").rows("event")
    assert len(events) > 15
    for row in events:
        told = [row[column] for column in ("audit log", "server's log", "metric")]
        assert any(told), row
        for name in re.findall(r"`([^`]+)`", " ".join(told)):
            if name.startswith("samvad_"):
                assert name in metrics, name
            elif name not in ("command:uid=…", "keys create") and not name.startswith("SAMVAD_"):
                parts = [part.strip() for part in name.split("…")]
                assert all(part in source for part in parts), name
    named = set(re.findall(r"`(overLimit|refusedInput)`", page("docs/reference/security-events.md").text()))
    assert named == set(EVENTS.values())


# --- cryptography --------------------------------------------------------------------------------------------


class Module(NamedTuple):
    """What a module imports, wherever it does (`from a import b` is both `a` and `a.b`), and the `a.b` that it uses."""

    name: str
    imported: set[str]
    used: set[tuple[str, str]]


@cache
def modules() -> list[Module]:
    """The modules of the package, but those that tests are made with."""
    paths = [path for path in sorted(SOURCE.rglob("*.py")) if "testing" not in path.parts]
    found = []
    for path in paths:
        module = Module(path.relative_to(SOURCE).as_posix(), set(), set())
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                module.imported.update(each.name for each in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                module.imported.update((node.module, *(f"{node.module}.{each.name}" for each in node.names)))
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module.used.add((node.value.id, node.attr))
        found.append(module)
    return found


def test_the_inventory_names_every_module_that_handles_keys() -> None:
    """A new use of cryptography is in the table of keys, or fails here."""
    text = page("SECURITY.md").text()
    listed = re.search(r"These modules handle keys, and no other does: (.*?)\.\n", text, re.DOTALL)
    assert listed is not None
    found = [
        each.name for each in modules() if {name.partition(".")[0] for name in each.imported} & HANDLES_KEYS
    ]
    assert re.findall(r"`([\w/]+\.py)`", listed[1]) == found


def test_every_key_has_its_periods() -> None:
    """What the inventory lists is held against the recommendation, key by key, and so is every state of a key."""
    keys = page("SECURITY.md").rows("key")
    inventory = [row["key"] for row in keys if "algorithm" in row]
    periods = [row for row in keys if "protects for" in row]
    assert len(inventory) == 10 and [row["key"] for row in periods] == inventory
    assert all(row["protects for"] or row["is read for"] for row in periods)
    states = [row["state (section 7)"] for row in page("SECURITY.md").rows("state (section 7)")]
    assert states == ["pre-activation", "active", "suspended", "deactivated", "compromised", "destroyed"]


def is_approved(name: str) -> bool:
    """Whether something of the package `cryptography` is, holds, or is in, one of the primitives."""
    return any(
        each == name or each.startswith(f"{name}.") or name.startswith(f"{each}.") for each in PRIMITIVES
    )


def test_only_approved_primitives() -> None:
    """SHA-256, HMAC, AES-GCM, Ed25519; of issuers RSA and EC as well; and what may not be guessed is the kernel's."""
    for name, names, used in modules():
        for each in names:
            assert not each.startswith("cryptography.") or is_approved(each), (name, each)
        assert {each for each in used if each[0] in APPROVED and each[1] not in APPROVED[each[0]]} == set(), (
            name
        )
        assert not {"AESGCMSIV", "AESCCM", "AESSIV", "ChaCha20Poly1305"} & {
            each.rpartition(".")[2] for each in names
        }
        assert "random" not in names or name in MAY_ROLL_DICE, (
            f"{name}: say in this test what hangs on its dice"
        )
