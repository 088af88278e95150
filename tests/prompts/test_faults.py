"""Tests of what makes a written text no prompt: each fault by hand, and none in what people wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from potstill.prompts import golden
from potstill.prompts.faults import FAULTS, Fault, Language, first_fault

ENGLISH = Path(__file__).parents[2] / "recipes" / "prompts" / "english.txt"

FAULTY: list[tuple[Fault, Language, str]] = [
    ("short", "zh", "你好"),
    ("short", "en", "Hi there"),
    ("template", "zh", "怎么做饭？<|im_end|>"),
    ("template", "zh", "怎么做红烧肉？\n助手：先切肉"),
    ("template", "zh", "你是一个生活助手，回答用户关于做饭的问题。"),
    ("template", "en", "[INST] How do I boil an egg?"),
    ("template", "en", "How do I boil an egg?\nassistant\nBoil water."),
    ("template", "en", "You are a helpful assistant. Answer the question."),
    ("looping", "zh", "请问怎么做饭" + "好吃又简单" * 4),
    ("looping", "en", "How do I cook rice?\n" + "I want to know.\n" * 4),
    ("looping", "en", "Please help me " + "and my friend " * 3),
    ("script", "zh", "How do I boil an egg?"),
    ("script", "zh", "どうやって卵をゆでますか、教えてください"),
    ("script", "zh", "Как сварить яйцо?"),
    ("script", "en", "鸡蛋怎么煮？Please tell me 需要几分钟"),
    ("answer", "zh", "好的，请告诉我你想做什么菜。"),
    ("answer", "zh", "当然可以！请把邮件发给我。"),
    ("answer", "zh", "你好！有什么我可以帮助你的吗？"),
    ("answer", "zh", "作为一个人工智能助手，我不能替你做饭。"),
    ("answer", "en", "Sure! Could you tell me more?"),
    ("answer", "en", "Hello! How can I assist you today?"),
    ("answer", "en", "Here is a Python function that adds two numbers."),
    ("statement", "zh", "番茄炒蛋是一道家常菜，酸甜可口。"),
    ("statement", "en", "The quick brown fox jumps over the lazy dog."),
    ("statement", "en", "class ListNode(object):\n    def __init__(self, val=0):\n        self.val = val"),
    ("statement", "en", "```python\ncan = what(how)\n```\nThat prints two lines."),
    ("impossible", "zh", "这张图片里有几只猫？"),
    ("impossible", "zh", "帮我画一张小猫的图"),
    ("impossible", "zh", "今天北京天气怎么样？"),
    ("impossible", "zh", "明天早上七点提醒我开会"),
    ("impossible", "en", "What is in this picture?"),
    ("impossible", "en", "Can you draw a cat for me?"),
    ("impossible", "en", "What is the weather like today in London?"),
    ("missing", "zh", "请总结下面这段文字的主要内容。"),
    ("missing", "zh", "这段代码为什么会报错？"),
    ("missing", "zh", "请把这句话改得客气一点："),
    ("missing", "en", "Why does this code print nothing?"),
    ("missing", "en", "Can you summarise the following article"),
]

SOUND: list[tuple[Language, str]] = [
    ("zh", "用Python写一个函数，判断一个数是不是质数。"),
    ("zh", "请总结下面这段文字：小明今天去公园，看见许多人在放风筝。"),
    ("zh", "这段代码为什么会报错？\n```python\nprint(1 +)\n```"),
    ("zh", "“不积跬步，无以至千里”这句话是什么意思？"),
    ("zh", "北京的天气一年四季有什么特点？"),
    ("zh", "您好，请问怎么在Excel里求一列数的平均值？"),
    ("zh", "怎么画饼图最清楚？"),
    ("en", "What is gravity?"),
    ("en", "How do you say “你好” politely in a letter to a customer in China?"),
    ("en", "Why does this code print nothing?\n\nfor x in []:\n    print(x)"),
    ("en", "My sister is getting married. Write a short toast."),
]


@pytest.mark.parametrize(("fault", "language", "text"), FAULTY)
def test_each_fault_is_told(fault: Fault, language: Language, text: str) -> None:
    assert first_fault(text, True, language) == fault


@pytest.mark.parametrize(("language", "text"), SOUND)
def test_what_can_be_asked_has_none(language: Language, text: str) -> None:
    assert first_fault(text, True, language) is None


def test_what_the_model_did_not_end_is_no_prompt_whatever_it_says() -> None:
    assert all(first_fault(text, False, language) == "unended" for language, text in SOUND)


def test_every_fault_has_a_case() -> None:
    assert {fault for fault, _, _ in FAULTY} | {"unended"} == set(FAULTS)


def test_prompts_that_people_wrote_hardly_fall() -> None:
    chinese = [first_fault(one.text, True, "zh") for one in golden()]
    english = [first_fault(line, True, "en") for line in ENGLISH.read_text("utf-8").splitlines() if line.strip()]
    assert sum(map(bool, chinese)) <= 0.02 * len(chinese)
    assert len(english) > 100 and not any(english)


def test_a_long_text_of_one_character_is_judged_quickly() -> None:
    """A regular expression that backtracks would take minutes here."""
    assert first_fault("a" * 5000 + "\n" + "啊" * 5000, True, "zh") == "looping"
    assert first_fault("".join(chr(0x4E00 + place % 3000) for place in range(5000)) + "？", True, "zh") is None
