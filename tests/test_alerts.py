"""Alerts, dashboard and the page for the night: what they name is there, and Prometheus understands it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.pages import page
from tests.docs.test_reference import all_metrics
from tests.support import REPOSITORY, loudly_skip

ALERTS = REPOSITORY / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "samvad.json"
PAGE = "docs/how-to/at-3-am.md"
OF_PROMETHEUS = {"up"}


def rules() -> list[dict[str, Any]]:
    """The alert rules."""
    found: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    return found


def queries() -> Iterator[str]:
    """What the dashboard asks, with its variables filled in."""
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked += [each["expr"] for each in dashboard["annotations"]["list"]]
    for each in asked:
        yield each.replace("$__rate_interval", "5m").replace("$instance", ".*")


def names_in(query: str) -> set[str]:
    """The metrics that a query names."""
    plain = re.sub(r'"[^"]*"', '""', query)
    return set(re.findall(r"\b(?:samvad|process)_\w+", plain)) | (
        {"up"} if re.match(r"up\b", plain) else set()
    )


def samples(directory: Path) -> set[str]:
    """Every name under which /metrics has a number."""
    told = all_metrics(directory)
    found = set(OF_PROMETHEUS)
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", told, re.MULTILINE):
        found |= {f"{name}_{end}" for end in ("bucket", "count", "sum")} if kind == "histogram" else {name}
    return found


def test_what_is_asked_for_is_there(tmp_path: Path) -> None:
    """An alert on a metric that is not there never fires, and nobody notices."""
    there = samples(tmp_path)
    asked = {rule["alert"]: names_in(rule["expr"]) for rule in rules()}
    asked |= {query: names_in(query) for query in queries()}
    assert all(asked.values()), [each for each, names in asked.items() if not names]
    assert {each: names - there for each, names in asked.items() if names - there} == {}


def test_each_alert_leads_to_what_to_do() -> None:
    """Its link is a heading of the page, which names the alert there; the page names no alert that there is not."""
    night = page(PAGE)
    for rule in rules():
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert path == PAGE and anchor in night.anchors(), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
    mentioned = set(re.findall(r"`(Samvad[A-Z]\w+)`", night.text()))
    assert mentioned == {rule["alert"] for rule in rules()}
    assert set(re.findall(r"`((?:samvad|process)_\w+)[`{]", night.text())) <= {
        row["metric"].strip("`") for row in page("docs/reference/metrics.md").rows("metric")
    }


def test_each_symptom_is_told_in_whole() -> None:
    """What you see, what it means, whether words are at risk, what to do, and what not."""
    for section in re.split(r"^## ", page(PAGE).text(), flags=re.MULTILINE)[1:]:
        parts = re.findall(r"^\*(.+?):\*", section, re.MULTILINE)
        assert parts == ["You see", "It means", "Words at risk", "Do", "Do not"], section.partition("\n")[0]


def promtool(*arguments: str, cwd: Path) -> None:
    """Run Prometheus' own checks."""
    if shutil.which("promtool") is None:
        loudly_skip("there is no promtool (Debian's package prometheus)")
    done = subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_understands_the_rules() -> None:
    """Names, expressions and templates."""
    promtool("check", "rules", str(ALERTS), cwd=REPOSITORY)


def test_prometheus_understands_the_dashboard(tmp_path: Path) -> None:
    """Each query as the expression of a rule."""
    recorded = [{"record": f"panel:{n}", "expr": query} for n, query in enumerate(queries())]
    rules_file = tmp_path / "panels.yaml"
    rules_file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    promtool("check", "rules", "--lint=none", str(rules_file), cwd=tmp_path)


def fires(series: dict[str, str], at: str, alert: str, labels: dict[str, str] | None) -> dict[str, Any]:
    """A case for `promtool test rules`: with these series, the alert fires with these labels, or (None) does not."""
    severity = next(rule["labels"]["severity"] for rule in rules() if rule["alert"] == alert)
    expected = [] if labels is None else [{"exp_labels": {"severity": severity, **labels}}]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": expected}],
    }


A, JOB = {"instance": "a"}, {"instance": "a", "job": "samvad"}
UP = '{instance="a"}'
CASES = {
    "journaled, store down: no page": fires(
        {f"samvad_journal_up{UP}": "1x10", f"samvad_store_up{UP}": "0x10"}, "5m", "SamvadCannotWrite", None
    ),
    "journal down": fires(
        {f"samvad_journal_up{UP}": "0x10", f"samvad_store_up{UP}": "1x10"}, "5m", "SamvadCannotWrite", A
    ),
    "sqlite, disk refuses": fires({f"samvad_store_up{UP}": "0x10"}, "5m", "SamvadCannotWrite", A),
    "80 % full": fires(
        {f"samvad_journal_bytes{UP}": "81x10", f"samvad_journal_bytes_max{UP}": "100x10"},
        "5m",
        "SamvadJournalFilling",
        A,
    ),
    "half full": fires(
        {f"samvad_journal_bytes{UP}": "50x10", f"samvad_journal_bytes_max{UP}": "100x10"},
        "5m",
        "SamvadJournalFilling",
        None,
    ),
    "late": fires({f"samvad_flush_oldest_seconds{UP}": "61x10"}, "6m", "SamvadFlushLate", A),
    "deaf": fires({f"samvad_listener_up{UP}": "0x10"}, "6m", "SamvadReplicaDeaf", A),
    "deaf, as the store is down": fires(
        {f"samvad_listener_up{UP}": "0x10", f"samvad_breaker_open{UP}": "1x10"},
        "6m",
        "SamvadReplicaDeaf",
        None,
    ),
    "2 % fail": fires(
        {
            'samvad_requests_total{instance="a",status="200",route="x"}': "0+98x20",
            'samvad_requests_total{instance="a",status="503",route="x"}': "0+2x20",
        },
        "15m",
        "SamvadErrors",
        A,
    ),
    "1 % of the looks late": fires(
        {
            'samvad_loop_lag_seconds_bucket{instance="a",le="0.05"}': "0+1188x30",
            'samvad_loop_lag_seconds_count{instance="a"}': "0+1200x30",
        },
        "25m",
        "SamvadLoopHeldUp",
        A,
    ),
    "no look late": fires(
        {
            'samvad_loop_lag_seconds_bucket{instance="a",le="0.05"}': "0+1200x30",
            'samvad_loop_lag_seconds_count{instance="a"}': "0+1200x30",
        },
        "25m",
        "SamvadLoopHeldUp",
        None,
    ),
    "parked": fires({f"samvad_lanes_parked{UP}": "1x10"}, "6m", "SamvadLanesParked", A),
    "audit": fires({f"samvad_audit_up{UP}": "0x10"}, "3m", "SamvadAuditBroken", A),
    "keys unread": fires({f"samvad_auth_keys_failures_total{UP}": "0+60x20"}, "12m", "SamvadKeysUnread", A),
    "keys unread once": fires(
        {f"samvad_auth_keys_failures_total{UP}": "0 0 1 1 1 1 1 1 1 1 1 1 1"}, "12m", "SamvadKeysUnread", None
    ),
    "gone": fires({'up{instance="a",job="samvad"}': "0x10"}, "3m", "SamvadDown", JOB),
}


@pytest.fixture(scope="module")
def without_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules without annotations, which a case would have to repeat word by word."""
    plain = yaml.safe_load(ALERTS.read_text())
    for rule in plain["groups"][0]["rules"]:
        del rule["annotations"]
    path = tmp_path_factory.mktemp("alerts") / "rules.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


def test_alerts_fire_when_they_are_to(without_words: Path) -> None:
    """As Prometheus evaluates them, over series made for each case."""
    text = yaml.safe_dump(
        {"rule_files": [str(without_words)], "evaluation_interval": "1m", "tests": [*CASES.values()]}
    )
    cases = without_words.with_name("cases.yaml")
    cases.write_text(text)
    promtool("test", "rules", str(cases), cwd=without_words.parent)
