"""What groups, models and parts of the scorecard are called, and in which order they stand.

In:  a group, a model, or the last part of a key such as `fidelity.kl.office`.
Out: `Words`; the name itself for one that nobody has named.
Does not know: values, metrics, HTML.
"""

from __future__ import annotations

import re

from potstill.report.words import Words, same

GROUPS = {
    "speed": Words("Speed", "速度"),
    "memory": Words("Memory", "内存"),
    "energy": Words("Energy", "能耗"),
    "size": Words("Size", "体积"),
    "fidelity": Words("Fidelity to the teacher", "与教师的接近程度"),
    "code": Words("Code", "代码"),
    "commonsense": Words("Commonsense", "常识"),
    "stability": Words("Stability", "稳定性"),
    "stream": Words("Streaming", "流式输出"),
    "answers": Words("Answers", "答案质量"),
    "naturalness": Words("Naturalness", "自然度"),
}

MODELS = {
    "teacher": Words("Teacher", "教师"),
    "cut": Words("Cut", "剪枝后"),
    "healed": Words("Healed", "修复后"),
    "trained": Words("Trained", "训练后"),
    "student": Words("Student", "学生"),
    "chance": Words("Chance", "随机猜测"),
    "smollm2-135m-instruct": same("SmolLM2 135M Instruct"),
}
FIRST = ("teacher", "cut", "healed", "trained")
"""Columns as people compare them: these, the student's other files, the student, whoever else was measured, chance."""
QUANTISED = "student-"
"""How the names of the student's other files begin: `student-Q8_0`."""
MARKS = ("teacher", "student", "cut", "healed", "trained", "chance")
"""Models that are drawn in a way of their own."""

CATEGORIES = {
    "everyday": Words("everyday", "日常"),
    "office": Words("office", "办公"),
    "code": Words("code", "代码"),
    "social": Words("social", "社会"),
    "physical": Words("physical", "物理"),
    "temporal": Words("temporal", "时间"),
    "language": Words("language", "语言"),
}
LENGTHS = {
    "short": Words("short prompt", "短提问"),
    "middle": Words("middle prompt", "中等提问"),
    "long": Words("long prompt", "长提问"),
}
KINDS = {
    "category": Words("By category", "按类别"),
    "position": Words("By position in the answer", "按答案中的位置"),
    "length": Words("By prompt length", "按提问长度"),
    "threads": Words("By threads", "按线程数"),
}
"""What the last part of a key tells apart; headings of the tables that are opened by a click."""
QUANTISATION = Words("By quantisation", "按量化格式")
SETS = {
    "code": Words("By question set", "按题集"),
    "commonsense": Words("By category and question set", "按类别与题集"),
}
"""Groups whose parts are, or also are, question sets of others."""

_THREADS = re.compile(r"(\d+)_threads?(_active)?")
_TOKENS = re.compile(r"tokens_(\d+)_(\d+|on)")


def group_named(name: str) -> Words:
    """Heading of the metrics whose keys begin with `name.`."""
    return GROUPS.get(name, same(name))


def model_named(name: str) -> Words:
    """A model's column heading; `student-Q8_0` is the student as another file."""
    if name in MODELS:
        return MODELS[name]
    if is_quantised(name):
        return MODELS["student"] + f" {name.removeprefix(QUANTISED)}"
    return same(name)


def is_quantised(name: str) -> bool:
    """Whether this is the student in a type that isn't the shipped one."""
    return name.startswith(QUANTISED)


def mark_of(model: str) -> str:
    """The kind of mark that stands for a model in a picture."""
    if model in MARKS:
        return model
    return "quantised" if is_quantised(model) else "other"


def in_order(models: list[str]) -> list[str]:
    """Columns in the order that people compare them in."""
    return sorted(models, key=_rank)


def part_kind(part: str) -> str:
    """Which of `KINDS` a key's last part belongs to; whatever isn't known is a category."""
    if part in LENGTHS:
        return "length"
    if _THREADS.fullmatch(part):
        return "threads"
    return "position" if _TOKENS.fullmatch(part) else "category"


def kind_named(kind: str, group: str) -> Words:
    """Heading of a group's rows whose last parts are of that kind."""
    return SETS.get(group, KINDS[kind]) if kind == "category" else KINDS[kind]


def part_named(part: str) -> Words:
    """A key's last part for people: `tokens_1_16` is tokens 1 – 16."""
    if threads := _THREADS.fullmatch(part):
        many = threads[1] != "1"
        words = Words(f"{threads[1]} thread{'s' if many else ''}", f"{threads[1]} 线程")
        return words + Words(", busy waiting", "，忙等") if threads[2] else words
    if tokens := _TOKENS.fullmatch(part):
        if tokens[2] == "on":
            return Words(f"token {tokens[1]} onwards", f"第 {tokens[1]} 个词元起")
        return Words(f"tokens {tokens[1]} – {tokens[2]}", f"第 {tokens[1]} – {tokens[2]} 个词元")
    return LENGTHS.get(part) or CATEGORIES.get(part) or same(part)


def _rank(model: str) -> int:
    if model in FIRST:
        return FIRST.index(model)
    places = {"student": 1, "chance": 3}
    return len(FIRST) + (0 if is_quantised(model) else places.get(model, 2))
