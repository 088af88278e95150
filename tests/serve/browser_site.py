"""A site in a real browser: headless Chromium on the real server with scripted models.

In:  a browser; scripts for the models.
Out: pages to click through, and whatever went wrong in them.
Does not know: any single test.
"""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from page_server import ScriptedPool, running, write_rating
from playwright.sync_api import Browser, Locator, Page, expect

from potstill.serve.settings import Settings

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REFUSALS = re.compile(r"status of (503|400|401|403|404|409)|ERR_(CONNECTION|FAILED|INCOMPLETE)")
"""What a browser's console says where a test had the server refuse something."""
EVIL = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script> **bold** [x](javascript:window.pwned=1)'
MARKDOWN = """# Rice

Wash it **twice**, then `soak` it:

1. Wash
2. Soak
   - ten minutes
   - or *twenty*

```python
print("<b>done</b>")
```

| what | how long |
|---|---|
| boil | 10 min |
"""

expect.set_options(timeout=10_000)


class Site:
    """A running server, its scripted models, and browsers' pages on it."""

    def __init__(self, browser: Browser, stack: ExitStack, folder: Path) -> None:
        self._browser, self._stack, self.folder = browser, stack, folder
        self.pool = ScriptedPool({"student": lambda asked: f"You asked: {asked}", "teacher": lambda asked: MARKDOWN})
        self.address = ""
        self._errors: list[str] = []

    @property
    def faults(self) -> list[str]:
        """What no test asks for: a broken policy, script or address."""
        return [error for error in self._errors if not REFUSALS.search(error)]

    def serve(self, **settings: Any) -> None:
        self.address = self._stack.enter_context(running(self.pool, Settings(port=0, **settings)))

    def serve_rating(self, **changes: Any) -> None:
        rating = write_rating(self.folder, **changes)
        self.serve(rating=rating, ratings_file=self.folder / "ratings.sqlite")

    def open(self, path: str = "/", **options: Any) -> Page:
        """A page in a browser of its own: nothing is remembered there."""
        if not self.address:
            self.serve()
        look = {"locale": "en-US", "viewport": {"width": 1280, "height": 800}, **options}
        context = self._browser.new_context(**look)
        self._stack.callback(context.close)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        page.on("console", lambda message: self._errors.append(message.text) if message.type == "error" else None)
        page.goto(self.address + path)
        return page

    def questions(self) -> list[str]:
        """What was asked last in each request."""
        return [messages[-1]["content"] for _, messages in self.pool.asked]


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your question").fill(text)
    page.get_by_label("Your question").press("Enter")


def answers(page: Page) -> Locator:
    return page.locator(".turn-assistant")


def finished(page: Page, number: int = 1, how: str = "stop") -> Locator:
    answer = answers(page).nth(number - 1)
    expect(answer).to_have_attribute("data-finish", how)
    return answer
