"""A page is fetched from public addresses only, whatever form the address takes and whoever answers."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from samvad.errors import TooLarge, UrlFailed, UrlRefused
from samvad.knowledge.addresses import is_public
from samvad.knowledge.fetching import Fetcher

pytestmark = pytest.mark.anyio

PAGE = b"<html><body><p>The rate is fixed.</p></body></html>"


class Web:
    """A real server on loopback that answers what it is told to, and counts who came."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.requests: list[bytes] = []
        self.connections = 0
        self.tasks: set[asyncio.Task[None] | None] = set()
        self.answer: bytes | Callable[[bytes, asyncio.StreamWriter], Any] = page(PAGE)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            if callable(self.answer):
                await self.answer(head, writer)
            else:
                writer.write(self.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def page(body: bytes, *headers: bytes, kind: bytes = b"text/html; charset=utf-8") -> bytes:
    """An answer with a body."""
    lines = [b"HTTP/1.1 200 OK", b"content-type: " + kind, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"connection: close", b"", body])


def redirect(location: str, status: int = 302) -> bytes:
    """An answer that sends elsewhere."""
    return f"HTTP/1.1 {status} Elsewhere\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()


@asynccontextmanager
async def web(host: str = "127.0.0.2") -> AsyncIterator[Web]:
    """127.0.0.2 plays the public internet here, 127.0.0.1 the inside."""
    found: Web

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await found.serve(reader, writer)

    server = await asyncio.start_server(serve, host, 0)
    found = Web(host, server.sockets[0].getsockname()[1])
    async with server:
        yield found
        for task in found.tasks:
            if task is not None:
                task.cancel()


OUTSIDE = ipaddress.ip_network("127.0.0.2/32")


def fetcher(*ports: int, **settings: Any) -> Fetcher:
    """One that takes 127.0.0.2 for public."""
    return Fetcher(allowed=[OUTSIDE], ports=[80, 443, *ports], **settings)


def names(**known: Sequence[str]) -> Callable[[str, int], Any]:
    """A resolver; each question takes the next answer of a name, the last one again and again."""
    asked: dict[str, int] = {}

    async def resolve_host(host: str, port: int) -> list[Any]:
        number = asked[host] = asked.get(host, -1) + 1
        answers = known[host.partition(".")[0]]
        return [ipaddress.ip_address(a) for a in answers[min(number, len(answers) - 1)].split(",")]

    return resolve_host


async def test_a_page_is_fetched() -> None:
    """The good case: the page, its kind, its character set, where it was found."""
    async with web() as site:
        site.answer = page(PAGE)
        fetched = await fetcher(site.port).fetch(site.url + "/a?b=c#part")
    assert (fetched.data, fetched.kind, fetched.charset) == (PAGE, "html", "utf-8")
    assert fetched.url == site.url + "/a?b=c"
    head = site.requests[0].lower()
    assert b"host: 127.0.0.2:%d\r\n" % site.port in head
    assert b"cookie" not in head and b"authorization" not in head


async def test_redirects_are_followed_to_their_end() -> None:
    """Relative ones as well; after five there is an end."""
    async with web() as site:

        async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
            step = int(head.split(b" ")[1][1:] or b"0")
            writer.write(page(PAGE) if step == 5 else redirect(f"/{step + 1}"))

        site.answer = answer
        assert (await fetcher(site.port).fetch(site.url + "/0")).url == site.url + "/5"
        site.answer = redirect("/again")
        with pytest.raises(UrlFailed, match="more than 5"):
            await fetcher(site.port).fetch(site.url)


async def test_a_packed_page_is_unpacked_within_the_bound() -> None:
    """Gzip is understood; a bomb ends at the bound of bytes."""
    async with web() as site:
        site.answer = page(gzip.compress(PAGE), b"content-encoding: gzip")
        assert (await fetcher(site.port).fetch(site.url)).data == PAGE
        site.answer = page(gzip.compress(bytes(50_000_000)), b"content-encoding: gzip")
        with pytest.raises(TooLarge):
            await fetcher(site.port, bytes_max=1_000_000).fetch(site.url)
        site.answer = page(gzip.compress(PAGE)[:-9], b"content-encoding: gzip")
        with pytest.raises(UrlFailed):
            await fetcher(site.port).fetch(site.url)
        site.answer = page(PAGE, b"content-encoding: br")
        with pytest.raises(UrlFailed, match="br"):
            await fetcher(site.port).fetch(site.url)


# Ways to write an address of the inside. {port} is that of a server there which nobody may reach.
INSIDE = [
    "http://127.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://127.0.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.0.0.1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://017700000001:{port}/",
    "http://0:{port}/",
    "http://0.0.0.0:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST:{port}/",
    "http://localhost.:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://①②⑦.⓪.⓪.①:{port}/",
    "http://127。0。0。1:{port}/",
    "http://[::1]:{port}/",
    "http://[0:0:0:0:0:0:0:1]:{port}/",
    "http://[::]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[2001:0:7f00:1::80ff:fffe]:{port}/",
    "http://[fe80::1%25lo]:{port}/",
    "http://[fe80::1%lo]:{port}/",
    "http://user:secret@127.0.0.2:{port}/",
    "http://user@127.0.0.2:{port}/",
    "http://127.0.0.2:{port}@127.0.0.1:{port}/",
    "http://127.0.0.2:{port}\\@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\.example.com/",
    "http://127.0.0.2 127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\t/",
    "http://127.0.0.1%0d%0a:{port}/",
    "http://127.0.0.1%2f@127.0.0.2:{port}/",
    "http:127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "127.0.0.1:{port}",
    "https://127.0.0.1:{port}/",
    "http://127.0.0.1:22/",
    "http://127.0.0.2:6379/",
    "http://127.0.0.2:0/",
    "http://127.0.0.2:99999/",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://0xa9fea9fe/",
    "http://[::ffff:169.254.169.254]/",
    "http://[fd00:ec2::254]/",
    "http://168.63.129.16/",
    "http://100.100.100.200/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[fc00::1]/",
    "http://[ff02::1]/",
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "ftp://127.0.0.2/",
    "gopher://127.0.0.1:{port}/_x",
    "data:text/html,<p>x</p>",
    "javascript:alert(1)",
    "unix:///tmp/socket",
    "ws://127.0.0.1:{port}/",
    "",
    "http://",
    "http://" + "a" * 3_000,
]


@pytest.mark.parametrize("url", INSIDE)
async def test_no_form_of_an_address_reaches_the_inside(url: str) -> None:
    """Refused before a connection is made, asked for directly or by a redirect of a public page."""
    async with web("127.0.0.1") as inside, web() as outside:
        ports = [inside.port, outside.port]
        target = url.format(port=inside.port)
        with pytest.raises((UrlRefused, UrlFailed)):
            await fetcher(*ports).fetch(target)
        outside.answer = redirect(target.encode("utf-8").decode("latin-1"))
        if target and target.isprintable():  # an empty Location is none
            with pytest.raises((UrlRefused, UrlFailed)):
                await fetcher(*ports).fetch(outside.url)
    assert inside.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_reaches_the_inside(status: int) -> None:
    """Each kind of redirect is judged as the first address was."""
    async with web("127.0.0.1") as inside, web() as outside:
        outside.answer = redirect(inside.url, status)
        with pytest.raises(UrlRefused):
            await fetcher(inside.port, outside.port).fetch(outside.url)
    assert (outside.connections, inside.connections) == (1, 0)


async def test_what_dns_says_later_does_not_matter() -> None:
    """A name that is public when it is judged and inside a moment later: the connection goes where it was judged."""
    async with web("127.0.0.1") as inside, web() as outside:
        ask = fetcher(inside.port, outside.port, resolve_host=names(rebinds=["127.0.0.2", "127.0.0.1"]))
        assert (await ask.fetch(f"http://rebinds.example:{outside.port}/")).data == PAGE
        with pytest.raises(UrlRefused):
            await ask.fetch(f"http://rebinds.example:{outside.port}/")
    assert inside.connections == 0


async def test_a_name_that_points_both_ways_is_refused() -> None:
    """One address inside among public ones is enough."""
    async with web("127.0.0.1") as inside, web() as outside:
        both = fetcher(outside.port, inside.port, resolve_host=names(both=["127.0.0.2,127.0.0.1"]))
        with pytest.raises(UrlRefused):
            await both.fetch(f"http://both.example:{inside.port}/")
    assert (inside.connections, outside.connections) == (0, 0)


async def test_endless_and_slow_bodies_end() -> None:
    """A body without end meets the bound of bytes, one that trickles the bound of time."""

    async def endless(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    async def trickling(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0)

    async def silent(_: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with web() as site:
        site.answer = endless
        with pytest.raises(TooLarge):
            await fetcher(site.port, bytes_max=1_000_000).fetch(site.url)
        for slow in (trickling, silent):
            site.answer = slow
            with pytest.raises(UrlFailed, match="within"):
                await fetcher(site.port, seconds_max=0.5).fetch(site.url)
        site.answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 99999999999\r\n\r\n"
        with pytest.raises(TooLarge):
            await fetcher(site.port).fetch(site.url)


@pytest.mark.parametrize("kind", [b"image/png", b"application/zip", b"application/json", b"", b"text/css"])
async def test_other_kinds_of_content_are_not_read(kind: bytes) -> None:
    """Only documents."""
    async with web() as site:
        site.answer = page(b"\x89PNG", kind=kind)
        with pytest.raises(UrlFailed, match="not read"):
            await fetcher(site.port).fetch(site.url)


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nx" * 9_000, b"HTTP/1.1 302 Found\r\n\r\n", redirect("")],
)
async def test_broken_answers_are_one_sentence(answer: bytes) -> None:
    """Whatever a server answers, the caller is told in words."""
    async with web() as site:
        site.answer = answer
        with pytest.raises((UrlFailed, UrlRefused)):
            await fetcher(site.port).fetch(site.url)


async def test_status_and_unknown_host_are_told() -> None:
    """404 is not a document, and a host that is not known is not a fault of ours."""
    async with web() as site:
        site.answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
        with pytest.raises(UrlFailed, match="404"):
            await fetcher(site.port).fetch(site.url)
    with pytest.raises(UrlFailed, match="not known"):
        await Fetcher().fetch("http://no-such-host.invalid/")


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would connect on our behalf, past every judgement."""
    async with web("127.0.0.1") as proxy, web() as site:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert (await fetcher(site.port).fetch(site.url)).data == PAGE
    assert proxy.connections == 0


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_public(address: str) -> None:
    """The guard does not refuse what it is there for."""
    assert is_public(ipaddress.ip_address(address))
