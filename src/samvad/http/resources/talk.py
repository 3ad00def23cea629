"""The page on which one can talk: /talk and its files."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

from samvad.errors import NotFound
from samvad.http import browsers
from samvad.http.access import OPEN
from samvad.http.call import Call, Reply
from samvad.http.routing import Route

_TYPES: Final = {
    "talk.css": b"text/css; charset=utf-8",
    **dict.fromkeys(
        ("talk.js", "log.js", "line.js", "sound.js", "capture.js", "playback.js"),
        b"text/javascript; charset=utf-8",
    ),
}
_PAGE: Final = browsers.page("'self'", "'self'", uses="microphone")


@cache
def _file(name: str) -> bytes:
    return (resources.files("samvad.console") / name).read_bytes()


async def talk(call: Call) -> Reply:
    """A page on which to talk with the assistant, by voice and in writing, with no request to another host."""
    return Reply(_file("talk.html"), media_type=b"text/html; charset=utf-8", security=_PAGE)


async def talk_file(call: Call) -> Reply:
    """A script or the style of the page `/talk`."""
    file = call.params[0]
    media_type = _TYPES.get(file)
    if media_type is None:
        raise NotFound("The page /talk has no such file.")
    return Reply(_file(file), media_type=media_type)


ROUTES = (
    Route("GET", "/talk", talk, "talk", OPEN),
    Route("GET", "/talk/{file}", talk_file, "talkFile", OPEN),
)
