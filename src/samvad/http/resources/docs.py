"""The OpenAPI document, and a page to read it and try it."""

from __future__ import annotations

from samvad.http.access import OPEN
from samvad.http.call import Call, Reply
from samvad.http.routing import Route


async def openapi(call: Call) -> Reply:
    """The OpenAPI 3.1 document of this service."""
    from samvad.http.openapi import document

    return Reply(document(call.scope.get("root_path", ""), asks=call.auth.required))


async def page(call: Call) -> Reply:
    """A page that shows the document, with no request to another host."""
    from samvad.http.openapi import docs_page

    return docs_page()


ROUTES = (
    Route("GET", "/openapi.json", openapi, "openapi", OPEN),
    Route("GET", "/docs", page, "docs", OPEN),
)
