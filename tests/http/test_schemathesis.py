"""The whole API under schemathesis: whatever is sent is answered as the document says, never with a 5xx."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from samvad import limits, open_samvad
from samvad.http.app import create_app, routes
from samvad.knowledge.fetching import Fetcher
from tests.http.support import openapi, serving, validator

STREAM = "liveEvents"
PHASES = ("examples", "coverage", "fuzzing", "stateful")
# What hangs on what is there, or was sent before, is no fault of a request that the document allows.
ACCEPTED = ["2xx", "304", "404", "409", "412", "422"]
REJECTED = ["400", "404", "405", "409", "412", "413", "415", "422"]
NOT_ASKED = {"enabled": False}


def config(max_examples: int, seed: int, auth: dict[str, Any] | None = None) -> SchemathesisConfig:
    """All phases and checks; those about authentication where `auth` says who asks.

    Seed 0 is the same run each time; with a later one than 1 the phases that do not depend on it are left out.
    """
    asked = NOT_ASKED if auth is None else {"enabled": True}
    denied = [] if auth is None else ["401", "403"]
    return SchemathesisConfig.from_dict(
        {
            **({} if auth is None else {"auth": auth}),
            "seed": seed,
            "phases": {phase: {"enabled": seed <= 1} for phase in ("examples", "coverage")},
            "continue-on-failure": True,
            "generation": {"max-examples": max_examples, "deterministic": seed == 0, "database": "none"},
            "checks": {
                "ignored_auth": asked,
                "object_level_authorization": asked,
                "positive_data_acceptance": {"expected-statuses": ACCEPTED + denied},
                "negative_data_rejection": {"expected-statuses": REJECTED + denied},
            },
            "operations": [
                # A malformed operation fails by itself, in the result that stands in its place.
                {"include-operation-id": "batch", "checks": {"negative_data_rejection": NOT_ASKED}},
                # No page is fetched here, and hardly any base64 is a PDF: 400 then says so.
                {"include-operation-id": "addUrl", "checks": {"positive_data_acceptance": NOT_ASKED}},
                {"include-operation-id": "addPdf", "checks": {"positive_data_acceptance": NOT_ASKED}},
            ],
        }
    )


def told_in_bytes(value: Any) -> bool:
    """Whether a text is over a bound that the document can only tell in characters."""
    if isinstance(value, dict):
        return any(told_in_bytes(name) or told_in_bytes(member) for name, member in value.items())
    if isinstance(value, list):
        return any(told_in_bytes(item) for item in value)
    return isinstance(value, str) and len(value.encode(errors="replace")) > limits.ID_BYTES_MAX >= len(value)


@contextlib.contextmanager
def prepared(schema: Any) -> Iterator[None]:
    """Have the cases mean what they say."""
    numbers = itertools.count()
    key_is_valid = _key_check()

    def filter_case(context: Any, case: Any) -> bool:
        place = case.path_parameters or {}
        # /api/session/stats is another path than /api/session/{sessionId}, whatever a template may say.
        return not told_in_bytes([place, case.body]) and not limits.RESERVED_IDS & set(
            map(str, place.values())
        )

    def before_call(context: Any, case: Any, kwargs: Any) -> None:
        # Nearly every valid key is a new one: else most answers were 422, and little would be tried.
        number = next(numbers)
        key = (case.headers or {}).get("Idempotency-Key")
        if key is not None and number % 20 and key_is_valid(key):
            case.headers["Idempotency-Key"] = f"key-{number}"

    schema.hook(filter_case)
    schemathesis.hook(before_call)  # there is no such hook of one schema
    try:
        yield
    finally:
        schemathesis.hooks.unregister(before_call)


def _key_check() -> Any:
    import jsonschema_rs

    parameters = openapi()["paths"]["/api/session/refresh"]["post"]["parameters"]
    schema = next(each["schema"] for each in parameters if each["name"] == "Idempotency-Key")
    return jsonschema_rs.validator_for(schema).is_valid


class Run:
    """What became of a run: the number of cases, their statuses, and every failure."""

    def __init__(self) -> None:
        self.cases: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.failures: dict[tuple[str, str], str] = {}

    def take(self, event: Any) -> None:
        """Note what an event of the engine tells."""
        if isinstance(event, events.NonFatalError | events.FatalError):
            self.failures[type(event).__name__, ""] = str(getattr(event, "value", event))
        if not isinstance(event, events.ScenarioFinished):
            return
        recorder = event.recorder
        self.cases[str(event.phase)] += len(recorder.interactions)
        self.operations[event.label or ""] += len(recorder.interactions)
        for interaction in recorder.interactions.values():
            if interaction.response is not None:
                self.statuses[interaction.response.status_code] += 1
        for case_id, checks in recorder.checks.items():
            for check in checks:
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    answer = recorder.interactions[case_id].response
                    self.failures[check.name, failure.operation or ""] = "\n".join(
                        [
                            failure.title,
                            failure.message,
                            check.failure_info.code_sample,
                            str(answer and answer.content),
                        ]
                    )


def run(port: int, max_examples: int, seed: int = 0, auth: dict[str, Any] | None = None) -> Run:
    """One run over a server; fails with every failure found."""
    schema = schemathesis.openapi.from_url(
        f"http://127.0.0.1:{port}/openapi.json", config=config(max_examples, seed, auth)
    )
    schema = schema.exclude(
        operation_id=STREAM
    )  # it has no end to wait for; tests/live/test_events.py has it
    found = Run()
    with prepared(schema):
        for event in from_schema(schema).execute():
            found.take(event)
    told = f"\nschemathesis: {sum(found.cases.values())} cases {dict(found.cases)}, answers {dict(found.statuses)}"
    print(told)  # noqa: T201 - how many there were is a part of the result
    assert not found.failures, "\n\n".join(
        f"{check} of {operation}: {text}" for (check, operation), text in found.failures.items()
    )
    assert not [status for status in found.statuses if status >= 500]
    return found


@pytest.fixture(params=["memory", "sqlite"])
def port(request: pytest.FixtureRequest, database_path: Path) -> Iterator[int]:
    """A server over each store."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{database_path}"
    samvad = open_samvad(url, record_interruptions=request.param == "sqlite")
    base = samvad.knowledge
    base.core = base.core._replace(fetcher=Fetcher(resolve_host=nobody, ports=()))
    with serving(app=create_app(samvad)) as found:
        yield found


async def nobody(host: str, port: int) -> list[Any]:
    """Knows no host: what these tests make up is not asked for on the network."""
    return []


def test_the_whole_api(port: int) -> None:
    """About 2,000 cases over each store: no 5xx, no answer that the document does not tell."""
    found = run(port, max_examples=12)
    assert sum(found.cases.values()) >= 2_000
    for phase in PHASES:
        assert any(phase in name.lower() and count for name, count in found.cases.items()), found.cases
    tried = {label for label, count in found.operations.items() if count}
    # It leaves out the address that it has read the document from.
    left_out = {"openapi", STREAM}
    assert {f"{route.method} {route.path}" for route in routes() if route.name not in left_out} <= tried
    assert {200, 400, 404, 405, 409, 412, 415, 422} <= set(found.statuses)


@pytest.mark.soak
def test_the_whole_api_at_length(port: int) -> None:
    """25,000 cases over each store."""
    cases = 0
    for seed in itertools.count(1):
        cases += sum(run(port, max_examples=150, seed=seed).cases.values())
        if cases >= 25_000:
            return


def test_the_document_alone_tells_the_statuses() -> None:
    """A case that schemathesis would blame is blamed: the problem's schema is no empty one."""
    assert not validator("components", "schemas", "Problem").is_valid({"success": True})
