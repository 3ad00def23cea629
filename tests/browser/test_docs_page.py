"""GET /docs in a real browser: it lists, it tries, and it asks no other host."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from samvad import open_samvad
from samvad.http.app import create_app, routes
from tests.http.support import serving
from tests.support import loudly_skip

pytestmark = pytest.mark.browser
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, driven by Playwright."""
    chromium = shutil.which("chromium")
    if chromium is None:
        loudly_skip("there is no chromium (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield browser
        browser.close()


class Visit:
    """One page, with all that it asked for and complained of."""

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        self.page = browser.new_context(**settings).new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type != "log" else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.answer = self.page.goto(url)
        self.page.wait_for_selector("details.op")
        self.host = urlsplit(url).netloc

    def leave(self) -> None:
        """Nothing may have gone wrong, and no other host been asked."""
        others = [
            url for url in self.asked if not url.startswith("data:") and urlsplit(url).netloc != self.host
        ]
        self.page.context.close()
        assert not others
        assert not self.complaints

    def open(self, operation: str) -> Any:
        """Unfold an operation; its form."""
        self.page.locator(f"#{operation} > summary").click()
        return self.page.locator(f"#try-{operation}")


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    """The page of a server of its own."""
    with serving() as port:
        visit = Visit(browser, f"http://127.0.0.1:{port}/docs")
        yield visit
        visit.leave()


def test_it_lists_every_operation(visit: Visit) -> None:
    """Every route has its entry, in the list and in the navigation, with method, path and summary."""
    told = "all => all.map(each => [each.id, each.querySelector('summary').innerText])"
    listed = dict(visit.page.locator("details.op").evaluate_all(told))
    assert set(listed) == {route.name for route in routes()}
    for route in routes():
        assert route.method in listed[route.name] and route.path in listed[route.name]
    assert visit.page.locator("nav a").count() == len(routes())


def test_every_operation_unfolds(visit: Visit) -> None:
    """Each entry shows its answers, and its fields where it has any."""
    operations = visit.page.locator("details.op")
    visit.page.locator("details.op > summary").evaluate_all("all => all.forEach(each => each.click())")
    visit.page.locator("details.op:not(:has(.answer))").first.wait_for(state="detached")
    forms = operations.evaluate_all(
        "all => all.map(each => each.open && each.querySelectorAll('form').length)"
    )
    assert forms == [1] * len(routes())
    visit.page.locator("details details").evaluate_all("all => all.forEach(each => { each.open = true; })")
    text = visit.page.locator("main").inner_text()
    assert "[object" not in text and "undefined" not in text and "`" not in text
    assert visit.page.locator("#appendToUserHistory").get_by_text("toolCallId").count() >= 1


def test_trying_a_stream(visit: Visit) -> None:
    """It has no end: what comes at first is shown."""
    form = visit.open("liveEvents")
    form.get_by_label("userId query").fill("somebody")
    form.get_by_role("button", name="Send").click()
    body = form.locator("pre.body")
    body.wait_for()
    assert "event: ready" in body.inner_text()


def test_trying_it(visit: Visit) -> None:
    """A POST of history is sent and its answer shown, with status, headers, body and the curl line."""
    form = visit.open("appendToUserHistory")
    form.get_by_label("userId path").fill("उपयोगकर्ता/४५६")
    form.get_by_label("Body application/json").fill('{"role":"user","content":"it\'s me"}')
    curl = form.locator(".curl").inner_text()
    assert curl.startswith("curl -X POST 'http://127.0.0.1:")
    assert "it'\\''s me" in curl and "%2F" in curl and "-H 'Content-Type: application/json'" in curl
    form.get_by_role("button", name="Send").click()
    form.locator(".status").wait_for()
    assert form.locator(".status").inner_text().startswith("400")  # a slash is in no id
    visit.complaints.clear()  # the browser itself reports that 400
    form.get_by_label("userId path").fill("उपयोगकर्ता ४५६")
    with visit.page.expect_response("**/history") as sent:
        form.get_by_role("button", name="Send").click()
    assert sent.value.status == 200
    form.locator(".status", has_text="200").wait_for()
    shown = json.loads(form.locator(".body").inner_text())
    assert (shown["success"], shown["seq"], shown["userId"]) == (True, 1, "उपयोगकर्ता ४५६")
    assert "content-type: application/json" in form.locator(".headers").inner_text()


def test_headers_and_examples(visit: Visit) -> None:
    """Header parameters are sent, and another example fills the body."""
    form = visit.open("saveUserState")
    form.get_by_label("Example").select_option(label="remove a field")
    assert json.loads(form.get_by_label("Body application/json").input_value()) == {
        "conversationContext": {"lastIntent": None}
    }
    form.get_by_label("If-None-Match header").fill("*")
    with visit.page.expect_request("**/state") as sent:
        form.get_by_role("button", name="Send").click()
    assert sent.value.headers["if-none-match"] == "*"
    form.locator(".status", has_text="200").wait_for()
    assert 'etag: "0-1"' in form.locator(".headers").inner_text()


def test_the_keyboard_is_enough(visit: Visit) -> None:
    """Everything can be reached and done without a mouse."""
    visit.page.locator("#healthz > summary").focus()
    visit.page.keyboard.press("Enter")
    form = visit.page.locator("#try-healthz")
    form.get_by_role("button", name="Send").focus()
    visit.page.keyboard.press("Enter")
    form.locator(".status", has_text="200").wait_for()
    unnamed = visit.page.locator("input, textarea, select").evaluate_all(
        "all => all.filter(each => !each.labels.length).map(each => each.outerHTML)"
    )
    assert unnamed == []


def test_filtering(visit: Visit) -> None:
    """The filter leaves what holds all of its words."""
    visit.page.get_by_label("Filter").fill("post history")
    shown = visit.page.locator("details.op:visible")
    assert [shown.nth(at).get_attribute("id") for at in range(shown.count())] == ["appendToUserHistory"]
    visit.page.get_by_label("Filter").fill("")
    assert visit.page.locator("details.op:visible").count() == len(routes())


def test_the_policy_is_in_force(visit: Visit) -> None:
    """A script that is put into the page does not run, and no other host can be asked."""
    assert "default-src 'none'" in visit.answer.headers["content-security-policy"]
    ran = visit.page.evaluate(
        """() => {
            const script = document.createElement("script");
            const notes = [];
            const attempt = (work) => { try { work(); } catch (error) { notes.push(error.name); } };
            const inline = document.createElement("div");
            attempt(() => { script.textContent = "window.ran = true"; });
            attempt(() => document.head.append(script));
            attempt(() => { inline.innerHTML = "<img src=x onerror='window.ran = true'>"; });
            attempt(() => setTimeout("window.ran = true", 0));
            inline.setAttribute("style", "color: red");
            return [window.ran === true, notes.length, inline.style.color];
        }"""
    )
    assert ran == [False, 3, ""]  # trusted types refuse the texts; nothing of them ran
    blocked = visit.page.evaluate("() => fetch('http://127.0.0.1:1/').then(() => '', error => error.name)")
    assert blocked == "TypeError"
    assert len([said for said in visit.complaints if "Content Security Policy" in said]) >= 2
    visit.complaints.clear()
    visit.asked.clear()


def test_below_a_path_on_a_phone(browser: Any) -> None:
    """Mounted two levels down, on a narrow dark screen, it works and nothing hangs over the edge."""
    samvad = open_samvad("memory://")
    inner: Any = create_app(samvad)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with samvad:
            yield

    app = Starlette(routes=[Mount("/my/assistant", app=inner)], lifespan=lifespan)
    with serving(app=app) as port:
        visit = Visit(
            browser,
            f"http://127.0.0.1:{port}/my/assistant/docs#healthz",
            viewport={"width": 390, "height": 844},
            color_scheme="dark",
            has_touch=True,
        )
        form = visit.page.locator("#try-healthz")
        assert "/my/assistant/healthz" in form.locator(".curl").inner_text()
        form.get_by_role("button", name="Send").tap()
        form.locator(".status", has_text="200").wait_for()
        for route in ("batch", "appendToUserHistory"):
            visit.open(route)
        wide = visit.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide == 0
        visit.leave()
