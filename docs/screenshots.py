"""Pictures of the pages, taken from a running server with headless Chromium.

In:  the address of a `potstill serve`.
Out: docs/chat.png for the README; with --every, all pages on desktop and phone, light and dark.
Does not know: models.

Example:  potstill serve runs/demo &  python docs/screenshots.py http://127.0.0.1:8080
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

QUESTIONS = {
    "en": "Why do the leaves of my mint turn yellow? Name a few reasons.",
    "zh": "阳台上的薄荷叶子发黄，可能是什么原因？简单说几点。",
}
SIZES: dict[str, dict[str, Any]] = {
    "1280": {"viewport": {"width": 1280, "height": 800}},
    "390": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
LONGEST_ANSWER_MS = 120_000


def main() -> None:
    """Take the pictures that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address", help="where the server is, such as http://127.0.0.1:8080")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "chat.png", help="the README's picture")
    parser.add_argument("--language", choices=QUESTIONS, default="zh", help="of page and question")
    parser.add_argument("--every", type=Path, metavar="FOLDER", help="take every page instead, in all looks")
    wanted = parser.parse_args()
    with chromium() as browser:
        if wanted.every:
            every_page(browser, wanted.address.rstrip("/"), wanted.every)
        else:
            page = open_page(browser, wanted.address, wanted.language, "light", SIZES["1280"], scale=2)
            ask(page, QUESTIONS[wanted.language])
            page.screenshot(path=wanted.out)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, or whatever of its family is here."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise SystemExit("There is no Chromium here. On Debian: apt install chromium")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def open_page(
    browser: Browser, address: str, language: str, scheme: Any, size: dict[str, Any], scale: float = 1
) -> Page:
    """A fresh page that nobody has used before."""
    locale = {"en": "en-US", "zh": "zh-CN"}[language]
    context = browser.new_context(locale=locale, color_scheme=scheme, device_scale_factor=scale, **size)
    page = context.new_page()
    page.goto(address)
    page.wait_for_load_state("networkidle")
    return page


def ask(page: Page, question: str) -> None:
    """Ask, and wait until every answer on the page is finished."""
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")
    page.locator("[aria-busy]").first.wait_for(state="detached", timeout=LONGEST_ANSWER_MS)


def every_page(browser: Browser, address: str, folder: Path) -> None:
    """All pages in all looks; the rating's where a rating is set up."""
    folder.mkdir(parents=True, exist_ok=True)
    for (width, size), scheme, language in product(SIZES.items(), ("light", "dark"), QUESTIONS):

        def shoot(page: Page, name: str, look: str = f"{width}-{scheme}-{language}") -> None:
            page.screenshot(path=folder / f"{name}-{look}.png")

        page = open_page(browser, address, language, scheme, size)
        shoot(page, "empty")
        ask(page, QUESTIONS[language])
        shoot(page, "chat")
        if width == "390":
            page.locator("#menu").click()
            page.wait_for_timeout(400)
            shoot(page, "drawer")
        page.goto(f"{address}/compare")
        ask(page, QUESTIONS[language])
        shoot(page, "compare")
        rating_pages(page, address, f"{width} {scheme} {language}", shoot)
        page.context.close()


def rating_pages(page: Page, address: str, name: str, shoot: Any) -> None:
    """The operator's page and one turn of a rater."""
    answer = page.goto(f"{address}/operate")
    if answer is None or not answer.ok:
        return
    page.locator("#name").fill(name)
    page.locator("#invite button").click()
    page.locator("#link code").wait_for()
    shoot(page, "operate")
    page.goto(page.locator("#link code").inner_text())
    page.locator("#text-a p").first.wait_for(timeout=LONGEST_ANSWER_MS)
    shoot(page, "rate-reading")
    page.locator("input[name=a]:not(:disabled)").first.wait_for(timeout=LONGEST_ANSWER_MS)
    page.locator("input[name=a][value='4']").check(force=True)
    page.locator("input[name=better][value=a]").check(force=True)
    shoot(page, "rate")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    shoot(page, "rate-end")


if __name__ == "__main__":
    main()
