"""Are there known vulnerabilities in what we depend on? Every pin of requirements/dev.lock is looked up by pip-audit.

Fails for a vulnerability that a newer version mends, unless tools/audit_ignored.toml says why it may stay; one without
a mended version is told. Where there are no advisories to be had (no network, a mirror), it says so loudly and passes;
with AUDIT=required that fails as well.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
LOCK = REPOSITORY / "requirements" / "dev.lock"
IGNORED = Path(__file__).with_name("audit_ignored.toml")
_SERVICES = ("pypi", "osv")  # the first that answers
_PROBE = "pip==23.0"  # has advisories, and will keep them
_PROBE_S = 30
_AUDIT_S = 300


class Ignored(NamedTuple):
    """A vulnerability that may stay, why, and until when."""

    id: str
    reason: str
    until: datetime.date


class Verdict(NamedTuple):
    """What to tell, and whether the check fails."""

    lines: list[str]
    failed: bool


def read_ignored(text: str) -> list[Ignored]:
    """The list of what may stay; ValueError where an entry does not say why, or until when."""
    found = []
    for entry in tomllib.loads(text).get("ignored", []):
        if set(entry) != {"id", "reason", "until"} or not entry["reason"].strip():
            raise ValueError(f"{IGNORED.name}: each entry has an id, a reason and until: {entry}")
        found.append(Ignored(entry["id"], entry["reason"], entry["until"]))
    return found


def judge(report: dict[str, Any], ignored: list[Ignored], today: datetime.date) -> Verdict:
    """What pip-audit's report means."""
    lines: list[str] = []
    failed = False
    known = {each.id: each for each in ignored}
    seen: set[str] = set()
    for package in report["dependencies"]:
        name = f"{package['name']} {package.get('version', '')}".strip()
        if "skip_reason" in package:
            lines.append(f"{name} could not be looked up: {package['skip_reason']}")
            failed = True
            continue
        for found in package["vulns"]:
            names = {found["id"], *found.get("aliases", ())}
            seen |= names
            entry = next((known[each] for each in sorted(names) if each in known), None)
            mended = ", ".join(found["fix_versions"])
            if entry is not None and entry.until >= today:
                lines.append(f"{name}: {found['id']} may stay until {entry.until}: {entry.reason}")
            elif mended:
                since = f" (it might stay until {entry.until})" if entry is not None else ""
                lines.append(f"{name}: {found['id']} is mended in {mended}{since}: make lock ARGS=--upgrade")
                failed = True
            else:
                lines.append(f"{name}: {found['id']} is mended in no version yet")
    for entry in ignored:
        if entry.id not in seen:
            lines.append(f"{entry.id} is found no more: take it out of {IGNORED.name}")
            failed = True
    return Verdict(lines, failed)


def audited(requirements: Path, service: str, seconds: int) -> dict[str, Any] | str:
    """pip-audit's report on these pins, or in words why there is none."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--requirement",
        str(requirements),
        "--no-deps",
        "--disable-pip",
    ]
    command += ["--vulnerability-service", service]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds} s"
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
    return report


def reachable(service: str) -> str | None:
    """Why advisories cannot be had there; None where they can. An index that knows nothing answers like a clean one."""
    with tempfile.TemporaryDirectory() as directory:
        probe = Path(directory) / "probe.txt"
        probe.write_text(f"{_PROBE}\n")
        report = audited(probe, service, _PROBE_S)
    if isinstance(report, str):
        return report
    (package,) = report["dependencies"]
    if "skip_reason" in package:
        return str(package["skip_reason"])
    return None if package["vulns"] else f"it knows no advisory for {_PROBE}, which has some"


def main() -> None:
    """Audit, tell, and exit with 1 where something has to be done."""
    ignored = read_ignored(IGNORED.read_text(encoding="utf-8"))
    refusals = []
    for service in _SERVICES:
        refusal = reachable(service)
        report = audited(LOCK, service, _AUDIT_S) if refusal is None else refusal
        if not isinstance(report, str):
            break
        refusals.append(f"{service}: {report[:120]}")
    else:
        print(f"AUDIT SKIPPED: nothing is known of vulnerabilities here. {'; '.join(refusals)}")
        sys.exit(os.environ.get("AUDIT") == "required")
    verdict = judge(report, ignored, datetime.datetime.now(datetime.UTC).date())
    for line in verdict.lines:
        print(f"audit: {line}")
    end = "something has to be done" if verdict.failed else "well"
    print(f"audit: {len(report['dependencies'])} packages looked up: {end}")
    sys.exit(verdict.failed)


if __name__ == "__main__":
    main()
