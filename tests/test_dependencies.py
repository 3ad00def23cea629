"""What `make check` says of dependencies: which vulnerabilities stop it, and what is in the bill of materials."""

from __future__ import annotations

import datetime
import importlib.util
import json
import re
from types import ModuleType
from typing import Any

import pytest

from tests.support import REPOSITORY

TODAY = datetime.date(2026, 11, 26)
LATER, EARLIER = "2026-12-01", "2026-11-25"


def tool(name: str) -> ModuleType:
    """A program of `tools`, as a module."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", REPOSITORY / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


audit, sbom = tool("audit"), tool("sbom")


def report(*vulns: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What pip-audit tells of one package, in its own format."""
    return {
        "dependencies": [{"name": "jinja2", "version": "3.1.0", "vulns": list(vulns), **more}],
        "fixes": [],
    }


MENDED = {"id": "PYSEC-1", "fix_versions": ["3.1.6"], "aliases": ["CVE-1", "GHSA-1"], "description": "x"}
UNMENDED = {"id": "PYSEC-2", "fix_versions": [], "aliases": [], "description": "x"}


def ignored(vulnerability: str, until: str) -> list[Any]:
    """A list of what may stay."""
    text = f'[[ignored]]\nid = "{vulnerability}"\nreason = "not used"\nuntil = {until}\n'
    found: list[Any] = audit.read_ignored(text)
    return found


@pytest.mark.parametrize(
    ("found", "stays", "failed", "words"),
    [
        (report(), [], False, None),
        (report(MENDED), [], True, "jinja2 3.1.0: PYSEC-1 is mended in 3.1.6"),
        (report(UNMENDED), [], False, "PYSEC-2 is mended in no version yet"),
        (report(MENDED, UNMENDED), [], True, "PYSEC-1"),
        (report(MENDED), ignored("PYSEC-1", LATER), False, "may stay until 2026-12-01: not used"),
        (report(MENDED), ignored("CVE-1", LATER), False, "may stay"),
        (report(MENDED), ignored("PYSEC-1", EARLIER), True, "it might stay until 2026-11-25"),
        (report(MENDED), ignored("PYSEC-9", LATER), True, "PYSEC-9 is found no more"),
        ({"dependencies": [{"name": "x", "skip_reason": "not there"}]}, [], True, "could not be looked up"),
    ],
)
def test_what_stops_the_check(found: Any, stays: list[Any], failed: bool, words: str | None) -> None:
    """A vulnerability that can be mended, one that may stay no longer, and what was not looked up at all."""
    verdict = audit.judge(found, stays, TODAY)
    assert verdict.failed is failed
    assert words is None or words in "\n".join(verdict.lines)


def test_what_may_stay_says_why() -> None:
    """Nobody puts an id on the list without a reason and a date."""
    for bad in ('id = "X"', 'id = "X"\nreason = " "\nuntil = 2027-01-01', 'id = "X"\nreason = "r"'):
        with pytest.raises(ValueError, match="each entry"):
            audit.read_ignored(f"[[ignored]]\n{bad}\n")
    audit.read_ignored((REPOSITORY / "tools/audit_ignored.toml").read_text())


@pytest.mark.parametrize("name", sbom.LOCKS)
def test_the_bill_of_materials(name: str) -> None:
    """Everything that the lock pins is in it with all hashes, and hangs on what needs it; twice made, the same."""
    lock = (REPOSITORY / "requirements" / f"{name}.lock").read_text()
    text = sbom.written(sbom.bill(lock, "1.2.3"))
    assert text == sbom.written(sbom.bill(lock, "1.2.3")) and "timestamp" not in text
    found = json.loads(text)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["purl"] == "pkg:pypi/samvad-sessions@1.2.3"
    pinned = dict(re.findall(r"^([\w.-]+)==([^ ;\\\n]+)", lock, re.MULTILINE))
    assert {each["name"]: each["version"] for each in found["components"]} == pinned
    digests = {
        digest["content"]
        for component in found["components"]
        for files in component["externalReferences"]
        for digest in files["hashes"]
    }
    assert digests == set(re.findall(r"sha256:([0-9a-f]{64})", lock))
    needs = {each["ref"]: set(each.get("dependsOn", ())) for each in found["dependencies"]}
    reached, left = set(), [found["metadata"]["component"]["bom-ref"]]
    while left:
        reference = left.pop()
        reached.add(reference)
        left += needs[reference] - reached
    assert reached == needs.keys() and len(needs) == len(pinned) + 1
    with_licence = [each["name"] for each in found["components"] if each.get("licenses")]
    assert len(with_licence) >= 0.9 * len(pinned)
    assert text != sbom.written(sbom.bill(lock, "1.2.4"))


def test_a_lock_that_is_not_understood_is_no_empty_bill() -> None:
    """A new form of lines is found out, and a document that is not CycloneDX."""
    with pytest.raises(ValueError, match="line 1 of the lock"):
        sbom.pins("name @ file:///somewhere\n")
    bom = sbom.bill("a==1 \\\n    --hash=sha256:" + "0" * 64 + "\n    # via samvad-sessions\n", "1")
    bom.version = 0
    with pytest.raises(ValueError, match="not valid"):
        sbom.written(bom)
