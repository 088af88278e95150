"""The compare and rating pages in a browser, and what holds for all pages."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
from browser_site import EVIL, Site, ask
from playwright.sync_api import Page, expect


def test_compare_streams_both_side_by_side(site: Site) -> None:
    page = site.open("/compare")
    expect(page.locator("#second")).to_have_value("teacher")
    ask(page, "Which?")
    expect(page.locator("#answer-first .prose")).to_have_text("You asked: Which?")
    expect(page.locator("#answer-second h3")).to_have_text("Rice")
    expect(page.locator("#answer-second .stats")).to_contain_text("first token")
    assert sorted(model for model, _ in site.pool.asked) == ["student", "teacher"]
    expect(page.get_by_role("button", name="Ask both")).to_be_visible()
    site.pool.scripts = {name: lambda asked: "word " * 2000 for name in site.pool.names}
    site.pool.pause_s = 0.05
    ask(page, "Again?")
    expect(page.locator("#answer-first .prose")).to_contain_text("word word")
    page.keyboard.press("Escape")
    expect(page.locator("#answer-first .stats")).to_contain_text("stopped")
    expect(page.locator("#answer-second .stats")).to_contain_text("stopped")


# ---- blind rating ----


def rating_site(site: Site) -> None:
    site.pool.scripts = {
        "student": lambda asked: f"One says {asked} {EVIL}",
        "teacher": lambda asked: f"Other says {asked}",
    }
    site.serve_rating()


def make_link(page: Page, name: str) -> str:
    page.get_by_label("Name of the rater").fill(name)
    page.get_by_role("button", name="Make a link").click()
    expect(page.locator("#link")).to_contain_text(f"Link for {name}:")
    return page.locator("#link code").inner_text()


def rate_turn(page: Page, turn: int, seen: list[str]) -> None:
    expect(page.locator("#question")).to_have_text(f"Question {turn}?")
    expect(page.locator("#hint")).to_have_text("Both answers are complete.")
    seen.append(page.content())
    one = "a" if "One says" in page.locator("#text-a").inner_text() else "b"
    other = "b" if one == "a" else "a"
    next_button = page.locator("#next")
    expect(next_button).to_be_disabled()
    page.locator(f"input[name={one}][value='5']").check()
    page.locator(f"input[name={other}][value='2']").check()
    expect(next_button).to_be_disabled()
    page.locator(f"input[name=better][value={one}]").check()
    next_button.click()


def test_an_operator_makes_a_link_and_a_rater_rates_ten_turns(site: Site) -> None:
    rating_site(site)
    operator = site.open("/operate")
    link = make_link(operator, "Anna")
    rater = site.open(link.removeprefix(site.address))
    seen: list[str] = []
    for turn in range(1, 11):
        rate_turn(rater, turn, seen)
    expect(rater.get_by_role("heading", level=1)).to_have_text("Thank you. That was all.")
    assert not any(name in page.lower() for page in seen for name in ("student", "teacher"))
    assert rater.evaluate("window.pwned") is None
    rater.reload()
    expect(rater.get_by_role("heading", level=1)).to_have_text("Thank you. That was all.")
    operator.get_by_role("button", name="Refresh").click()
    expect(operator.locator("#models tr").nth(0)).to_have_text(re.compile(r"student\s*10\s*5\.00\s*10"))
    expect(operator.locator("#models tr").nth(1)).to_have_text(re.compile(r"teacher\s*10\s*2\.00\s*0"))
    expect(operator.locator("#raters")).to_contain_text("10 of 10")
    with operator.expect_download() as saved:
        operator.get_by_role("button", name="Save as CSV").click()
    assert len(Path(saved.value.path()).read_text().splitlines()) == 21


def test_ratings_are_locked_until_both_answers_are_complete(site: Site) -> None:
    site.pool.scripts = {"student": lambda asked: "short", "teacher": lambda asked: "a much longer answer " * 6}
    site.serve_rating(characters_per_second=80.0)
    link = make_link(site.open("/operate"), "Anna")
    page = site.open(link.removeprefix(site.address))
    expect(page.locator("#hint")).to_have_text("You can rate as soon as both answers are complete.")
    expect(page.locator("input[name=a][value='3']")).to_be_disabled()
    expect(page.locator("#hint")).to_have_text("Both answers are complete.")
    expect(page.locator("input[name=a][value='3']")).to_be_enabled()
    page.reload()
    expect(page.locator("#question")).to_have_text("Question 1?")


def test_a_change_of_language_keeps_what_was_chosen_and_chooses_nothing_next(site: Site) -> None:
    rating_site(site)
    rater = site.open(make_link(site.open("/operate"), "Anna").removeprefix(site.address))
    expect(rater.locator("#hint")).to_have_text("Both answers are complete.")
    for name, value in (("a", "5"), ("b", "2"), ("better", "a")):
        rater.locator(f"input[name={name}][value='{value}']").check()
    rater.get_by_role("button", name="中文").click()
    expect(rater.locator("#ballot input:checked")).to_have_count(3)
    rater.locator("#next").click()
    expect(rater.locator("#question")).to_have_text("Question 2?")
    expect(rater.locator("#ballot input:checked")).to_have_count(0)
    expect(rater.locator("#next")).to_be_disabled()


def test_a_turn_rated_in_another_tab_is_not_rated_twice(site: Site) -> None:
    rating_site(site)
    link = make_link(site.open("/operate"), "Anna").removeprefix(site.address)
    first, second = site.open(link), site.open(link)
    expect(second.locator("#hint")).to_have_text("Both answers are complete.")
    rate_turn(first, 1, [])
    rate_turn(second, 1, [])
    expect(second.locator("#question")).to_have_text("Question 2?")
    operator = site.open("/operate")
    expect(operator.locator("#raters")).to_contain_text("1 of 10")


def test_a_name_that_has_a_link_gets_another_only_on_purpose(site: Site) -> None:
    rating_site(site)
    operator = site.open("/operate")
    old = make_link(operator, "Anna")
    operator.get_by_label("Name of the rater").fill("Anna")
    operator.get_by_role("button", name="Make a link").click()
    expect(operator.get_by_role("alert")).to_contain_text("Anna has a link already.")
    operator.get_by_role("alert").get_by_role("button", name="New link").click()
    expect(operator.locator("#link code")).not_to_have_text(old)
    rater = site.open(old.removeprefix(site.address))
    expect(rater.get_by_role("heading", level=1)).to_have_text("This link does not work")


# ---- all pages ----


NAMELESS = """() => [...document.querySelectorAll('button, select, input, textarea, a')]
  .filter(node => !(node.getAttribute('aria-label') || node.textContent.trim() || node.labels?.length
    || node.getAttribute('aria-labelledby'))).map(node => node.outerHTML)"""


def test_the_readme_s_picture_can_be_taken(site: Site) -> None:
    site.serve()
    script = Path(__file__).parents[3] / "docs" / "screenshots.py"
    picture = site.folder / "chat.png"
    subprocess.run([sys.executable, str(script), site.address, "--out", str(picture)], check=True, timeout=60)
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (2560, 1600)
    assert len(site.pool.asked) == 1


def test_everything_that_can_be_used_has_a_name_and_nothing_is_cut_off_on_a_phone(site: Site) -> None:
    rating_site(site)
    page = site.open("/operate", viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True)
    link = make_link(page, "Anna" * 20).removeprefix(site.address)
    for path in ("/operate", "/", "/compare", link):
        page.goto(site.address + path)
        page.locator("#raters td, #model option, #first option, #question:not(:empty)").first.wait_for(state="attached")
        assert page.evaluate(NAMELESS) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
