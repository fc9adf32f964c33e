"""Chromium for the tests of pages: launched once a module, and its complaints about a page."""

import os
import shutil
import time
from contextlib import contextmanager

import pytest
from playwright import sync_api as playwright_api

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 120_000
"""A busy machine is not an error of a page."""


def skip_without_chromium():
    """Skip the tests of the calling module if Chromium is not installed."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)", allow_module_level=True)


@contextmanager
def launched():
    """Yield a browser."""
    with playwright_api.sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, and containers run as root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def watched_page(browser, *, width=1280, scheme="light", **options):
    """Return a page in a context of its own; it has its `requests` and its `complaints`."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.requests, page.complaints = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    return page


def reload_until(page, condition):
    """Reload a page until a JavaScript condition holds in it; AssertionError after PATIENCE_MS.

    Chromium stores a value in another process, and a page that is reloaded at once may read before.
    """
    deadline = time.monotonic() + PATIENCE_MS / 1000
    page.reload()
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"never after a reload: {condition}"
        page.reload()
