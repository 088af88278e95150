"""The chat page in a browser: asking, stopping, keeping, and what can go wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
from browser_site import Site, answers, ask, finished
from playwright.sync_api import expect

from potstill.serve.errors import ApiError


def test_ask_and_see_the_answer_stream_with_its_speed(site: Site) -> None:
    site.pool.scripts["student"] = lambda asked: "word " * 400
    site.pool.pause_s = 0.05
    page = site.open()
    ask(page, "Hello?")
    text = answers(page).locator(".prose")
    expect(text).to_contain_text("word word")
    assert len(text.inner_text()) < 1900
    expect(answers(page)).to_have_attribute("data-finish", "none")
    site.pool.pause_s = 0.0
    answer = finished(page)
    expect(answer.locator(".stats")).to_have_text(re.compile(r"student·?first token \d+\.\d+ s·?\d+(\.\d)? tokens/s"))
    assert len(answer.locator(".prose").inner_text()) >= 1999
    expect(page.locator("#status")).to_have_text("Answer finished.")
    assert site.pool.asked == [("student", [{"role": "user", "content": "Hello?"}])]


@pytest.mark.parametrize("way", ["button", "escape"])
def test_stop_keeps_what_has_come_and_frees_the_server(site: Site, way: str) -> None:
    site.pool.scripts["student"] = lambda asked: "word " * 2000
    site.pool.pause_s = 0.05
    page = site.open()
    ask(page, "Hello?")
    expect(answers(page).locator(".prose")).to_contain_text("word word")
    if way == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    answer = finished(page, how="stopped")
    expect(answer.locator(".stats")).to_contain_text("stopped")
    assert "word" in answer.locator(".prose").inner_text()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_label("Your question")).to_be_focused()
    for _ in range(100):
        if site.pool.stopped:
            break
        page.wait_for_timeout(20)
    assert site.pool.stopped == ["student"]


def test_answer_again_replaces_the_answer(site: Site) -> None:
    replies = iter(["first", "second"])
    site.pool.scripts["student"] = lambda asked: next(replies)
    page = site.open()
    ask(page, "Hello?")
    expect(finished(page).locator(".prose")).to_have_text("first")
    page.get_by_role("button", name="Answer again").click()
    expect(answers(page).locator(".prose")).to_have_text("second")
    assert answers(page).count() == 1
    assert site.pool.asked[0] == site.pool.asked[1]


def test_the_conversation_goes_along_and_another_model_can_go_on(site: Site) -> None:
    page = site.open()
    ask(page, "One?")
    finished(page, 1)
    page.get_by_label("Model").select_option("teacher")
    ask(page, "Two?")
    expect(finished(page, 2).locator(".stats")).to_contain_text("teacher")
    assert site.pool.asked[1] == (
        "teacher",
        [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "You asked: One?"},
            {"role": "user", "content": "Two?"},
        ],
    )
    page.reload()
    expect(page.get_by_label("Model")).to_have_value("teacher")


def test_conversations_are_found_again_and_can_be_renamed_and_deleted(site: Site) -> None:
    page = site.open()
    ask(page, "How is rice cooked?")
    finished(page)
    page.get_by_role("button", name="New conversation").click()
    ask(page, "Why is the sky blue?")
    finished(page)
    page.reload()
    expect(page.locator(".said")).to_have_text("Why is the sky blue?")
    expect(answers(page).locator(".prose")).to_have_text("You asked: Why is the sky blue?")
    titles = page.locator("#conversations button")
    expect(titles).to_have_text(["Why is the sky blue?", "How is rice cooked?"])
    titles.nth(1).click()
    expect(page.locator(".said")).to_have_text("How is rice cooked?")
    page.get_by_label("Title of this conversation").fill("Rice")
    page.get_by_label("Title of this conversation").press("Tab")
    expect(titles).to_have_text(["Rice", "Why is the sky blue?"])
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Keep").click()
    expect(titles).to_have_count(2)
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(titles).to_have_text(["Why is the sky blue?"])
    page.reload()
    expect(titles).to_have_text(["Why is the sky blue?"])
    page.get_by_role("button", name="Delete all").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete all").click()
    expect(titles).to_have_count(0)
    assert page.evaluate("Object.keys(localStorage).filter(key => key.includes('conversation'))") == []


def test_a_page_closed_in_mid_answer_keeps_what_had_come(site: Site) -> None:
    site.pool.scripts["student"] = lambda asked: "word " * 2000
    site.pool.pause_s = 0.05
    page = site.open()
    ask(page, "Hello?")
    expect(answers(page).locator(".prose")).to_contain_text("word word")
    page.reload()
    answer = finished(page, how="cut")
    expect(answer.locator(".prose")).to_contain_text("word word")
    expect(page.get_by_role("button", name="Answer again")).to_be_visible()


def test_export_as_json_and_markdown(site: Site) -> None:
    page = site.open()
    ask(page, "A/B: which?")
    finished(page)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as JSON").click()
    assert saved.value.suggested_filename == "A B which.json"
    found = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))
    assert found["messages"] == [
        {"role": "user", "content": "A/B: which?"},
        {"role": "assistant", "content": "You asked: A/B: which?"},
    ]
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as Markdown").click()
    text = Path(saved.value.path()).read_text(encoding="utf-8")
    assert text == "# A/B: which?\n\n**You**\n\nA/B: which?\n\n---\n\n**student**\n\nYou asked: A/B: which?\n"


def test_enter_sends_but_not_with_shift_or_while_composing(site: Site) -> None:
    page = site.open()
    box = page.get_by_label("Your question")
    box.fill("ni")
    box.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True, "cancelable": True})
    assert site.questions() == []
    box.press("Shift+Enter")
    box.press_sequentially("hao")
    box.press("Enter")
    finished(page)
    assert site.questions() == ["ni\nhao"]


def test_a_busy_server_is_asked_again(site: Site) -> None:
    site.pool.busy = 1
    page = site.open()
    ask(page, "Hello?")
    expect(page.get_by_role("alert")).to_contain_text("The server is busy. Trying again in 1 s.")
    expect(finished(page).locator(".prose")).to_have_text("You asked: Hello?")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_what_waiting_will_not_mend_is_said_at_once(site: Site) -> None:
    def refuse(asked: str) -> str:
        raise ApiError(503, "The model cannot be loaded.", code="model_unavailable")

    site.pool.scripts["student"] = refuse
    page = site.open()
    ask(page, "Hello?")
    expect(page.get_by_role("alert")).to_contain_text("The server could not answer: The model cannot be loaded.")


def test_two_conversations_are_answered_at_the_same_time(site: Site) -> None:
    site.pool.pause_s = 0.05
    page = site.open()
    ask(page, "One? " * 90)
    expect(answers(page).locator(".prose")).to_contain_text("You asked")
    page.get_by_role("button", name="New conversation").click()
    expect(answers(page)).to_have_count(0)
    ask(page, "Two? " * 90)
    expect(answers(page).locator(".prose")).to_contain_text("You asked")
    page.locator("#conversations button").nth(1).click()
    expect(answers(page)).to_have_attribute("data-finish", "none")
    site.pool.pause_s = 0.0
    expect(finished(page).locator(".prose")).to_have_text("You asked: " + ("One? " * 90).strip())
    page.locator("#conversations button").filter(has_text="Two?").click()
    expect(finished(page).locator(".prose")).to_have_text("You asked: " + ("Two? " * 90).strip())


def test_another_tab_sees_what_is_said_and_deleted(site: Site) -> None:
    page = site.open()
    other = page.context.new_page()
    other.goto(site.address)
    ask(page, "Hello?")
    finished(page)
    expect(other.locator("#conversations button")).to_have_text(["Hello?"])
    other.locator("#conversations button").click()
    finished(other)
    page.bring_to_front()  # a page behind another is drawn once a second
    page.get_by_role("button", name="Delete all").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete all").click()
    expect(other.locator("#conversations button")).to_have_count(0)
    expect(answers(other)).to_have_count(0)


def test_a_browser_that_keeps_nothing_is_said_so(site: Site) -> None:
    page = site.open()
    full = "throw new DOMException('full', 'QuotaExceededError')"
    page.evaluate(f"() => {{ Storage.prototype.setItem = () => {{ {full}; }}; }}")
    ask(page, "Hello?")
    expect(finished(page).locator(".prose")).to_have_text("You asked: Hello?")
    expect(page.locator("#kept")).to_contain_text("keeps nothing")


def test_the_oldest_turns_make_room(site: Site) -> None:
    site.pool.longest = 50
    page = site.open()
    ask(page, "a" * 15)
    finished(page, 1)
    ask(page, "b" * 15)
    answer = finished(page, 2)
    expect(answer).to_contain_text("The oldest turns no longer fit")
    assert len(site.pool.asked[-1][1]) == 1
    ask(page, "c" * 80)
    expect(page.get_by_role("alert")).to_contain_text("too long for the model, even alone")


def test_a_server_that_is_gone_is_named_and_can_be_tried_again(site: Site) -> None:
    page = site.open()
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "Hello?")
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("alert").get_by_role("button", name="Try again").click()
    expect(finished(page).locator(".prose")).to_have_text("You asked: Hello?")
    assert answers(page).count() == 1


def test_an_answer_stays_where_nothing_takes_its_place(site: Site) -> None:
    page = site.open()
    ask(page, "Hello?")
    finished(page)
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.get_by_role("button", name="Answer again").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
    expect(finished(page).locator(".prose")).to_have_text("You asked: Hello?")
    page.reload()
    expect(finished(page).locator(".prose")).to_have_text("You asked: Hello?")


def test_an_answer_stays_where_the_new_one_is_stopped_before_it_begins(site: Site) -> None:
    page = site.open()
    ask(page, "Hello?")
    finished(page)
    page.route("**/v1/chat/completions", lambda route: None)  # never answered
    page.get_by_role("button", name="Answer again").click()
    expect(answers(page)).to_have_attribute("data-finish", "none")
    page.keyboard.press("Escape")
    expect(finished(page).locator(".prose")).to_have_text("You asked: Hello?")


def test_the_list_keeps_the_focus_and_the_click(site: Site) -> None:
    page = site.open()
    ask(page, "One?")
    finished(page)
    page.get_by_role("button", name="New conversation").click()
    site.pool.scripts["student"] = lambda asked: "word " * 400
    site.pool.pause_s = 0.05
    ask(page, "Two?")
    expect(answers(page).locator(".prose")).to_contain_text("word word")
    titles = page.locator("#conversations button")
    titles.nth(1).focus()
    site.pool.pause_s = 0.0
    finished(page)
    expect(titles.nth(1)).to_be_focused()
    page.get_by_label("Title of this conversation").fill("Words")
    titles.nth(1).click()
    expect(page.locator(".said")).to_have_text("One?")
    expect(titles).to_have_text(["Words", "One?"])
    expect(titles.nth(1)).to_have_attribute("aria-current", "page")


def test_the_key_is_asked_for_once(site: Site) -> None:
    site.serve(api_key="correct horse battery")
    page = site.open()
    page.get_by_role("dialog").get_by_label("Key").fill("wrong")
    page.get_by_role("dialog").get_by_role("button", name="Use it").click()
    page.get_by_role("dialog").get_by_label("Key").fill("correct horse battery")
    page.get_by_role("dialog").get_by_role("button", name="Use it").click()
    expect(page.get_by_label("Model")).to_have_value("student")
    ask(page, "Hello?")
    finished(page)
    page.reload()
    expect(page.get_by_label("Model")).to_have_value("student")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_chinese_by_the_browser_s_language_and_by_the_switch(site: Site) -> None:
    page = site.open(locale="zh-CN")
    expect(page.get_by_role("button", name="发送")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    expect(page.locator("#examples button").first).to_contain_text("米饭")
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_an_example_question_is_one_click(site: Site) -> None:
    page = site.open()
    example = page.locator("#examples button").first
    text = example.inner_text()
    example.click()
    finished(page)
    assert site.questions() == [text]


def test_storage_that_something_else_filled_does_no_harm(site: Site) -> None:
    page = site.open()
    page.evaluate("""() => {
      localStorage.setItem('potstill.conversation.x', '{broken');
      localStorage.setItem('potstill.conversation.y', '{"id": "y", "turns": [{"role": "evil", "text": 1}]}');
      localStorage.setItem('potstill.language', 'xx');
    }""")
    page.reload()
    ask(page, "Hello?")
    finished(page)
    expect(page.locator("#conversations button")).to_have_count(1)


def test_on_a_phone_the_list_is_a_drawer_and_long_words_break(site: Site) -> None:
    phone: dict[str, Any] = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}
    page = site.open(**phone)
    page.get_by_label("Model").select_option("teacher")
    ask(page, "w" * 200)
    finished(page)
    expect(page.get_by_role("button", name="New conversation")).to_be_hidden()
    page.get_by_role("button", name="Conversations", exact=True).click()
    expect(page.get_by_role("button", name="New conversation")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="New conversation")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
