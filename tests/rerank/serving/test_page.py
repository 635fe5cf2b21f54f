"""The page at `/`, in a real browser, against a real server.

The page's policy forbids scripts to evaluate text, which playwright's `evaluate` and
`wait_for_function` do: what is asked of the page is asked by selectors, or of the browser.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from dipair_index.encoders.dual_encoder import DualEncoder
from dipair_index.rerank.serving.page_routes import STATIC_FOLDER

Serve = Callable[..., AbstractContextManager[Any]]
TIMEOUT_MS = 60_000
ALL_SHOWN = '#results[aria-busy="false"] #after .card'
HOSTILE = "<img src=x onerror=\"document.title='broken'\"> 🐝🐝 the queen & bees </script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no Chromium: install Debian's package chromium")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=chromium,
            # containers have little of /dev/shm
            args=["--no-sandbox", "--disable-dev-shm-usage"],
            timeout=TIMEOUT_MS,
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages; whatever a script or the policy of the page complains about fails the test."""
    complaints: list[str] = []
    contexts = []

    def opened(url: str, **settings: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}, **settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text))
        page.goto(url)
        page.wait_for_selector("#facts dd")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def ids(page: Any, column: str) -> list[str]:
    cards = page.locator(f"#{column} .card")
    return [cards.nth(row).get_attribute("data-id") for row in range(cards.count())]


def asked(page: Any, query: str) -> None:
    """Asks a query, and waits until the passages and what matched in them are shown."""
    page.fill("#query", query)
    page.press("#query", "Enter")
    page.wait_for_selector(ALL_SHOWN)


def test_nothing_is_loaded_from_elsewhere_and_no_markup_is_made_of_texts(client: Any) -> None:
    answer = client.ask("GET", "/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    linked = re.findall(r'(?:src|href)="(static/[^"]+)"', answer.body)
    assert {"static/app.js", "static/style.css"} <= set(linked)
    for path in STATIC_FOLDER.iterdir():
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|[\"'(]//", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert client.ask("GET", f"/static/{path.name}").status == 200


@pytest.mark.browser
def test_both_orders_are_those_of_the_index(client: Any, open_page: Callable[..., Any]) -> None:
    query = "why does the moon dance"
    body = {"query": query, "candidates": 10, "top_k": 0, "raw_scores": True}
    results = client.post("/search", body)["results"]
    page = open_page(client.url)
    assert page.locator("#facts").inner_text().split()[:2] == ["passages", "24"]
    page.select_option("#candidates", "10")
    asked(page, query)
    assert ids(page, "after") == [each["id"] for each in results]
    by_vector = sorted(results, key=lambda each: each["retrieval_rank"])
    assert ids(page, "before") == [each["id"] for each in by_vector]
    first = page.locator("#after .card").first
    shown = first.locator(".measures").inner_text().replace("\u2212", "-").split()
    assert shown[shown.index("logit") + 1] == f"{results[0]['score']:.2f}"
    assert shown[shown.index("cosine") + 1] == f"{results[0]['retrieval_score']:.3f}"
    assert first.locator(".text").inner_text() == results[0]["text"]
    assert page.locator("#moves path").count() == 10
    for each in results:
        moved = each["retrieval_rank"] - each["rank"]
        kind = "up" if moved > 0 else "down" if moved < 0 else "same"
        line = page.locator(f'#moves path[data-id="{each["id"]}"]')
        assert line.get_attribute("class") == kind
        begin, end = re.findall(r"^M0 (\S+) .* (\S+)$", line.get_attribute("d"))[0]
        top = page.locator("#moves").bounding_box()["y"]
        for column, place in (("before", begin), ("after", end)):
            head = page.locator(f'#{column} [data-id="{each["id"]}"] .head').bounding_box()
            assert float(place) == pytest.approx(head["y"] + head["height"] / 2 - top, abs=1.5)
    legend = page.locator("#time .legend").inner_text()
    assert "encoding the query" in legend
    assert "vector search" in legend


@pytest.mark.browser
def test_an_address_asks_its_query_and_keys_go_through_the_results(
    client: Any, open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{client.url}/#q=the%20queen%20%26%20bees&candidates=30")
    page.wait_for_selector(ALL_SHOWN)
    assert page.input_value("#query") == "the queen & bees"
    assert page.input_value("#candidates") == "30"
    page.keyboard.press("Escape")
    page.locator("#query:focus").blur()
    page.keyboard.press("j")
    page.keyboard.press("j")
    focused = page.locator("#after .card:focus")
    assert focused.get_attribute("data-id") == ids(page, "after")[1]
    assert page.locator("#moves path.linked").get_attribute("data-id") == ids(page, "after")[1]
    page.keyboard.press("k")
    assert focused.get_attribute("data-id") == ids(page, "after")[0]
    page.keyboard.press("/")
    page.wait_for_selector("#query:focus")
    asked(page, "ice")
    page.wait_for_url(re.compile("#.*q=ice"))


@pytest.mark.browser
def test_texts_of_ones_own_are_shown_as_texts_with_their_matches_marked(
    exported: DualEncoder, serve_model: Serve, open_page: Callable[..., Any]
) -> None:
    """By a model without an index, whose logits change when a word is left out."""
    query, texts = "queen bees", [HOSTILE, "lava and ash", "the moon and the bees in winter"]
    wanted = {"relevant_spans": {"mode": "enabled", "threshold": 0}}
    with serve_model(exported) as client:
        ranked = client.post("/v2/rerank", {"query": query, "documents": texts})["results"]
        spans = []  # as the page asks for them, one by one
        for each in ranked:
            body = {"query": query, "documents": [texts[each["index"]]], **wanted}
            spans.append(client.post("/v2/rerank", body)["results"][0].get("relevant_spans", []))
        assert any(spans)
        page = open_page(client.url)
        page.click("#mode-texts")
        page.fill("#texts", "\n".join([*texts, "  ", ""]))
        asked(page, query)
        for row, (each, found) in enumerate(zip(ranked, spans, strict=True)):
            text, own = page.locator("#after .text").nth(row), texts[each["index"]]
            assert text.inner_text() == own
            marked = [own[span["start"] : span["end"]] for span in found]
            assert sorted(text.locator("mark").all_inner_texts()) == sorted(marked)
        assert ids(page, "before") == ["text 1", "text 2", "text 3"]
        assert page.title() == "dipair-index"
        assert page.locator("#results img").count() == 0


@pytest.mark.browser
def test_the_commands_ask_this_very_query(client: Any, open_page: Callable[..., Any]) -> None:
    query = 'it\'s "moon" \\ 🐝'
    page = open_page(client.url)
    asked(page, query)
    page.click("details.code summary")
    curl, python = page.locator("#snippets code").all_inner_texts()
    assert curl.startswith(f"curl {client.url}/search ")
    sent = curl.partition("-d '")[2].removesuffix("'").replace("'\\''", "'")
    assert json.loads(sent) == {"query": query, "candidates": 100, "top_k": 10}
    printed: list[Any] = []
    exec(python, {"print": printed.append})
    assert [each["id"] for each in printed] == ids(page, "after")[:10]


@pytest.mark.browser
def test_a_filter_narrows_the_search_and_is_in_address_and_commands(
    client: Any, open_page: Callable[..., Any]
) -> None:
    """The titles of the index are those of the passages whose metadata has column 0."""
    given = {"column": {"gte": 0}}
    body = {"query": "moon", "top_k": 0, "candidates": 30, "filter": given}
    results = client.post("/search", body)["results"]
    page = open_page(client.url)
    page.click("#filter-row summary")
    page.select_option("#candidates", "30")
    page.fill("#filter", json.dumps(given))
    asked(page, "moon")
    assert ids(page, "after") == [each["id"] for each in results]
    assert len(results) == 8
    curl, python = page.locator("#snippets code").all_text_contents()
    assert json.loads(curl.partition("-d '")[2].removesuffix("'"))["filter"] == given
    printed: list[Any] = []
    exec(python, {"print": printed.append})
    assert [each["id"] for each in printed] == ids(page, "after")
    address = page.url
    page.fill("#filter", '{"column": 1}')
    page.press("#filter", "Enter")
    page.locator("#status", has_text="no passage fulfils the filter").wait_for()
    assert not page.locator("#results").is_visible()
    page.fill("#filter", "column = 0")
    page.press("#filter", "Enter")
    page.locator("#status.error", has_text="The filter is no JSON").wait_for()
    other = open_page(address)
    other.wait_for_selector(ALL_SHOWN)
    assert json.loads(other.input_value("#filter")) == given
    assert ids(other, "after") == [each["id"] for each in results]


@pytest.mark.browser
def test_a_narrow_screen_shows_one_order_at_a_time(
    client: Any, open_page: Callable[..., Any]
) -> None:
    page = open_page(client.url, color_scheme="dark")
    page.set_viewport_size({"width": 380, "height": 800})
    asked(page, "moon")
    assert page.locator("#after").is_visible()
    assert not page.locator("#before").is_visible()
    page.click("#show-before")
    assert page.locator("#before").is_visible()
    assert not page.locator("#after").is_visible()
    asking = page.context.new_cdp_session(page)
    assert asking.send("Page.getLayoutMetrics")["cssContentSize"]["width"] <= 380
    (root,) = asking.send("DOM.getDocument", {"depth": 1})["root"]["children"][-1:]
    asking.send("CSS.enable")
    styles = asking.send("CSS.getComputedStyleForNode", {"nodeId": root["nodeId"]})
    (ground,) = (
        each["value"] for each in styles["computedStyle"] if each["name"] == "background-color"
    )
    assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 200


@pytest.mark.browser
def test_a_key_is_asked_for_and_errors_are_said(browser: Any, serve: Serve) -> None:
    with serve(api_key="secret") as (client, _):
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(client.url)
        page.wait_for_selector("#key-row:not([hidden])")
        assert "API key is missing" in page.locator("#status").inner_text()
        page.fill("#query", "moon")
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        page.locator("#status", has_text="wrong").wait_for()
        page.fill("#key", "secret")
        page.press("#key", "Enter")
        page.wait_for_selector(ALL_SHOWN)
        assert not page.locator("#key-row").is_visible()
        page.fill("#query", "   ")
        page.press("#query", "Enter")
        assert page.locator("#status").inner_text() == "Type a query first."
        page.fill("#query", "moon")
        page.click("#filter-row summary")
        page.fill("#filter", '{"year": {"above": 1}}')
        page.press("#filter", "Enter")
        page.locator("#status.error", has_text="unknown bound 'above'").wait_for()
    page.fill("#query", "moon")
    page.press("#query", "Enter")
    page.wait_for_selector("#status.error")
    assert "cannot be reached" in page.locator("#status").inner_text()
    page.close()
