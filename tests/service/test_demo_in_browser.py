"""The demo page in a real browser, against the real service on a small hostile catalogue."""

import json
import re
import urllib.request
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.chromium import launched, reload_until, skip_without_chromium, watched_page
from tests.service.demo_shop import HOSTILE_TITLE, PRODUCTS, base_service, demo_engines
from tests.service.server_thread import server_thread

skip_without_chromium()

SETTLED = "body:not([data-state=loading], [data-state=busy])"
STATES = {
    "start": "",
    "results": "?q=red+train+set",
    "explained": "?q=red+train+set&mode=hybrid&max.price=60",
    "compared": "?q=red+train+set&view=both",
    "empty": "?q=zeppelin&mode=lexical",
    "wrong": "?q=train&where=prize+%3C+3",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    engines = demo_engines(tmp_path_factory.mktemp("demo"))
    base = base_service(engines["base"])
    with server_thread(None, engine=engines["tuned"], base=base, demo=True) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture
def open_demo(browser, site):
    """Return a function that opens the page with an address's query."""
    pages = []

    def open_demo(address="", **options):
        page = watched_page(browser, **options)
        pages.append(page)
        page.goto(f"{site}/demo/{address}")
        settle(page)
        return page

    yield open_demo
    for page in pages:
        page.context.close()


def settle(page):
    page.wait_for_selector(SETTLED, state="attached")


def answer(site, **request):
    """Return the service's own answer."""
    made = urllib.request.Request(
        f"{site}/search", json.dumps(request).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(made) as response:
        return json.load(response)


def ids(page, within="#hits"):
    return page.locator(f"{within} .hit").evaluate_all("items => items.map((item) => item.dataset.id)")


def search_for(page, query):
    page.locator("#query").fill(query)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"\?q="))
    settle(page)


def tick(page, field, value):
    page.get_by_role("group", name=field).get_by_label(value).click()
    settle(page)


def open_everything(page, state):
    page.evaluate("document.getElementById('filters').open = true")
    if state == "explained":
        page.locator("#hits .title").first.click()
        page.wait_for_selector(".why table")


def total(page):
    return int(re.search(r"of (\d+) product", page.locator("#results").inner_text())[1])


# --- search, pages, filters


def test_the_start_names_the_catalogue_and_loads_nothing_from_elsewhere(open_demo, site):
    page = open_demo()

    assert page.locator("h1").inner_text() == f"Search {len(PRODUCTS)} products"
    assert page.locator("#filters").is_hidden()
    assert page.complaints == []
    assert {url.removeprefix(site).split("?")[0] for url in page.requests} >= {"/demo/", "/info"}
    assert all(url.startswith(site) for url in page.requests)


def test_a_search_shows_the_answer_of_the_service_and_its_time(open_demo, site):
    page = open_demo()
    search_for(page, "red train set")

    found = answer(site, query="red train set")
    assert ids(page) == [hit["id"] for hit in found["hits"]]
    first = page.locator("#hits .hit").first
    assert first.locator(".title").inner_text() == found["hits"][0]["fields"]["title"]
    assert first.locator(".price").inner_text() == f"{found['hits'][0]['fields']['price']:.2f}"
    assert page.locator("#results").inner_text() == f"1–10 of {found['total']['value']} products"  # noqa: RUF001
    assert re.fullmatch(
        r"[\d.]+ ms \([\d.]+ embedding, [\d.]+ search\) · [\d.,]+ ms round trip",
        page.locator("#latency").inner_text(),
    )
    assert page.title() == "red train set · aisle"


def test_modes_differ_and_the_address_keeps_the_search(open_demo, site):
    page = open_demo("?q=red+train")

    page.get_by_label("Words", exact=True).check()
    page.wait_for_url(re.compile("mode=lexical"))
    settle(page)
    lexical = [hit["id"] for hit in answer(site, query="red train", mode="lexical")["hits"]]
    assert ids(page) == lexical

    page.reload()
    settle(page)
    assert ids(page) == lexical
    page.go_back()
    settle(page)
    assert ids(page) == [hit["id"] for hit in answer(site, query="red train", mode="dense")["hits"]]


def test_pages_follow_each_other_and_end(open_demo, site):
    page = open_demo("?q=train&mode=lexical")
    seen = ids(page)
    whole = [hit["id"] for hit in answer(site, query="train", mode="lexical", top_k=1000)["hits"]]

    while page.locator("#pages a[rel=next]").count():
        page.locator("#pages a[rel=next]").click()
        page.wait_for_selector(f"#pages [aria-current]:text-is('{len(seen) // 10 + 1}')")
        seen += ids(page)

    assert seen == whole
    assert len(whole) > 20
    assert page.evaluate("document.activeElement.id") == "results"
    page.go_back()
    settle(page)
    assert (
        page.locator("#pages [aria-current]").get_attribute("aria-label") == f"Page {(len(whole) - 1) // 10}"
    )


def test_a_page_beyond_the_end_becomes_the_last(open_demo, site):
    page = open_demo("?q=train&mode=lexical&page=99")

    page.wait_for_selector("#pages [aria-current]")
    assert page.get_by_role("link", name="Next").count() == 0
    assert len(ids(page)) == (answer(site, query="train", mode="lexical")["total"]["value"] - 1) % 10 + 1


def test_each_value_of_a_facet_leads_to_as_many_products_as_it_says(open_demo):
    page = open_demo("?q=train&mode=lexical")
    everything = total(page)
    values = page.get_by_role("group", name="Brand").locator("label").all_inner_texts()
    assert len(values) > 4
    sums = 0

    for value in values:
        name, count = value.rsplit("\n", 1)
        page.get_by_role("group", name="Brand").locator("input").nth(values.index(value)).click()
        page.wait_for_selector("#chosen .chip")
        settle(page)
        assert total(page) == int(count), name
        # The other values stay, with their counts.
        assert page.get_by_role("group", name="Brand").locator("label").all_inner_texts() == values
        page.locator("#chosen .chip").click()
        page.wait_for_selector("#chosen:empty", state="attached")
        settle(page)
        sums += int(count)
    assert sums == everything


def test_filters_of_two_fields_and_a_range_combine(open_demo, site):
    page = open_demo("?q=train&mode=lexical")

    tick(page, "Brand", "Acme")
    page.wait_for_selector("#chosen .chip")
    tick(page, "Brand", 'O\'Neill "& Sons"')
    page.wait_for_selector("#chosen .chip >> nth=1")
    tick(page, "Wooden", "yes")
    page.wait_for_selector("#chosen .chip >> nth=2")
    page.get_by_label("Price to").fill("30")
    page.keyboard.press("Enter")
    page.wait_for_selector("#chosen .chip >> nth=3")
    settle(page)

    filtered = "brand in ['Acme', 'O\\'Neill \"& Sons\"'] and wooden and price <= 30"
    found = answer(site, query="train", mode="lexical", filter=filtered)
    assert ids(page) == [hit["id"] for hit in found["hits"]]
    assert 0 < found["total"]["value"] == total(page)
    page.get_by_role("button", name="Clear all").click()
    page.wait_for_selector("#chosen:empty", state="attached")


def test_the_keyboard_stays_on_a_value_that_was_ticked(open_demo):
    page = open_demo("?q=train&mode=lexical")
    box = page.get_by_role("group", name="Brand").get_by_label("Acme")

    box.focus()
    page.keyboard.press("Space")
    page.wait_for_selector("#chosen .chip")
    settle(page)

    assert page.evaluate("document.activeElement.dataset.key") == '["brand","Acme"]'
    assert box.is_checked()


def test_a_condition_filters_and_a_wrong_condition_is_explained_beside_it(open_demo, site):
    page = open_demo("?q=train&mode=lexical")

    page.locator("#where").fill("price < 5 or price > 45")
    page.keyboard.press("Enter")
    page.wait_for_selector("#chosen .chip")
    settle(page)
    expected = answer(site, query="train", mode="lexical", filter="price < 5 or price > 45")
    assert ids(page) == [hit["id"] for hit in expected["hits"]]

    page.locator("#where").fill("prize < 5")
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-state=error]", state="attached")
    assert "prize" in page.locator("#where-error").inner_text()
    assert page.locator("#where").get_attribute("aria-invalid") == "true"
    assert page.locator("#results").inner_text() == "This search cannot be answered"
    page.reload()  # a link with a wrong condition
    settle(page)
    assert page.locator("#where").is_visible()


def test_where_nothing_is_found_the_page_offers_ways_out(open_demo):
    page = open_demo("?q=zeppelin&mode=lexical&is.brand=%22Acme%22")
    assert page.locator("#results").inner_text() == "No product found"

    page.get_by_role("button", name="Search by meaning").click()
    page.wait_for_selector("#hits .hit")

    assert page.locator("#mode input[value=dense]").is_checked()
    assert page.locator("#chosen .chip").count() == 1


def test_a_calibrated_index_can_leave_out_unlikely_answers(open_demo, site):
    asked = []

    def calibrated(route):
        route.fulfill(json=route.fetch().json() | {"calibrated": ["dense"]})

    def nothing_likely(route):
        asked.append(json.loads(route.request.post_data))
        if asked[-1].pop("min_score", None) == "calibrated":
            asked[-1]["filter"] = "price < 0"
        route.fulfill(json=answer(site, **asked[-1]))

    page = open_demo("?q=train")
    assert page.locator("#likely").is_hidden()
    page.route("**/info", calibrated)
    page.route("**/search", nothing_likely)
    page.reload()
    page.get_by_label("Only likely answers").check()
    page.wait_for_selector("body[data-state=empty]", state="attached")

    assert [request.get("filter") for request in asked] == [None, "price < 0"]
    page.get_by_role("button", name="Show unlikely answers too").click()
    page.wait_for_selector("#hits .hit")
    assert "likely" not in page.url
    page.get_by_label("Words", exact=True).check()
    assert page.locator("#likely").is_hidden()


# --- side by side, explanations, keys


def test_side_by_side_marks_what_moved(open_demo, site):
    page = open_demo("?q=red+train+set&view=both")
    base, tuned = (
        {hit["id"]: hit["rank"] for hit in answer(site, query="red train set", pair=pair, top_k=100)["hits"]}
        for pair in ("base", "tuned")
    )
    assert ids(page, ".base") == list(base)[:10]
    assert ids(page, ".tuned") == list(tuned)[:10]

    marks = page.locator(".tuned .move .unseen").all_inner_texts()
    expected = []
    for product in list(tuned)[:10]:
        before, by = base[product], base[product] - tuned[product]
        words = "same rank" if by == 0 else f"{'up' if by > 0 else 'down'} {abs(by)}, from rank {before}"
        expected.append(words)
    assert marks == expected
    assert len(set(expected)) > 2
    moved = sum(mark != "same rank" for mark in expected)
    summary = f"Of the tuned model's 10 products on this page, {moved} moved."
    assert page.locator("#results").inner_text() == summary
    shared = set(list(base)[:10]) & set(list(tuned)[:10])
    drawn = page.locator(".lines path").evaluate_all("lines => lines.map((line) => line.dataset.id)")
    assert set(drawn) == shared


def test_a_product_is_new_if_the_base_model_does_not_find_it(open_demo, site):
    def only_others(route):
        request = json.loads(route.request.post_data)
        body = answer(site, **request)
        if request.get("pair") == "base":
            body["hits"] = [{**hit, "rank": rank} for rank, hit in enumerate(body["hits"][10:], 1)]
        route.fulfill(json=body)

    page = open_demo()
    page.route("**/search", only_others)
    page.goto(f"{site}/demo/?q=red+train+set&view=both")
    page.wait_for_selector(".move.new")

    left_out = {hit["id"] for hit in answer(site, query="red train set", pair="base")["hits"]}
    new = page.locator(".tuned .hit:has(.new)").evaluate_all("items => items.map((item) => item.dataset.id)")
    assert set(new) == left_out & set(ids(page, ".tuned"))


def test_an_explanation_has_the_scores_the_words_and_the_filter(open_demo, site):
    page = open_demo("?q=red+train+set&mode=hybrid&max.price=60")
    (hit,) = answer(site, query="red train set", mode="hybrid", filter="price <= 60", offset=1, top_k=1)[
        "hits"
    ]
    title = page.locator("#hits .title").nth(1)

    title.click()
    panel = page.locator("#hits .hit").nth(1).locator(".why")
    panel.locator("table").wait_for()

    assert title.get_attribute("aria-expanded") == "true"
    text = panel.inner_text()
    assert f"{hit['scores']['dense']:.3f}" in text
    assert "price <= 60" in text
    assert "Index version 1" in text
    assert panel.locator("mark").all_inner_texts()


def test_the_keyboard_does_it_all(open_demo):
    page = open_demo("?q=red+train+set")
    focused = "() => document.activeElement.closest('.hit')?.value ?? document.activeElement.id"

    page.keyboard.press("/")
    assert page.evaluate(focused) == "query"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == 2
    page.keyboard.press("Enter")
    page.wait_for_selector(".why table")
    page.keyboard.press("Escape")
    assert page.locator(".why:visible").count() == 0
    assert page.evaluate(focused) == 2
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == "query"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "query"
    page.keyboard.press("Escape")
    assert page.locator("#query").input_value() == ""
    page.keyboard.type("a/b")
    assert page.locator("#query").input_value() == "a/b"


# --- hostile catalogues, errors, accessibility


def test_markup_in_a_catalogue_is_shown_as_text(open_demo):
    dialogs = []
    page = open_demo("?q=train+script&mode=lexical&view=both")
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    page.locator(".tuned .title", has_text="<script>").first.click()
    page.wait_for_selector(".why table")
    page.locator("#filters input[type=checkbox]").first.wait_for()

    assert page.locator(".tuned .title", has_text="<script>").first.inner_text() == HOSTILE_TITLE
    assert page.evaluate("globalThis.owned") is None
    assert page.locator("main :is(script, img, iframe, b, a[href^='javascript'])").count() == 0
    assert dialogs == page.complaints == []


def test_highlights_are_in_place_after_emoji_and_accents(open_demo):
    page = open_demo(f"?q={quote('train zoë')}&mode=lexical")
    title = page.locator("#hits .title", has_text="🚂")

    assert title.first.inner_text() == "🚂🚂 train for Zoë"
    assert title.first.locator("mark").all_inner_texts() == ["train", "Zoë"]


def test_a_product_is_shown_without_price_brand_and_title(open_demo):
    page = open_demo("?q=P-BARE&mode=lexical")

    hit = page.locator(".hit[data-id=P-BARE]")
    assert hit.locator(".title").inner_text() == "P-BARE"
    assert hit.locator(".price").count() == 0


ERRORS = {
    429: ("The service is busy: try again in 3 seconds", "queue is full"),
    504: ("The search took too long", "after 10 ms"),
    500: ("The service has a problem", "something broke"),
    422: ("This search cannot be answered", "query is too long"),
}


def refusal(status, message):
    """Return a handler of requests that refuses them."""
    body = json.dumps({"error": {"type": "some", "message": message}})
    return lambda route: route.fulfill(status=status, body=body, headers={"Retry-After": "3"})


def test_an_error_is_shown_and_the_search_can_be_tried_again(open_demo):
    page = open_demo()
    for status, (title, message) in ERRORS.items():
        page.route("**/search", refusal(status, message))
        search_for(page, f"train {status}")
        page.wait_for_selector("body[data-state=error]", state="attached")
        assert page.locator("#results").inner_text() == title
        assert page.get_by_role("alert").inner_text().startswith(message)

        page.unroute("**/search")
        page.get_by_role("button", name="Try again").click()
        page.wait_for_selector("#hits .hit")


def test_a_server_that_does_not_answer_is_an_error(open_demo):
    page = open_demo()
    page.route("**/search", lambda route: route.abort())

    search_for(page, "train")

    page.wait_for_selector("body[data-state=error]", state="attached")
    assert page.locator("#results").inner_text() == "No connection"


def test_the_page_waits_for_a_service_that_is_starting(open_demo, site):
    page = open_demo()
    body = json.dumps({"error": {"type": "not_ready", "message": "loading"}})
    page.route("**/info", lambda route: route.fulfill(status=503, body=body))
    page.goto(f"{site}/demo/?q=train")
    page.wait_for_selector("body[data-state=error]", state="attached")
    assert page.locator("#results").inner_text() == "The service is starting"

    page.unroute("**/info")

    page.wait_for_selector("#hits .hit")


def test_a_key_is_asked_for_and_sent(open_demo, site):
    def locked(route):
        if route.request.headers.get("authorization") == "Bearer open sesame":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": {"type": "unauthorized", "message": "give a key"}})

    page = open_demo()
    page.route(re.compile("/(search|info)$"), locked)
    page.goto(f"{site}/demo/?q=train")
    page.get_by_label("API key").fill("open sesame")
    page.keyboard.press("Enter")

    page.wait_for_selector("#hits .hit")
    assert page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})") == "{}"


def test_pages_come_from_one_version_and_a_version_that_is_gone_starts_again(open_demo, site):
    asked = []

    def gone(route):
        asked.append(json.loads(route.request.post_data).get("fingerprint"))
        if asked[-1] is None:
            route.continue_()
        else:
            body = {"error": {"type": "version_gone", "message": "version 2 answers", "field": "fingerprint"}}
            route.fulfill(status=410, json=body)

    page = open_demo("?q=train")
    page.route("**/search", gone)
    page.locator("#pages a[rel=next]").click()

    page.locator("#announcement", has_text="The index has changed").wait_for(state="attached")
    page.wait_for_selector("#hits .hit")
    assert asked == [answer(site, query="train")["index"]["fingerprint"], None]
    assert page.locator("#pages [aria-current]").inner_text() == "1"


def test_axe_finds_nothing_serious(open_demo, site):
    page = open_demo()
    found = {}
    for state, address in STATES.items():
        page.goto(f"{site}/demo/{address}")
        settle(page)
        open_everything(page, state)
        found[state, "light"] = violations(page)
        page.emulate_media(color_scheme="dark")  # only colours differ
        found[state, "dark"] = violations(page, runOnly=["color-contrast"])
        page.emulate_media(color_scheme="light")
        if state in {"explained", "compared"}:
            page.set_viewport_size({"width": 360, "height": 900})
            found[state, "phone"] = violations(page)
            page.set_viewport_size({"width": 1280, "height": 900})

    assert len(found) == 2 * len(STATES) + 2
    assert {state: broken for state, broken in found.items() if broken} == {}


def violations(page, **options):
    """Return the rules of axe-core that the page breaks, with the elements that break them."""
    broken = Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
    return [
        (rule["id"], node["html"]) for rule in broken if rule["impact"] != "minor" for node in rule["nodes"]
    ]


def test_the_page_is_no_wider_than_its_window(open_demo, site):
    page = open_demo()
    for state, address in STATES.items():
        page.goto(f"{site}/demo/{address}")
        settle(page)
        open_everything(page, state)
        for width in (320, 360, 768, 1024, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            beyond = page.evaluate(
                """() => [...document.querySelectorAll("body *")]
                    .filter((element) => !element.closest(".scroll, .unseen, .skip"))
                    .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
                    .map((element) => element.outerHTML.slice(0, 120))"""
            )
            assert beyond == [], (state, width)
            assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_button_turns_light_to_dark_and_the_page_remembers(open_demo, site):
    page = open_demo()
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(colour) == "rgb(255, 255, 254)"

    page.locator("#theme").click()
    assert page.evaluate(colour) == "rgb(22, 24, 27)"
    reload_until(page, "document.documentElement.dataset.theme === 'dark'")
    assert page.evaluate(colour) == "rgb(22, 24, 27)"
    assert page.locator("#theme").inner_text() == "Light"
