"""GET /talk in a real browser, with a microphone that plays a file, against a real server."""

from __future__ import annotations

import array
import asyncio
import contextlib
import copy
import json
import math
import re
import shutil
import threading
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from samvad.testing.gemini import FakeGeminiLive, Heard, Say
from tests.cli.processes import Server, run
from tests.support import loudly_skip, wait_until

pytestmark = pytest.mark.browser
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *(
        "--disable-sync",
        "--no-first-run",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
    ),
    "--autoplay-policy=no-user-gesture-required",
)
LOANS = """# Home loans

For a home loan you need an identity card. You also need proof of income for the last six months. The interest rate is
8.5 percent a year, and it is fixed for five years. A home loan runs for up to thirty years.
"""
QUESTION = "What do I need for a home loan?"
END = "(Source: Home loans)"
LONG = "You need an identity card, proof of income, two photographs and some patience."
WORD_MS = 1_000  # of an answer that takes long enough to be interrupted on any machine: 13 s

Launch = Callable[[Path | None], Any]


@pytest.fixture(scope="module")
def launch() -> Iterator[Launch]:
    """Debian's chromium, driven by Playwright; its microphone plays a file (or beeps)."""
    chromium = shutil.which("chromium")
    if chromium is None:
        loudly_skip("there is no chromium (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    browsers: list[Any] = []
    with sync_playwright() as playwright:

        def launched(microphone: Path | None = None) -> Any:
            plays = [f"--use-file-for-fake-audio-capture={microphone}"] if microphone is not None else []
            browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, *plays])
            browsers.append(browser)
            return browser

        yield launched
        for browser in browsers:
            browser.close()


class Tab:
    """One tab on /talk, with all that it asked for and complained of."""

    def __init__(self, context: Any, url: str, fragment: str = "") -> None:
        self.page = context.new_page()
        self.handshakes: list[dict[str, str]] = []
        self.network = context.new_cdp_session(self.page)
        self.network.send("Network.enable")
        self.network.on(
            "Network.webSocketWillSendHandshakeRequest",
            lambda event: self.handshakes.append(event["request"]["headers"]),
        )
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.sent: list[dict[str, Any]] = []  # frames, as objects
        self.sent_audio_bytes = 0
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", self._follow)
        self.page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type != "log" else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.answer = self.page.goto(f"{url}/talk?user=asha{fragment}")
        self.host = urlsplit(url).netloc
        if "token=" in fragment:
            self.confirm("asha")
        self.ready()

    def _follow(self, socket: Any) -> None:
        self.asked.append(socket.url)
        socket.on("framesent", self._note)

    def _note(self, frame: str | bytes) -> None:
        if isinstance(frame, bytes):
            self.sent_audio_bytes += len(frame)
        else:
            self.sent.append(json.loads(frame))

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something is so; the page goes on meanwhile."""

        def holds() -> bool:
            self.page.wait_for_timeout(20)  # what has happened in the browser is told now
            return condition()

        wait_until(holds, what)

    def heard(self, ms: int) -> None:
        """Wait until so much of the answer that is under way was played, as the page tells the server."""
        self.page.locator(".message.speaking").wait_for()
        before = len(self.sent)
        self.until(
            lambda: any(frame.get("playedMs", 0) >= ms for frame in self.sent[before:]),
            f"{ms} ms were played",
        )

    def ready(self) -> None:
        """Wait until the conversation stands."""
        self.page.wait_for_selector("#state[data-state=ready]")

    def confirm(self, name: str) -> None:
        """Say that one is the user whom a link names; nobody is asked anything before."""
        button = self.page.get_by_role("button", name=f"Go on as {name}", exact=True)
        button.wait_for()
        assert self.handshakes == []
        button.click()

    def write(self, text: str) -> None:
        """Type and send."""
        self.page.get_by_label("Write").fill(text)
        self.page.keyboard.press("Enter")

    def shows(self, text: str) -> None:
        """Wait until this stands in a bubble."""
        self.page.locator(".bubble", has_text=text).first.wait_for()

    def bubbles(self) -> list[str]:
        """What the bubbles say, in order; what was not heard stands in ~tildes~."""
        found: list[str] = self.page.locator(".bubble").evaluate_all(
            """all => all.map(each => [...each.childNodes].map(part =>
                part.className === "unheard" ? `~${part.textContent.trim()}~` : part.textContent).join(""))"""
        )
        return found

    def blameless(self) -> None:
        """Nothing went wrong, and no other host was asked."""
        assert not [
            url for url in self.asked if not url.startswith("data:") and urlsplit(url).netloc != self.host
        ]
        assert not self.complaints


def history(server: Server) -> list[dict[str, Any]]:
    """What is kept of asha."""
    messages: list[dict[str, Any]] = server.request("GET", "/api/session/asha/history")[1]["messages"]
    return messages


def recording(path: Path, *parts: tuple[float, bool]) -> Path:
    """A file of so many seconds of a voice (True) or of nothing (False), part by part."""
    rate = 16_000
    samples = array.array("h")
    for seconds, loud in parts:
        for at in range(int(rate * seconds)):
            tone = math.sin(at * 2 * math.pi * 220 / rate) * (
                0.6 + 0.4 * math.sin(at * 2 * math.pi * 4 / rate)
            )
            samples.append(int(12_000 * tone) if loud else 0)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


@contextlib.contextmanager
def a_model() -> Iterator[FakeGeminiLive]:
    """The fake Gemini Live, on a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    fake = FakeGeminiLive()
    asyncio.run_coroutine_threadsafe(fake.start(), loop).result(30)
    try:
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(fake.stop(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of a server that answers from a document."""
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "loans.md").write_text(LOANS, encoding="utf-8")
    monkeypatch.setenv("SAMVAD_LIVE_DOCUMENTS", str(folder))
    return ["--data-dir", str(tmp_path / "data")]


def test_in_writing_on_two_pages_of_one_user(tmp_path: Path, launch: Launch, documents: list[str]) -> None:
    """Answers stream, an interruption is seen, the rest comes on demand, and the other page is in step."""
    with Server(tmp_path, *documents) as server:
        context = launch(None).new_context()
        one, other = Tab(context, server.url), Tab(context, server.url)
        one.write(QUESTION)
        one.shows("identity card. You also need")
        one.page.keyboard.press("Escape")
        one.page.get_by_role("button", name="Go on").wait_for()
        kept = wait_until(lambda: len(history(server)) > 1 and history(server), "what was heard is kept")
        assert kept[1]["interrupted"] is True
        assert one.bubbles() == [QUESTION, f"{kept[1]['content']}~{kept[1]['unheardText']}~"]
        other.shows("identity card")
        assert other.bubbles() == one.bubbles()
        one.page.get_by_role("button", name="Go on").click()
        other.page.locator(".message", has_text=END).nth(1).wait_for()
        other.write("धन्यवाद")
        one.shows("स्वागत")
        assert one.bubbles() == other.bubbles()
        said = one.bubbles()[2:]
        wait_until(lambda: [each["content"] for each in history(server)][2:] == said, "all of it is kept")
        assert one.page.locator(".from").count() == 2
        policy = one.answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        one.blameless()
        other.blameless()
        context.close()


def test_it_reconnects_and_a_reload_loses_nothing(
    tmp_path: Path, launch: Launch, documents: list[str]
) -> None:
    """The server dies in mid-answer: the page connects again and the answer goes on. Reloaded, all is there."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(tmp_path, *documents))
        context = launch(None).new_context()
        tab = Tab(context, server.url)
        tab.write(QUESTION)
        tab.shows("identity card. You also need")
        server.process.kill()
        server.process.wait()
        tab.page.wait_for_selector("#state[data-state=reconnecting]")
        again = stack.enter_context(Server(tmp_path, *documents, "--port", str(server.address[1])))
        tab.ready()
        # It goes on with the rest, or, where too little was heard for that, says it again.
        tab.page.locator(".message.assistant:not(.speaking):not(:has(.cut))", has_text=END).wait_for()
        shown = tab.bubbles()
        assert [each["content"] for each in history(again) if each["role"] == "user"] == [QUESTION]
        assert history(again)[-1]["content"].endswith(END)
        tab.page.reload()
        tab.ready()
        assert tab.bubbles() == shown
        context.close()


class Asked:
    """A server that asks for tokens, and what mints them."""

    def __init__(self, tmp_path: Path) -> None:
        self.key = run(["keys", "create", "--name", "back end"], tmp_path).stdout.strip()
        self.arguments = ("--auth", "required")

    def token(self, server: Server, ttl_s: int) -> str:
        """A token of asha's."""
        body, headers = {"userId": "asha", "ttlSeconds": ttl_s}, {"authorization": f"Bearer {self.key}"}
        status, answer = server.request("POST", "/api/auth/tokens", body, headers)
        assert status == 200
        return str(answer["token"])

    def may(self, server: Server) -> bool:
        """Whether the server knows the key."""
        headers = {"authorization": f"Bearer {self.key}"}
        return server.request("POST", "/api/auth/tokens", {"userId": "asha"}, headers)[0] == 200


def test_a_token_behind_the_hash(tmp_path: Path, launch: Launch, documents: list[str]) -> None:
    """It reaches the socket as a subprotocol, leaves the address, stands in no URL, and another one renews it."""
    asked = Asked(tmp_path)
    with Server(tmp_path, *documents, *asked.arguments) as server:
        context = launch(None).new_context()
        first, second = asked.token(server, 50), asked.token(server, 600)
        tab = Tab(context, server.url, f"#token={first}")
        address = f"{server.url}/talk?user=asha"
        assert tab.page.url == tab.page.evaluate("location.href") == address
        assert f"samvad.bearer.{first}" in tab.handshakes[0]["Sec-WebSocket-Protocol"].split(", ")
        tab.page.get_by_text("The token of this page ends in").wait_for()  # the warning of the last minute
        tab.page.evaluate("token => { location.hash = 'token=' + token; }", second)
        tab.page.locator("#notice").wait_for(state="hidden")
        assert {"type": "renew_token", "token": second} in tab.sent
        assert tab.page.evaluate("location.href") == address and len(tab.handshakes) == 1
        tab.write(QUESTION)
        tab.shows("identity card")
        tab.page.reload()  # the window remembers it
        tab.ready()
        assert f"samvad.bearer.{second}" in tab.handshakes[1]["Sec-WebSocket-Protocol"].split(", ")
        headers = [json.dumps(each) for each in tab.handshakes]
        assert not [url for url in tab.asked if "samvad_t1" in url or first in url or second in url]
        assert not [each for each in headers if "samvad_t1" in each.replace("samvad.bearer.samvad_t1", "")]
        assert tab.page.evaluate("document.cookie + JSON.stringify(localStorage)").count("samvad_t1") == 0
        tab.blameless()
        context.close()


def test_no_link_makes_anybody_somebody(tmp_path: Path, launch: Launch, documents: list[str]) -> None:
    """A token that a link brings is used when they who look at the page have said that they are that user, in that
    tenant; also where the page is open already. A key of programs is not taken.
    """
    asked = Asked(tmp_path)
    options = ["keys", "create", "--name", "theirs", "--tenant", "theirs"]
    with Server(tmp_path, *documents, *asked.arguments) as server:
        context = launch(None).new_context()
        token = asked.token(server, 600)
        page = context.new_page()
        sockets: list[str] = []
        page.on("websocket", lambda socket: sockets.append(socket.url))
        page.goto(f"{server.url}/talk?user=asha#token={token}")
        button = page.locator("#notice-do")
        button.wait_for()
        assert "for asha." in page.locator("#notice").inner_text()
        assert page.evaluate("location.href") == f"{server.url}/talk?user=asha"
        assert (
            page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])").count("samvad_t1") == 0
        )
        other = copy.copy(asked)
        other.key = run(options, tmp_path).stdout.strip()
        wait_until(lambda: other.may(server), "the key is known")
        page.evaluate("token => { location.hash = 'token=' + token; }", other.token(server, 600))
        page.get_by_role("button", name="Go on as asha of theirs").wait_for()
        page.evaluate("token => { location.hash = 'token=' + token; }", asked.key)
        page.get_by_text("API key").wait_for()
        assert sockets == [] and button.is_hidden()
        page.evaluate("token => { location.hash = 'token=' + token; }", token)
        button.click()
        page.wait_for_selector("#state[data-state=ready]")
        assert len(sockets) == 1
        # Who is somebody already does not become another in another tenant either.
        page.evaluate("token => { location.hash = 'token=' + token; }", other.token(server, 600))
        page.get_by_role("button", name="Go on as asha of theirs").wait_for()
        context.close()


def test_a_token_that_has_ended(tmp_path: Path, launch: Launch, documents: list[str]) -> None:
    """The page says so, and goes on in the same session with another one that is put behind the hash."""
    asked = Asked(tmp_path)
    with Server(tmp_path, *documents, *asked.arguments) as server:
        context = launch(None).new_context()
        tab = Tab(context, server.url, f"#token={asked.token(server, 6)}")
        tab.write(QUESTION)
        tab.shows(QUESTION)
        tab.page.wait_for_selector("#state[data-state=over]")
        tab.page.get_by_text("The token of this page has expired").wait_for()
        assert (
            tab.bubbles() == []
        )  # nothing stays on the screen, or in the browser, of who may not see it any more
        stored = "JSON.stringify([{...localStorage}, {...sessionStorage}])"
        assert "samvad_t1" not in tab.page.evaluate(stored)
        assert "samvad.user" not in tab.page.evaluate("JSON.stringify({...localStorage})")
        session = tab.page.evaluate("sessionStorage['samvad.session']")
        tab.page.evaluate("token => { location.hash = 'token=' + token; }", asked.token(server, 600))
        tab.ready()
        starts = [each.get("sessionId") for each in tab.sent if each["type"] == "start_session"]
        assert session and starts == [None, session]
        tab.shows(QUESTION)
        assert "token" not in tab.page.evaluate("location.href")
        tab.blameless()
        context.close()


def test_by_voice_push_to_talk(tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speak, be answered, interrupt by speaking, be answered; reload in mid-answer, and go on."""
    microphone = recording(tmp_path / "voice.wav", (2.0, True))
    with a_model() as model:
        for name, value in {**model.environment("gemini"), "SAMVAD_LIVE_PROVIDER": "gemini"}.items():
            monkeypatch.setenv(name, value)
        model.reply(Heard("what do I need for a home loan"), Say(LONG, ms_per_word=WORD_MS))
        model.reply(Heard("wait, which papers?"), Say("The deed and the plan of the house."))
        model.reply(Heard("tell me all of it once more"), Say(LONG, ms_per_word=WORD_MS))
        with Server(tmp_path, "--data-dir", str(tmp_path / "data")) as server:
            context = launch(microphone).new_context(permissions=["microphone"])
            tab = Tab(context, server.url)
            hold = tab.page.get_by_role("button", name="Hold to talk")

            def speak() -> None:
                before = tab.sent_audio_bytes
                hold.hover()
                tab.page.mouse.down()
                tab.page.wait_for_selector("#hold[data-live=true]")
                tab.until(lambda: tab.sent_audio_bytes > before + 6_400, "200 ms of speech were sent")
                tab.page.mouse.up()

            speak()
            tab.shows("what do I need for a home loan")
            tab.shows("two photographs")
            tab.heard(WORD_MS + 100)
            speak()
            tab.shows("wait, which papers?")
            tab.shows("The deed and the plan of the house.")
            tab.page.locator(".unheard").wait_for()
            cut = wait_until(lambda: len(history(server)) > 3 and history(server), "both answers are kept")[1]
            assert cut["interrupted"] is True and f"{cut['content']} {cut['unheardText']}" == LONG
            assert cut["content"] and cut["unheardText"]
            speak()
            tab.shows("tell me all of it once more")
            tab.page.locator(".message.speaking", has_text="two photographs").wait_for()
            tab.heard(3 * WORD_MS + 100)  # a fifth of it, so that it can be resumed
            tab.page.reload()
            tab.ready()
            assert tab.page.locator(".unheard").count() == 2
            tab.page.get_by_role("button", name="Go on").click()
            tab.page.locator(".message.assistant").nth(3).wait_for()
            tab.blameless()
            context.close()


def test_by_voice_hands_free(tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is pressed: the page notices by itself that somebody speaks, and when they have ended."""
    microphone = recording(tmp_path / "voice.wav", (1.0, False), (1.2, True), (2.5, False))
    with a_model() as model:
        for name, value in {**model.environment("gemini"), "SAMVAD_LIVE_PROVIDER": "gemini"}.items():
            monkeypatch.setenv(name, value)
        model.reply(Heard("hello there"), Say("Hello! How can I help?"))
        with Server(tmp_path, "--data-dir", str(tmp_path / "data")) as server:
            context = launch(microphone).new_context(permissions=["microphone"])
            tab = Tab(context, server.url)
            tab.page.get_by_label("Hands-free").check()
            tab.shows("hello there")
            tab.shows("Hello! How can I help?")
            tab.page.get_by_label("Hands-free").uncheck()
            tab.blameless()
            context.close()


def test_on_a_phone_by_keyboard_and_for_screen_readers(
    tmp_path: Path, launch: Launch, documents: list[str]
) -> None:
    """Nothing hangs over the edge, everything has a name, and a language that is chosen stays."""
    with Server(tmp_path, *documents) as server:
        context = launch(None).new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
        tab = Tab(context, server.url)
        unnamed = tab.page.locator("input, textarea, select").evaluate_all(
            "all => all.filter(each => !each.labels.length).map(each => each.outerHTML)"
        )
        assert unnamed == []
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert tab.page.evaluate(wide) == 0
        tab.page.get_by_label("Language").select_option("hi")
        tab.write("qwertyuiop " * 10 + "x" * 200)
        tab.page.locator(".message.assistant").wait_for()
        assert tab.page.evaluate(wide) == 0
        assert re.search(r"[\u0900-\u097f]", tab.bubbles()[1]) is not None  # it does not know, in Hindi
        tab.page.reload()
        tab.ready()
        assert tab.page.get_by_label("Language").input_value() == "hi"
        tab.blameless()
        context.close()
