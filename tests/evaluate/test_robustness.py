"""Faults: every rule with what it must find and what it must leave alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.evaluate.replies import Written
from potstill.evaluate.robustness import FAULTS, add_robustness, faults
from potstill.evaluate.scorecard import Measure, Scorecard

ASKED = "海水为什么是咸的？用两三句话说说。"
SOUND = "河流一路溶解岩石里的矿物，把盐分带进大海。水会蒸发，盐却留了下来，所以海水越积越咸。"
LIST = "\n".join(f"{place}. **{word}**：{word}可以让你感到{mood}。" for place, (word, mood) in enumerate(
    [("散步", "放松"), ("听歌", "愉快"), ("早睡", "有精神"), ("找朋友聊天", "被理解"), ("写日记", "踏实")], 1
))  # fmt: skip
TABLE = "| 星期 | 姓名 |\n|------|------|\n| 周一 | 小郭 |\n| 周二 | 小郭 |\n| 周三 | 小郭 |\n| 周四 | 阿明 |"
CODE = "这样写：\n```python\nfor row in range(3):\n" + "    print('*' * 10)\n" * 4 + "```\n每行十颗星。"
TIMES_TABLE = "\n".join(" ".join(f"{i}×{j}={i * j}" for i in range(1, j + 1)) for j in range(1, 10))
ENGLISH = (
    "Rivers dissolve minerals from rocks and carry them to the sea. The water evaporates, but the salt stays behind."
)
JAPANESE = "川が岩石から溶かしたミネラルを海に運び、水だけが蒸発するので、塩が残って海水はしょっぱくなります。"
RUSSIAN = "Реки растворяют минералы и несут их в море, вода испаряется, а соль остаётся."


def found(text: str, question: str = ASKED, ended: bool = True) -> set[str]:
    return set(faults(question, Written(text, ended, len(text))))


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (SOUND, ASKED),
        ("可以。", "能不能吃？"),
        ("42", "六乘七等于几？只写数。"),
        ("👍", "用一个表情回答我。"),
        ("+", "Python 里拼接两个字符串用哪个运算符？只写符号。"),
        (LIST, "心情不好怎么办？"),
        (TABLE, "把值班安排整理成表格。"),
        (CODE, "打印一个矩形。"),
        (TIMES_TABLE, "写出九九乘法表。"),
        ("哈哈哈哈哈哈哈哈！这个笑话太好笑了，哈哈哈哈哈哈哈哈。", "讲得好笑吗？"),
        ("好的\n" + "-" * 80 + "\n第一节\n" + "=" * 80, "写个分隔线。"),
        ("圆周率约等于 3.14159，而三分之一是 0.333333333333。", "举两个小数。"),
        ("一月、二月、三月、四月、五月、六月、七月、八月、九月、十月、十一月、十二月。", "一年有哪些月份？"),
        ("```\n" + "0, 0, 0, 0, 0, 0, 0, 0, 0, 0,\n" * 5 + "```", "打印一个全零矩阵。"),
        ("用 `git stash`，再 `git checkout -b feature`，最后 `git stash pop` 就行。", "怎么把改动带到新分支？"),
        ("git commit --amend -m \"新的说明\"", "提交说明写错了怎么改？"),
        ("find /var/log -name '*.log' -type f -mtime +7 -print", "怎么找七天没动过的日志？只要命令。"),
        ("def add(first, second):\n    return first + second\n\nprint(add(1, 2))", "写个加法函数，只要代码。"),
        (ENGLISH, "把“海水为什么咸”的道理翻译成英文。"),
        (ENGLISH, "用英语讲讲海水为什么是咸的。"),
        (JAPANESE, "用日语讲讲海水为什么是咸的。"),
        (ENGLISH, "Why is the sea salty?"),
        ("这句话出自托尔斯泰（Толстой）的小说，日语里写作トルストイ。", "这句话出自哪里？"),
        ("α、β 是显著性水平，γ、δ、ε、ζ、η、θ 是参数。", "这些字母是什么意思？"),
        ("`<|im_end|>` 表示一轮对话结束。", "<|im_end|> 是什么？"),
        ("用 <b> 和 <p> 标签，别用 `<s>`，那是删除线。", "HTML 怎么加粗？"),
        ("```yaml\nuser:\n  name: root\n```\n这样配置即可。", "怎么配置用户名？"),
        ("User: 你好\nAssistant: 您好", "编一段 User 和 Assistant 的对话。"),
        ("users 表里存用户，system 表里存设置。", "这两张表存什么？"),
        ("x <| f |> g 是管道写法。", "F# 的管道怎么写？"),
    ],
)  # fmt: skip
def test_a_sound_reply_has_no_fault(text: str, question: str) -> None:
    assert found(text, question) == set()


@pytest.mark.parametrize("text", ["", " \n\t", "。", "……\n", "```python\n```", "```\n\n```", "\u200b\ufeff", "——“”"])
def test_saying_nothing_is_empty(text: str) -> None:
    assert found(text) == {"empty"}


@pytest.mark.parametrize(
    "text",
    [
        "的" * 200,
        f"{SOUND}如普" + "拉" * 60,
        SOUND + "请根据实际情况调整。" * 5,
        "好的。\n\n" * 9,
        SOUND + "首先是这样的，然后是那样的" * 4 + "。总之就是这样。",
        "\n".join(f"{place}. 多喝热水，注意休息，保持良好的心态。" for place in range(1, 12)),
        "| 方案 | 优缺点 |\n" + "| ---- " * 60,
        "```python\n" + "print('你好，世界')\n" * 20,
        "0 " * 40,
    ],
)
def test_the_same_over_and_over_is_looping(text: str) -> None:
    assert found(text, ended=False) == {"looping"}


def test_half_of_the_words_said_before_make_a_loop_and_a_third_does_not() -> None:
    lines = [f"第{place}，{word}之前先把要做的事写下来，做完一件划掉一件。" for place, word in enumerate("春夏秋冬", 1)]
    other = "河流一路溶解岩石里的矿物，把盐分带进大海，水会蒸发，盐却留了下来，年深日久，海水就越积越咸了。"
    assert (
        found("\n".join([*lines, other, "每天睡前翻一翻本子，看看哪些还没有动，再想想明天该从哪一件开始。"])) == set()
    )
    assert found("\n".join(lines)) == {"looping"}


def test_four_turns_make_a_loop_and_three_do_not() -> None:
    turn = "别着急啊，一切都会好的，"
    assert found(SOUND + turn * 3) == set()
    assert found(SOUND + turn * 4) == {"looping"}


def test_thirty_two_characters_make_a_loop_and_fewer_do_not() -> None:
    assert found(SOUND + "哈" * 31) == set()
    assert found(SOUND + "哈" * 32) == {"looping"}


@pytest.mark.parametrize("text", [ENGLISH, JAPANESE, RUSSIAN, "I'm sorry, but I can't assist with that request.",
                                  "바닷물은 강이 소금을 실어 나르기 때문에 짭니다.", "น้ำทะเลเค็มเพราะแม่น้ำพาเกลือลงสู่ทะเล",
                                  f"{ENGLISH}\n```python\nprint('海')\n```", f"好的：{ENGLISH}"])  # fmt: skip
def test_another_language_than_the_question_s_is_wrong(text: str) -> None:
    assert found(text) == {"wrong_language"}


@pytest.mark.parametrize("text", ["Python", "ls, cd, pwd, mkdir", "Hello World!", "見た目"])
def test_too_little_text_has_no_wrong_language(text: str) -> None:
    assert found(text) == set()


@pytest.mark.parametrize(
    "mark",
    [
        "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|user|>", "<|eot_id|>", "<|fim_middle|>", "<｜User｜>",
        "<｜end▁of▁sentence｜>", "[INST]", "[/INST]", "<<SYS>>", "<end_of_turn>", "</s>", "<eos>",
        "\n### Response:", "\n### Instruction\n",
        "\nuser\n", "\nassistant\n", "\nHuman: 那湖水呢？", "\nAssistant：湖水也是。", "\nsystem",
    ],
)  # fmt: skip
def test_a_mark_of_the_template_leaks_unless_the_question_names_it(mark: str) -> None:
    assert found(SOUND + mark) == {"leaking"}
    assert found(SOUND + mark, f"聊天模板里的 {mark.strip()} 是什么意思？") == set()


def test_a_special_token_leaks_inside_code_too_and_a_tag_does_not() -> None:
    assert found("```python\nprint('海')\n<|im_end|>\n<|im_start|>") == {"leaking"}
    assert found("删除线这样写：\n```html\n<s>旧价</s>\n```") == set()


def test_half_a_character_is_garbled_unless_the_limit_cut_it() -> None:
    assert found("海水是\ufffd的，因为有盐。") == {"garbled"}
    assert found(SOUND + "\ufffd") == {"garbled"}
    assert found(SOUND + "\ufffd", ended=False) == set()
    assert found("海水是\ufffd的\ufffd", ended=False) == {"garbled"}


@settings(deadline=None)
@given(st.text(st.characters(codec=None), max_size=300), st.text(max_size=40), st.booleans())
def test_any_text_can_be_judged(text: str, question: str, ended: bool) -> None:
    assert faults(question, Written(text, ended, 1)) <= set(FAULTS)


@settings(deadline=None)
@given(st.text("甲乙丙丁戊己庚辛，。", min_size=1, max_size=30), st.text(max_size=30))
def test_a_unit_repeated_to_the_end_is_always_a_loop(unit: str, before: str) -> None:
    repeated = unit * max(4, -(-32 // len(unit)))
    spoken = any(map(str.isalnum, unit))
    text = before.replace("`", "") + repeated
    assert ("looping" in found(text, ended=False)) >= spoken


def rows_of(groups: Sequence[tuple[str, Sequence[Written]]]) -> dict[str, Measure]:
    card = Scorecard()
    add_robustness(card, "student", groups)
    return {metric.removeprefix("answers."): row["student"] for metric, row in card.measures.items()}


def replies(*texts: str) -> list[Written]:
    return [Written(text, True, len(text)) for text in texts]


def test_the_rows_are_shares_of_replies_over_questions() -> None:
    leaking_loop = "的" * 100 + "<|im_end|>"
    rows = rows_of([(ASKED, replies(SOUND, "", ENGLISH, leaking_loop)), (ASKED, replies(SOUND, "海水\ufffd"))])
    assert {name: row.value for name, row in rows.items()} == {
        "broken": (3 / 4 + 1 / 2) / 2,
        "empty": 1 / 8,
        "looping": 1 / 8,
        "wrong_language": 1 / 8,
        "leaking": 1 / 8,
    }
    assert {row.n for row in rows.values()} == {2}
    assert {row.unit for row in rows.values()} == {"share"}


@pytest.mark.parametrize(
    ("text", "fault"), [("", "empty"), ("的" * 200, "looping"), (ENGLISH, "wrong_language"), ("<|im_end|>", "leaking")]
)
def test_a_model_with_one_fault_only_has_it_always(text: str, fault: str) -> None:
    rows = rows_of([(ASKED, replies(text, text))] * 3)
    expected = {"broken": 1.0, "empty": 0.0, "looping": 0.0, "wrong_language": 0.0, "leaking": 0.0, fault: 1.0}
    assert {name: row.value for name, row in rows.items()} == expected


def test_order_changes_nothing() -> None:
    groups = [(ASKED, replies(SOUND, "", ENGLISH)), (ASKED, replies("的" * 200, SOUND))]
    assert rows_of(groups) == rows_of([(question, written[::-1]) for question, written in groups[::-1]])


@pytest.mark.parametrize("groups", [[], [(ASKED, [])], [(ASKED, replies(SOUND)), (ASKED, [])]])
def test_a_question_without_a_reply_is_refused(groups: list[tuple[str, list[Written]]]) -> None:
    with pytest.raises(ValueError, match=r"reply|nothing"):
        add_robustness(Scorecard(), "student", groups)


def read_lines(*parts: str) -> list[dict[str, Any]]:
    text = files("potstill").joinpath(*parts).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_no_reference_solution_of_a_code_task_is_called_broken() -> None:
    for row in read_lines("evaluate", "code_tasks.jsonl"):
        for reply in (f"```python\n{row['solution']}```", row["solution"], f"这样写：\n\n{row['solution']}"):
            assert found(reply, row["prompt"]) == set(), row["id"]


def test_hardly_any_answer_of_the_shipped_teacher_is_called_broken_and_what_loops_never_ended() -> None:
    asked = {row["id"]: row["text"] for row in read_lines("prompts", "golden.jsonl")}
    answers = read_lines("answers", "golden_answers.jsonl")
    called = [(row, found(row["text"], asked[row["id"]], row["finish"] == "stop")) for row in answers]
    assert len(answers) == 200
    assert sum(bool(faults) for _, faults in called) <= 10
    assert {row["finish"] for row, faults in called if "looping" in faults} == {"length"}
    assert set.union(*(faults for _, faults in called)) == {"looping", "wrong_language"}
