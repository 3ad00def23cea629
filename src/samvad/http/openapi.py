"""The OpenAPI 3.1 document, made from the table of routes, the handlers' docstrings and the wire types.

A route that `DESCRIPTIONS` does not know stops the document from being made, so that none can escape it.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import msgspec

from samvad import __version__, errors
from samvad.http import browsers, wire, wire_answers, wire_knowledge
from samvad.http.access import Access
from samvad.http.call import Reply
from samvad.http.openapi_description import Description
from samvad.http.openapi_routes import DESCRIPTIONS, PARAMETERS
from samvad.http.problems import TYPE_PREFIX
from samvad.http.routing import Route
from samvad.http.wire import SCHEMAS

_JSON = "application/json"
_PROBLEM = "application/problem+json"
_PAGES = resources.files("samvad.http") / "pages"

_TAGS = {
    "State": "What the application keeps about a user.",
    "Profile and history": "What was said, and how the user likes it.",
    "Privacy": "Whether what is said is kept at all.",
    "Sessions": "One conversation on one device.",
    "Interruptions": "Where the assistant was cut off: the last three of each session, in memory.",
    "Live conversations": "What is said, as it is said. The WebSocket /api/live is beyond OpenAPI; its frames are in "
    "docs/reference/live.md.",
    "Knowledge base": "Documents, searches and extractive answers. What is found is untrusted text.",
    "All at once": "Many operations in one request, erasing, counting.",
    "Access": "Tokens for browsers.",
    "The process": "For operators, and this document.",
}
_ABOUT = """State for AI assistants: who the user is, what was said, on which device, where the assistant was cut off.

* Times are RFC 3339 UTC with milliseconds. Ids are percent-encoded in a path; `create`, `refresh`, `stats`,
  `user` and `batch` cannot be ids.
* Every error is `application/problem+json` (RFC 9457). Switch on `code`. 503 carries `Retry-After`: nothing was
  acknowledged, try again. Any path answers 405 with `Allow` to a method that it does not know.
* Each write tells in `durability` how far it got: `stored` is committed in the store, `journaled` is synced in
  the local journal, `memory` is lost if the process dies.
* Where credentials are configured, every request brings a bearer token; without a good one it is 401, and 403 where it
  does not allow the request. What is another user's is answered like what is not there.
* How much each may ask is limited there: `RateLimit` tells what is left, 429 with `Retry-After` when that is nothing.
* An `Idempotency-Key` on any POST makes repeating it safe: the first answer is given again for 24 hours.
"""
_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {"description": "Names this request in the log.", "schema": {"type": "string"}},
    "ETag": {
        "description": "The entity tag of the state, for If-Match and If-None-Match.",
        "schema": {"type": "string", "pattern": '^"[0-9]+-[0-9]+"$'},
    },
    "WWW-Authenticate": {
        "description": "How to say who is asking (RFC 6750).",
        "schema": {"type": "string", "pattern": "^Bearer realm="},
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}},
}
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key (`samvad_k1_…`), a token that a back end has minted (`samvad_t1.…`), or a JWT of the "
    "issuer that the server knows. Not asked for where no credentials are configured.",
}
_ERROR_HEADERS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}
_OTHER_ANSWERS = {
    "202": "Accepted: the store is down, and will do it when it is back. Nobody sees anything of it until then.",
    "304": "Not modified.",
    "503": "Not ready.",
}


@lru_cache(maxsize=16)
def document(root_path: str = "", *, asks: bool = True) -> bytes:
    """The document as JSON, for a service that is mounted at `root_path`; `asks`: it answers nobody unknown."""
    from samvad.http.app import routes

    return msgspec.json.encode(made(routes(), root_path, asks=asks))


def made(routes: tuple[Route, ...], root_path: str = "", *, asks: bool = True) -> dict[str, Any]:
    """The document over a table of routes; LookupError where one of them has no description."""
    examples = msgspec.json.decode((_PAGES / "examples.json").read_bytes())
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        description = DESCRIPTIONS.get(route.name)
        if description is None:
            raise LookupError(f"the route {route.name!r} ({route.method} {route.path}) has no description")
        operation = _operation(route, description, examples.get(route.name, {}))
        if not route.access.open:
            operation["security"] = [{"bearer": []}] if asks else [{}, {"bearer": []}]
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Samvad",
            "summary": "State for AI assistants",
            "description": _ABOUT,
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": root_path.rstrip("/") or "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "headers": {name: {**header, "required": True} for name, header in _HEADERS.items()},
            "securitySchemes": {"bearer": _BEARER},
        },
    }


def _operation(route: Route, description: Description, examples: Mapping[str, Any]) -> dict[str, Any]:
    if description.tag not in _TAGS:
        raise LookupError(f"the route {route.name!r} has the unknown tag {description.tag!r}")
    summary, _, more = (inspect.getdoc(route.handler) or "").partition("\n\n")
    if not summary:
        raise LookupError(f"the handler of {route.name!r} has no docstring")
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [description.tag],
        "summary": " ".join(summary.split()),
        "responses": _responses(description, examples, route.access),
    }
    text = "\n\n".join(part for part in (more.strip(), description.text) if part)
    if text:
        operation["description"] = text
    parameters = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {"$ref": f"{SCHEMAS}Id"}}
        for part in route.path.split("/")
        if part.startswith("{")
    ]
    parameters += [{"name": name, **PARAMETERS[name]} for name in description.parameters]
    if parameters:
        operation["parameters"] = parameters
    if description.body is not None:
        content: dict[str, Any] = {"schema": _schema(description.body)}
        if "request" in examples:
            content["examples"] = {name: {"value": value} for name, value in examples["request"].items()}
        operation["requestBody"] = {"required": True, "content": {_JSON: content}}
    return operation


def _responses(description: Description, examples: Mapping[str, Any], access: Access) -> dict[str, Any]:
    media_type = description.answer if isinstance(description.answer, str) else _JSON
    schema = {"type": "string"} if isinstance(description.answer, str) else _schema(description.answer)
    content: dict[str, Any] = {"schema": schema}
    if "response" in examples:
        content["examples"] = {name: {"value": value} for name, value in examples["response"].items()}
    headers = _header_refs("X-Request-Id", *description.answer_headers)
    answers: dict[str, Any] = {
        "200": {"description": "Success.", "headers": headers, "content": {media_type: content}}
    }
    if description.links:
        answers["200"]["links"] = {
            name: {"operationId": name, "parameters": {parameter: f"$response.body#/{field}"}}
            for name, parameter, field in description.links
        }
    for status, other in description.other_answers.items():
        named = ("Retry-After",) if status == "503" else description.answer_headers
        answers[status] = {
            "description": _OTHER_ANSWERS[status],
            "headers": _header_refs("X-Request-Id", *named),
        }
        if other is not None:
            answers[status]["content"] = {_JSON: {"schema": _schema(other)}}
    kinds: set[type[errors.SamvadError]] = {errors.Forbidden, *description.errors}
    if not access.open:
        kinds |= {errors.Unauthenticated, errors.TooManyRequests, errors.Unavailable}
    for error in sorted(kinds, key=lambda error: error.status):
        named = _ERROR_HEADERS.get(error.status, ())
        answers[str(error.status)] = {
            "description": f"{error.title}: {' '.join((error.__doc__ or '').split())}",
            "headers": _header_refs("X-Request-Id", *named),
            "content": {_PROBLEM: {"schema": {"$ref": f"{SCHEMAS}Problem"}, "example": _example(error)}},
        }
    return dict(sorted(answers.items()))


def _header_refs(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _example(kind: type[errors.SamvadError]) -> dict[str, Any]:
    error = kind()
    return {
        "success": False,
        "error": error.message,
        "code": error.code,
        "status": error.status,
        "type": TYPE_PREFIX + error.code,
        "title": error.title,
        "detail": error.message,
        "requestId": "5f1c9a3e-1",
    }


def _schema(wanted: Any) -> dict[str, Any]:
    if wanted is dict:
        return {"type": "object"}
    kinds = wanted if isinstance(wanted, tuple) else getattr(wanted, "__args__", (wanted,))
    refs = [{"$ref": SCHEMAS + kind.__name__} for kind in kinds]
    return refs[0] if len(refs) == 1 else {"anyOf": refs}


# --- schemas -----------------------------------------------------------------------------------------------

# Types that stand in many places are told once.
_SHARED = {"Id": wire.Id, "Timestamp": wire.Timestamp, "Durability": wire.Durable}


@cache
def schemas() -> dict[str, Any]:
    """The components of all wire types that a route uses, straight or through another."""
    kinds = [
        kind
        for module in (wire, wire_answers, wire_knowledge)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, wire.Wire) and kind.__module__ == module.__name__
    ]
    _, components = msgspec.json.schema_components(kinds, ref_template=SCHEMAS + "{name}")
    shared = {name: msgspec.json.schema(kind) for name, kind in _SHARED.items()}
    found: dict[str, Any] = {
        **shared,
        **{name: _with_refs(body, shared) for name, body in components.items()},
    }
    for name in ("UserMessageGiven", "SystemMessageGiven", "AssistantMessageGiven", "ToolMessageGiven"):
        found[name]["properties"]["messages"] = False  # with `messages` it is the other kind of body
    used: dict[str, Any] = {}
    _gather(
        [_schema(d.answer) for d in DESCRIPTIONS.values() if not isinstance(d.answer, str)]
        + [_schema(d.body) for d in DESCRIPTIONS.values() if d.body is not None]
        + [{"$ref": f"{SCHEMAS}{name}"} for name in ("Id", "Problem", "OperationDone", "OperationFailed")],
        found,
        used,
    )
    return dict(sorted(used.items()))


def _with_refs(value: Any, shared: Mapping[str, Any]) -> Any:
    """A schema, with references where it repeats a shared one."""
    if isinstance(value, list):
        return [_with_refs(item, shared) for item in value]
    if not isinstance(value, dict):
        return value
    for name, schema in shared.items():
        if value == schema:
            return {"$ref": SCHEMAS + name}
    return {name: _with_refs(member, shared) for name, member in value.items()}


def _gather(value: Any, found: Mapping[str, Any], used: dict[str, Any]) -> None:
    if isinstance(value, dict):
        name = str(value.get("$ref", "")).removeprefix(SCHEMAS)
        if name and name not in used:
            used[name] = found[name]
            _gather(found[name], found, used)
    for member in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _gather(member, found, used)


# --- the page ----------------------------------------------------------------------------------------------


@cache
def docs_page() -> Reply:
    """The page that shows the document: one file, with a policy that lets nothing else run or be asked."""
    style, script = ((_PAGES / name).read_text(encoding="utf-8") for name in ("docs.css", "docs.js"))
    page = (_PAGES / "docs.html").read_text(encoding="utf-8")
    page = page.replace("/* docs.css */", style).replace("/* docs.js */", script)
    security = browsers.page(_hash_source(script), _hash_source(style))
    return Reply(page.encode(), media_type=b"text/html; charset=utf-8", security=security)


def _hash_source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
