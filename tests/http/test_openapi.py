"""The OpenAPI document: valid, complete, and about this very code."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from samvad import __version__, limits
from samvad.auth.authenticator import Authenticator
from samvad.http import openapi as generator
from samvad.http.access import OPEN
from samvad.http.app import create_app, routes
from samvad.http.call import Call, Reply
from samvad.http.openapi_routes import DESCRIPTIONS
from samvad.http.routing import Route
from samvad.http.wire import NOT_IDS
from samvad.sessions.validation import check_id
from tests.http.support import Api, openapi, validator
from tests.http.test_contract_ids import HOSTILE, REFUSED

pytestmark = pytest.mark.anyio


def operations() -> dict[str, dict[str, Any]]:
    """The operations by their id."""
    return {
        operation["operationId"]: operation
        for item in openapi()["paths"].values()
        for operation in item.values()
    }


def places(value: Any, name: str) -> list[Any]:
    """Every value that stands under this name, anywhere in the document."""
    found = []
    if isinstance(value, dict):
        found += [value[name]] if name in value else []
        for member in value.values():
            found += places(member, name)
    elif isinstance(value, list):
        for item in value:
            found += places(item, name)
    return found


async def test_every_route_is_described() -> None:
    """Each route is one operation, and nothing else is in the document."""
    described = {
        (method.upper(), path, operation["operationId"])
        for path, item in openapi()["paths"].items()
        for method, operation in item.items()
    }
    assert described == {(route.method, route.path, route.name) for route in routes()}
    assert len(operations()) == len(routes()) == len(DESCRIPTIONS)


async def test_no_route_can_escape() -> None:
    """A route without a description stops the document from being made; one without a docstring too."""

    async def undocumented(call: Call) -> Reply:
        raise AssertionError

    new = Route("GET", "/new", undocumented, "new", OPEN)
    with pytest.raises(LookupError, match=r"'new' \(GET /new\) has no description"):
        generator.made((*routes(), new))
    with pytest.raises(LookupError, match="'healthz' has no docstring"):
        generator.made((Route("GET", "/healthz", undocumented, "healthz", OPEN),))


async def test_it_is_openapi() -> None:
    """The document has the form of OpenAPI 3.1, and each schema in it that of JSON Schema 2020-12."""
    document = openapi()
    assert document["openapi"] == "3.1.0"
    assert document["info"]["version"] == __version__
    ids = [operation["operationId"] for operation in operations().values()]
    assert len(set(ids)) == len(ids)
    tags = {tag["name"] for tag in document["tags"]}
    for schema in (*places(document, "schema"), *document["components"]["schemas"].values()):
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    for path, item in document["paths"].items():
        for operation in item.values():
            assert set(operation["tags"]) <= tags and operation["summary"]
            in_path = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert "200" in operation["responses"]
            for answer in operation["responses"].values():
                assert answer["description"]
    for link in [link for links in places(document, "links") for link in links.values()]:
        assert set(link["parameters"]) <= {
            parameter["name"] for parameter in operations()[link["operationId"]].get("parameters", [])
        }


async def test_references_lead_somewhere() -> None:
    """Every reference has its target, and every component is referred to."""
    document = openapi()
    refs = set(places(document, "$ref"))
    there = {
        f"#/components/{kind}/{name}" for kind, members in document["components"].items() for name in members
    }
    schemes = {f"#/components/securitySchemes/{name}" for name in document["components"]["securitySchemes"]}
    assert refs == there - schemes
    asked = [operation["security"] for operation in operations().values() if "security" in operation]
    assert asked == [[{"bearer": []}]] * sum(not route.access.open for route in routes())


async def test_schemathesis_reads_it() -> None:
    """A tool that lives by such documents finds every operation in it, without a complaint."""
    import schemathesis

    schema = schemathesis.openapi.from_dict(openapi())
    found: list[Any] = list(schema.get_all_operations())
    assert len([result.ok() for result in found]) == len(routes())


async def test_examples_hold() -> None:
    """Each example is as its schema says; each operation with a JSON body shows one."""
    for operation in operations().values():
        contents = [answer.get("content", {}) for answer in operation["responses"].values()]
        body = operation.get("requestBody", {}).get("content", {})
        assert not body or body["application/json"]["examples"]
        for content in (*contents, body):
            for media in content.values():
                check = jsonschema_rs.Draft202012Validator(
                    {**media["schema"], "components": openapi()["components"]}, validate_formats=True
                )
                examples = [each["value"] for each in media.get("examples", {}).values()]
                for example in [*examples, *([media["example"]] if "example" in media else [])]:
                    faults = [fault.message for fault in check.iter_errors(example)]
                    assert not faults, (operation["operationId"], faults)
    plain = {"metrics", "openapi", "docs", "talk", "talkFile", "liveEvents", "exportUser"}
    assert all(route.name in _examples() for route in routes() if route.name not in plain)


def _examples() -> Any:
    from importlib import resources

    return json.loads((resources.files("samvad.http") / "pages" / "examples.json").read_bytes())


async def test_examples_of_requests_work(api: Api) -> None:
    """Each example of a request is accepted by the service."""
    await api.ok("POST", "/api/session/create", {"sessionId": "session_123", "userId": "user_456"})
    for path, item in openapi()["paths"].items():
        for method, operation in item.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            place = path.replace("{userId}", "user_456").replace("{sessionId}", "session_123")
            for example in body.get("examples", {}).values():
                answer = await api(method.upper(), place, example["value"])
                if operation["operationId"] == "addUrl":  # whether there is a network here or not
                    assert answer.status == 200 or answer.json["code"] == "url_failed"
                    continue
                assert answer.status == 200, (operation["operationId"], answer.body)
            if operation["operationId"] == "clearUserData":
                await api.ok(
                    "POST", "/api/session/create", {"sessionId": "session_123", "userId": "user_456"}
                )


async def test_ids_in_the_document_are_those_of_the_code() -> None:
    """The schema of an id takes what the service takes; of bytes it can only say the half: characters."""
    check = validator("components", "schemas", "Id")
    assert all(check.is_valid(name) for name in HOSTILE)
    told_in_bytes = [name for name in REFUSED if check.is_valid(name)]
    assert all(len(name) <= limits.ID_BYTES_MAX < len(name.encode()) for name in told_in_bytes)
    assert set(NOT_IDS) == {*limits.RESERVED_IDS, ".", ".."}
    for code in (*range(0x3100), *range(0xFE00, 0x10000), 0x1F44B):
        character = chr(code)
        for name in (character, f"a{character}", f"a{character}b"):
            if 0xD800 <= code < 0xE000:
                continue
            assert check.is_valid(name) == _taken(name), f"{name!r}"


def _taken(name: str) -> bool:
    from samvad.errors import InvalidId

    try:
        check_id(name, "id")
    except InvalidId:
        return False
    return True


async def test_errors_are_told(plain: Api) -> None:
    """Whatever takes a body tells of 413 and 415; whatever takes a key of 409 and 422; each reads problem+json."""
    for operation in operations().values():
        answers = operation["responses"]
        if "requestBody" in operation:
            assert {"400", "413", "415", "503"} <= set(answers)
        keys = [p for p in operation.get("parameters", []) if p["name"] == "Idempotency-Key"]
        if keys:
            assert {"409", "422"} <= set(answers)
        for status, answer in answers.items():
            if status >= "400" and operation["operationId"] != "readyz":
                assert list(answer["content"]) == ["application/problem+json"]
            assert ("Retry-After" in answer["headers"]) == (status in ("429", "503"))
    posts = [
        operation for item in openapi()["paths"].values() for m, operation in item.items() if m == "post"
    ]
    for operation in posts:
        assert "Idempotency-Key" in [parameter["name"] for parameter in operation["parameters"]]


async def test_it_is_served(plain: Api) -> None:
    """GET /openapi.json gives it, the same bytes each time."""
    first, second = await plain.get("/openapi.json"), await plain.get("/openapi.json")
    assert first.json == openapi(asks=False)
    assert first.body == second.body


async def test_who_may_come_is_told(plain: Api) -> None:
    """A server with credentials says that each of its operations needs them, another that they may be left out."""
    app = create_app(plain.samvad, auth=Authenticator(plain.samvad.core.clock, required=True))
    asking, open_ = await Api(plain.samvad, app).get("/openapi.json"), await plain.get("/openapi.json")
    for answer, wanted in ((asking, [{"bearer": []}]), (open_, [{}, {"bearer": []}])):
        saved = answer.json["paths"]["/api/session/{userId}/state"]["post"]
        assert saved["security"] == wanted


async def test_the_page_is_served(plain: Api) -> None:
    """GET /docs is one page whose policy allows its own script and style by their hashes, and no other host."""
    answer = await plain.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    html = answer.body.decode()
    assert "/* docs.css */" not in html and "/* docs.js */" not in html
    assert "https://" not in html
    assert html.count("http://") == html.count("http://www.w3.org/2000/svg")


async def test_metrics(plain: Api) -> None:
    """GET /metrics is Prometheus' text, counts requests by route and status, and holds no id and no content."""
    await plain.say("user_secret", "content_secret")
    await plain.get("/api/session/user_secret/state")
    answer = await plain.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.body.decode()
    assert 'samvad_requests_total{route="appendToUserHistory",status="200"} 1.0' in text
    assert 'samvad_requests_total{route="getUserState",status="404"} 1.0' in text
    assert "secret" not in text


async def test_health(plain: Api) -> None:
    """Alive and ready."""
    assert await plain.ok("GET", "/healthz") == {"status": "alive", "version": __version__}
    ready = await plain.ok("GET", "/readyz")
    assert (ready["status"], ready["store"], ready["engine"]) == ("ready", "up", "memory")
