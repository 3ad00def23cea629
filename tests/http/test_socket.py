"""A few requests over a real socket: what uvicorn's parser and ours make of them together."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import httpx2
import pytest

from tests.http.support import serving

HISTORY = "/api/session/user_456/history"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """One server for the tests of this module."""
    with serving() as found:
        yield found


def exchanged(port: int, sent: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to these very bytes; the connection is closed then."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        with contextlib.suppress(ConnectionError):  # the server may answer and close before it has read all
            connection.sendall(sent)
        received = b""
        while b"\r\n\r\n" not in received:
            piece = connection.recv(65536)
            assert piece, received
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length")
        )
        while len(body) < length:
            body += connection.recv(65536)
    return int(head.split()[1]), body


def request(method: str, path: str, body: bytes = b"", *lines: str) -> bytes:
    """A request as bytes."""
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines]
    if not any("transfer-encoding" in line.lower() for line in lines):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def test_a_conversation(port: int) -> None:
    """State, history and profile over HTTP/1.1, kept alive."""
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
        tag = client.post("/api/session/u1/state", json={"language": "hi"}).headers["etag"]
        assert client.get("/api/session/u1/state", headers={"If-None-Match": tag}).status_code == 304
        said = client.post("/api/session/u1/history", json={"role": "user", "content": "नमस्ते"})
        assert said.json()["seq"] == 1
        profile = client.get("/api/session/u1/profile").json()["profile"]
        assert profile["conversationHistory"][0]["content"] == "नमस्ते"
        assert client.head("/healthz").content == b""
        assert client.options("/healthz").headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path", ["/api/session/../state", "/api/session/%2e%2e/state", "/api/session/./state"]
)
def test_dot_segments(port: int, path: str) -> None:
    """A server sends dot segments on as they are: they are ids, and no ids can be that."""
    status, body = exchanged(port, request("GET", path))
    assert (status, json.loads(body)["code"]) == (400, "invalid_id")


@pytest.mark.parametrize(
    "path", ["/api/session/a%2Fb/state", "/api/session/a%00b/state", "/api/session/%ff/state"]
)
def test_encoded_bytes(port: int, path: str) -> None:
    """An encoded slash, null or stray byte reaches us encoded, and is refused as an id."""
    status, body = exchanged(port, request("GET", path))
    assert (status, json.loads(body)["code"]) == (400, "invalid_id")


def test_chunked_bodies(port: int) -> None:
    """A body in chunks is put together; one over 8 MiB without a told length is 413."""
    body = json.dumps({"role": "user", "content": "नमस्ते"}, ensure_ascii=False).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (1, body[at : at + 1]) for at in range(len(body))) + b"0\r\n\r\n"
    status, _ = exchanged(port, request("POST", HISTORY, chunks, "Transfer-Encoding: chunked"))
    assert status == 200
    mebibyte = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    large = mebibyte * 9 + b"0\r\n\r\n"
    status, answer = exchanged(port, request("POST", HISTORY, large, "Transfer-Encoding: chunked"))
    assert (status, json.loads(answer)["code"]) == (413, "too_large")


def test_a_told_length(port: int) -> None:
    """A body whose told length is over 8 MiB is refused without being read."""
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 8388609\r\n\r\n"
    status, answer = exchanged(port, head % HISTORY.encode() + b"{")
    assert (status, json.loads(answer)["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: x",),
        ("Content-Length: -1",),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 99999999999999999999999",),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
    ],
    ids=range(5),
)
def test_framing_that_lies(port: int, lines: tuple[str, ...]) -> None:
    """Framing that cannot be right is 400 from the parser, and never a fault of ours."""
    head = "\r\n".join(
        [f"POST {HISTORY} HTTP/1.1", "Host: x", "Content-Type: application/json", *lines, "", ""]
    )
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head.encode() + b"zzzzz\r\n")
        received = connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 400 ") or received == b"", received


def test_a_client_that_leaves(port: int) -> None:
    """A client that goes away in the middle of its body leaves nothing behind."""
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
        before = len(client.get("/api/session/gone/history").json()["messages"])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            body = b'{"role":"user","content":"x"}'
            connection.sendall(request("POST", "/api/session/gone/history", body)[:-1])
        assert client.get("/healthz").status_code == 200
        assert len(client.get("/api/session/gone/history").json()["messages"]) == before == 0


def test_two_requests_in_one_piece(port: int) -> None:
    """Pipelined requests are answered one after the other."""
    one = request("GET", "/healthz")
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(one + request("GET", "/nope"))
        received = b""
        while received.count(b"HTTP/1.1") < 2 or not received.endswith(b"}"):
            received += connection.recv(65536)
    assert [received[at + 9 : at + 12] for at in (0, received.rindex(b"HTTP/1.1"))] == [b"200", b"404"]


def test_a_root_path() -> None:
    """`--root-path`, for a proxy that takes a prefix off: everything is where it was, the document tells the prefix."""
    with serving("/assistant") as port, httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/healthz").status_code == 200
        assert client.post("/api/session/u/state", json={}).status_code == 200
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/assistant"}]
