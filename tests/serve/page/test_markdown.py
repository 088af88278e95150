"""Answers as Markdown in a browser: the nodes they become, and that text stays text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
from browser_site import EVIL, MARKDOWN, Site, ask, finished
from page_server import ScriptedPool, running
from playwright.sync_api import Browser, Page, expect

from potstill.serve.settings import Settings


def test_scripts_in_questions_and_answers_stay_text(site: Site) -> None:
    site.pool.scripts["student"] = lambda asked: (
        f"{asked}\n\n```<script>\n{asked}\n```\n\n| {EVIL} | b |\n|---|---|\n| {EVIL} | c |"
    )
    page = site.open()
    ask(page, EVIL)
    answer = finished(page)
    expect(answer.locator(".prose")).to_contain_text('<img src=x onerror="window.pwned=1">')
    expect(page.locator(".said")).to_have_text(EVIL)
    page.reload()
    expect(page.locator(".said")).to_have_text(EVIL)
    assert page.locator("#turns").locator("img, script, iframe, a, [onerror]").count() == 0
    assert page.evaluate("window.pwned") is None


def test_markdown_becomes_nodes(site: Site) -> None:
    page = site.open()
    page.get_by_label("Model").select_option("teacher")
    ask(page, "How?")
    text = finished(page).locator(".prose")
    expect(text.locator("h3")).to_have_text("Rice")
    expect(text.locator("p strong")).to_have_text("twice")
    expect(text.locator("p code")).to_have_text("soak")
    expect(text.locator("ol > li")).to_have_count(2)
    expect(text.locator("ol ul > li")).to_have_text(["ten minutes", "or twenty"])
    expect(text.locator("em")).to_have_text("twenty")
    expect(text.locator("figure.code pre")).to_have_text('print("<b>done</b>")')
    expect(text.locator("figcaption span")).to_have_text("python")
    expect(text.locator("table td")).to_have_text(["boil", "10 min"])


def test_copy_buttons(site: Site) -> None:
    page = site.open()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_label("Model").select_option("teacher")
    ask(page, "How?")
    answer = finished(page)
    answer.get_by_role("button", name="Copy code").click()
    assert page.evaluate("navigator.clipboard.readText()") == 'print("<b>done</b>")'
    answer.locator(".answer-meta").get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == MARKDOWN
    expect(answer.locator(".answer-meta").get_by_text("Copied")).to_be_visible()


PARSE = """async ([text, grown]) => {
  const { Prose } = await import('/static/markdown.js');
  const [whole, pieces] = [document.createElement('div'), document.createElement('div')];
  new Prose(whole).show(text);
  if (grown) { const prose = new Prose(pieces); for (let i = 1; i <= text.length; i++) prose.show(text.slice(0, i)); }
  return [whole.innerHTML, pieces.innerHTML];
}"""


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("2*3*4 and snake_case_name", "<p>2*3*4 and snake_case_name</p>"),
        ("**标题：**内容", "<p><strong>标题：</strong>内容</p>"),
        ("one\ntwo", "<p>one\ntwo</p>"),
        ("3. c\n4. d", '<ol start="3"><li>c</li><li>d</li></ol>'),
        ("- a\n\n- b", "<ul><li>a</li><li>b</li></ul>"),
        ("> said\n> so", "<blockquote><p>said\nso</p></blockquote>"),
        ("`` a`b ``", "<p><code>a`b</code></p>"),
        ("**open", "<p>**open</p>"),
        ("a | b\nno table", "<p>a | b\nno table</p>"),
        ("###no heading", "<p>###no heading</p>"),
        ("####### seven", "<p>####### seven</p>"),
        ("***", "<hr>"),
        (r"\*not\*", "<p>*not*</p>"),
        ("", ""),
    ],
)
def test_markdown_cases(shared_page: Page, text: str, html: str) -> None:
    assert shared_page.evaluate(PARSE, [text, True])[0] == html


@pytest.fixture(scope="module")
def shared_page(browser: Browser) -> Iterator[Page]:
    with running(ScriptedPool({"student": str}), Settings(port=0)) as address:
        context = browser.new_context(locale="en-US")
        page = context.new_page()
        page.goto(address)
        yield page
        context.close()


def test_a_growing_text_ends_as_the_whole_one(shared_page: Page) -> None:
    whole, grown = shared_page.evaluate(PARSE, [MARKDOWN + EVIL, True])
    assert whole == grown


@pytest.mark.parametrize(
    "text",
    [
        "*" * 4000,
        "`" * 4000,
        "> " * 3000,
        "- " * 3000,
        "# " + " " * 4000 + "x",
        "**a " * 1500,
        "|-" * 2000 + "\n" + "|-" * 2000,
        "_a" * 3000,
        "\n\n" * 3000,
        "  - x\n" * 800,
    ],
)
def test_hostile_markdown_does_not_freeze_the_page(shared_page: Page, text: str) -> None:
    shared_page.set_default_timeout(5000)
    assert shared_page.evaluate(PARSE, [text, False]) is not None
