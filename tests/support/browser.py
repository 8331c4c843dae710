"""A page in Debian's Chromium, with everything it loads, prints or throws written down."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt install chromium")


@contextmanager
def opened(path: Path, width: int = 1440, scheme: str = "light", site: Path | None = None) -> Iterator[Any]:
    """The page; leaving asserts that it asked for nothing but itself and that nothing went wrong in it.

    A page of a site may ask for what is in the site's folder.
    """
    own = ("request: data:", f"request: {(site or path).as_uri()}")
    from playwright.sync_api import sync_playwright

    wrong: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda request: wrong.append(f"request: {request.url}"))
        page.goto(path.as_uri())
        yield page
        browser.close()
    left = [text for text in wrong if not text.startswith(own)]
    assert left == [], left
