"""A browser for the tests of pages; they are skipped, with a message, where there is none.

In:  playwright and Chromium, if they are installed.
Out: `browser`, for a module; `site`, a server and pages of a test's own.
Does not know: any single test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from browser_site import Site
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium; closed after each module, since playwright keeps an event loop running in this thread."""
    from browser_site import CHROMIUM
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (on Debian: apt install chromium)")
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def site(browser: Browser, tmp_path: Path) -> Iterator[Site]:
    """A server and pages; nothing may go wrong in them unseen."""
    from browser_site import Site

    with ExitStack() as stack:
        made = Site(browser, stack, tmp_path)
        yield made
    assert made.faults == []
