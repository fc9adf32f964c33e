"""The report in a real browser: it renders, sorts, turns dark, fits a phone, and makes no request."""

import re

import pytest

from aisle.reporting.html import write_report
from tests.chromium import launched, reload_until, skip_without_chromium, watched_page
from tests.reporting.evaluations import (
    crowded_evaluation,
    empty_evaluation,
    evaluation,
    hostile_evaluation,
    one_query_evaluation,
)

EVALUATIONS = {
    "full": evaluation,
    "empty": empty_evaluation,
    "one query": one_query_evaluation,
    "hostile": hostile_evaluation,
    "crowded": crowded_evaluation,
}
MIN_CONTRAST = 4.5
"""WCAG 2.2, level AA, for normal text."""

skip_without_chromium()


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def path_of(tmp_path_factory):
    """Return a function from an evaluation's name to the path of its page."""
    paths = {}

    def path_of(name):
        if name not in paths:
            paths[name] = write_report(tmp_path_factory.mktemp("report"), EVALUATIONS[name]())
        return paths[name]

    return path_of


@pytest.fixture
def open_page(browser, path_of):
    """Return a function that opens a page and returns it, with its requests and errors."""
    pages = []

    def open_page(name="full", **options):
        page = watched_page(browser, **options)
        pages.append(page)
        page.goto(path_of(name).as_uri())
        return page

    yield open_page
    for page in pages:
        page.context.close()


def first_column(page, table):
    return page.locator(f"#table-{table} tbody th bdi").all_inner_texts()


def background(page, selector="body"):
    return page.evaluate(
        "selector => getComputedStyle(document.querySelector(selector)).backgroundColor", selector
    )


@pytest.mark.parametrize("name", EVALUATIONS)
def test_the_page_renders_without_errors_and_loads_nothing_else(open_page, path_of, name):
    page = open_page(name)

    assert page.complaints == []
    assert page.requests == [path_of(name).as_uri()]
    assert page.locator("h1").inner_text()
    assert page.title() != "1"


@pytest.mark.parametrize("name", EVALUATIONS)
def test_the_page_is_no_wider_than_a_phone_nor_than_a_window(open_page, name):
    page = open_page(name)

    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        # Content wider than the window is cut off unless its box scrolls.
        beyond = page.evaluate(
            """() => [...document.querySelectorAll("body *")]
                .filter((element) => !element.closest(".box, svg"))
                .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
                .map((element) => element.outerHTML.slice(0, 120))"""
        )
        assert beyond == []
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_table_sorts_by_a_click_and_back(open_page):
    page = open_page()
    heading = page.locator("#table-retrieval thead th", has_text="nDCG@10")
    assert first_column(page, "retrieval") == ["bm25", "base", "tuned", "hybrid"]

    heading.get_by_role("button").click()
    assert first_column(page, "retrieval") == ["hybrid", "tuned", "base", "bm25"]
    assert heading.get_attribute("aria-sort") == "descending"

    heading.get_by_role("button").click()
    assert first_column(page, "retrieval") == ["bm25", "base", "tuned", "hybrid"]
    assert heading.get_attribute("aria-sort") == "ascending"


def test_a_table_sorts_by_keyboard_and_by_words(open_page):
    page = open_page()
    button = page.locator("#table-slices-3 thead th", has_text="Department").get_by_role("button")

    button.focus()
    page.keyboard.press("Enter")

    assert first_column(page, "slices-3") == ["Electronics", "Garden", "Kitchen & Dining", "Shoes", "Toys"]
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert first_column(page, "slices-3") == ["Kitchen & Dining", "Garden", "Shoes", "Electronics", "Toys"]
    assert page.locator("#table-slices-3 th[aria-sort]").count() == 1


def test_numbers_sort_as_numbers(open_page):
    page = open_page("crowded")

    page.locator("#table-slices-1 thead th", has_text="Queries").get_by_role("button").click()

    queries = page.locator("#table-slices-1 tbody td:nth-child(2)").all_inner_texts()
    assert [int(number) for number in queries] == list(range(199, -1, -1))


def test_an_undefined_figure_stays_at_the_end_whichever_way_a_table_sorts(open_page):
    page = open_page()
    page.evaluate(
        "delete document.querySelector('#table-retrieval tbody tr:nth-child(2)').cells[5].dataset.sort"
    )
    button = page.locator("#table-retrieval thead th", has_text="nDCG@10").get_by_role("button")

    for order in (["hybrid", "tuned", "bm25", "base"], ["bm25", "tuned", "hybrid", "base"]):
        button.click()
        assert first_column(page, "retrieval") == order


@pytest.mark.parametrize(("scheme", "other"), [("light", "dark"), ("dark", "light")])
def test_the_button_turns_light_to_dark_and_back(open_page, scheme, other):
    page = open_page(scheme=scheme)
    button = page.locator("#theme")
    first = background(page)
    assert button.inner_text() == other.capitalize()

    button.click()
    assert background(page) != first
    assert button.inner_text() == scheme.capitalize()
    assert page.evaluate("document.documentElement.dataset.theme") == other

    reload_until(page, f"document.documentElement.dataset.theme === {other!r}")
    assert background(page) != first
    page.locator("#theme").click()
    assert background(page) == first


def test_charts_follow_light_and_dark(open_page):
    colour = """() => {
        const path = document.querySelector('svg.chart path[stroke="var(--tuned)"]');
        return getComputedStyle(path).stroke;
    }"""

    assert open_page(scheme="light").evaluate(colour) == "rgb(189, 66, 13)"
    assert open_page(scheme="dark").evaluate(colour) == "rgb(255, 156, 102)"


def test_charts_neither_hide_nor_cut_off_text(open_page):
    page = open_page()

    cut = page.evaluate(
        """() => [...document.querySelectorAll("svg.chart text")].filter((text) => {
            const inner = text.getBoundingClientRect();
            const outer = text.closest("svg").getBoundingClientRect();
            return inner.left < outer.left - 1 || inner.right > outer.right + 1
                || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
        }).map((text) => text.textContent)"""
    )
    assert cut == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrasts_with_its_background(open_page, scheme):
    page = open_page(scheme=scheme)
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")

    pairs = page.evaluate(
        """() => {
            const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
            const rgb = (colour) => {
                canvas.fillStyle = colour;
                canvas.fillRect(0, 0, 1, 1);
                return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
            };
            const opaque = (element) => {
                const colour = getComputedStyle(element).backgroundColor;
                const clear = /, 0\\)$|transparent/.test(colour) && element.parentElement;
                return clear ? opaque(element.parentElement) : colour;
            };
            const found = new Map();
            const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            while (walker.nextNode()) {
                const element = walker.currentNode.parentElement;
                if (!walker.currentNode.data.trim() || element.closest("script")) continue;
                const style = getComputedStyle(element);
                const drawn = element.closest("svg") ? style.fill : style.color;
                found.set(`${drawn} on ${opaque(element)}`, [rgb(drawn), rgb(opaque(element))]);
            }
            return [...found];
        }"""
    )

    assert len(pairs) > 15
    assert {name: ratio for name, (one, two) in pairs if (ratio := contrast(one, two)) < MIN_CONTRAST} == {}


def contrast(one, two):
    """Return the contrast of two sRGB colours by WCAG 2.2: 1 (the same) to 21."""

    def luminance(rgb):
        parts = [value / 255 for value in rgb]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(two)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_follows_the_standard():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.478, abs=1e-3)


def test_print_is_light_and_shows_whole_tables_and_folded_parts(open_page):
    page = open_page("full", scheme="dark")
    page.locator("#theme").click()
    page.locator("#theme").click()

    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")

    assert background(page) == "rgb(255, 255, 254)"
    assert page.locator("details:not([open])").count() == 0
    assert set(
        page.locator(".box").evaluate_all("boxes => boxes.map((box) => getComputedStyle(box).overflow)")
    ) == {"visible"}
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


def test_nothing_is_cut_off_on_a_sheet_of_a4(open_page):
    # 210 mm less two margins of 14 mm, at 96 pixels an inch.
    page = open_page(width=688)
    page.emulate_media(media="print")

    beyond = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
            .map((element) => element.outerHTML.slice(0, 120))"""
    )
    assert beyond == []


def test_without_scripts_the_page_still_shows_everything(open_page):
    page = open_page(java_script_enabled=False)

    assert page.locator("#theme").is_hidden()
    assert page.locator("#table-retrieval tbody tr").count() == 4
    assert re.match("tuned beats base by 0.06 nDCG@10", page.locator(".headline").inner_text())
