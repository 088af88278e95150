"""What each metric of the scorecard means, and which way is better.

In:  a scorecard key such as `fidelity.kl`.
Out: its `Metric`; one for a key nobody has described yet, too.
Does not know: values, models, HTML.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from potstill.report.words import Words, same

BETTER, WORSE = Words("better", "更好"), Words("worse", "更差")
FASTER, SLOWER = Words("faster", "更快"), Words("slower", "更慢")
SMALLER, LARGER = Words("smaller", "更小"), Words("larger", "更大")


@dataclass(frozen=True)
class Metric:
    """One row of the scorecard, explained.

    Args:
        key: as in the scorecard. title: its name. meaning: half a sentence. better: which way is better, where that
        is known. unit: taken where the scorecard says none. gain, loss: what a better and a worse value is called.
        logarithmic: drawn on a logarithmic axis that starts at 1. exact: needs no interval.
    """

    key: str
    title: Words
    meaning: Words
    better: Literal["lower", "higher"] | None
    unit: str = ""
    gain: Words = BETTER
    loss: Words = WORSE
    logarithmic: bool = False
    exact: bool = False


METRICS = (
    Metric(
        "speed.first_token_ms",
        Words("First token", "首词元延迟"),
        Words("wait from the question to the first token of the answer", "从提问到答案第一个词元出现的等待时间"),
        "lower", "ms", Words("sooner", "更早"), Words("later", "更晚"),
    ),
    Metric(
        "speed.decode_tok_s",
        Words("Decode", "生成速度"),
        Words("tokens written a second once the answer has begun", "答案开始之后每秒写出的词元数"),
        "higher", "tokens/s", FASTER, SLOWER,
    ),
    Metric(
        "speed.load_s",
        Words("Load", "加载时间"),
        Words("time from opening the file until the model can be asked", "从打开文件到可以提问的时间"),
        "lower", "s", FASTER, SLOWER,
    ),
    Metric(
        "memory.peak_mb",
        Words("Peak memory", "内存峰值"),
        Words("most memory the engine held while it answered", "引擎回答时占用内存的最高值"),
        "lower", "MB", SMALLER, LARGER,
    ),
    Metric(
        "size.file_mb",
        Words("File size", "文件大小"),
        Words("size of the file that is shipped", "发布文件的大小"),
        "lower", "MB", SMALLER, LARGER, exact=True,
    ),
    Metric(
        "fidelity.kl",
        Words("KL divergence", "KL 散度"),
        Words(
            "distance of its next-token probabilities from the teacher's; 0 means identical",
            "下一词元概率分布与教师的距离，0 表示完全相同",
        ),
        "lower", "nats",
    ),
    Metric(
        "fidelity.top1",
        Words("Top-1 agreement", "首选一致率"),
        Words("how often its likeliest next token is the teacher's", "最可能的下一词元与教师相同的比例"),
        "higher", "share",
    ),
    Metric(
        "fidelity.top5",
        Words("Top-5 agreement", "前五命中率"),
        Words("how often the teacher's likeliest token is among its first five", "教师的首选词元在它前五名内的比例"),
        "higher", "share",
    ),
    Metric(
        "fidelity.perplexity",
        Words("Perplexity", "困惑度"),
        Words("how surprised it is by the teacher's answers; 1 is no surprise", "对教师答案的意外程度，1 表示毫不意外"),
        "lower", logarithmic=True,
    ),
    Metric(
        "code.runs",
        Words("Code runs", "代码可运行"),
        Words("share of code answers that run without an error", "代码答案运行不报错的比例"),
        "higher", "share",
    ),
    Metric(
        "code.passes",
        Words("Code passes", "代码通过"),
        Words("share of code answers that pass the hidden checks", "代码答案通过隐藏检查的比例"),
        "higher", "share",
    ),
    Metric(
        "commonsense.error",
        Words("Commonsense errors", "常识错误率"),
        Words("share of questions where a wrong choice is likelier", "更倾向于错误选项的题目比例"),
        "lower", "share",
    ),
    Metric(
        "commonsense.error_written",
        Words("Commonsense errors, written", "常识错误率（书写）"),
        Words("share of questions where the choice it writes is wrong", "写出的选项是错误的题目比例"),
        "lower", "share",
    ),
    Metric(
        "stability.bleu4_variance",
        Words("BLEU-4 variance", "BLEU-4 方差"),
        Words("how much the wording differs between answers to one question", "同一问题的多次回答在措辞上的差异"),
        "lower",
    ),
    Metric(
        "stability.similarity",
        Words("Similarity", "语义相似度"),
        Words("how alike several answers to one question are in meaning", "同一问题的多次回答在意思上的相近程度"),
        "higher",
    ),
    Metric(
        "stability.ended",
        Words("Ended by itself", "自行结束"),
        Words("share of answers that end before they are cut off", "在被截断之前自行结束的答案比例"),
        "higher", "share",
    ),
    Metric(
        "stream.gap_p95_ms",
        Words("Longest pauses", "输出停顿"),
        Words("pause between two tokens that 95% stay below", "95% 的词元间隔短于此值"),
        "lower", "ms", Words("shorter", "更短"), Words("longer", "更长"),
    ),
    Metric(
        "answers.broken",
        Words("Broken answers", "破损答案"),
        Words(
            "share that is empty, looping, in the wrong language or leaks the template",
            "空白、循环、语言不对或泄漏模板的比例",
        ),
        "lower", "share",
    ),
    Metric(
        "naturalness.mean",
        Words("Naturalness", "自然度"),
        Words("mean of people's blind ratings, 1 to 5", "人工盲评的平均分，1 到 5"),
        "higher",
    ),
)  # fmt: skip

GROUPS = {
    "speed": Words("Speed", "速度"),
    "memory": Words("Memory", "内存"),
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
}
"""In the order of their columns; models the scorecard has beside these follow."""

_KNOWN = {metric.key: metric for metric in METRICS}


def metric_named(key: str) -> Metric:
    """The metric of that key; of `fidelity.kl.office`, what is known of `fidelity.kl`; else one without words."""
    if key in _KNOWN:
        return _KNOWN[key]
    parent, _, part = key.rpartition(".")
    while parent:
        if parent in _KNOWN:
            known = _KNOWN[parent]
            return replace(known, key=key, title=known.title + f" · {part}")
        parent, _, above = parent.rpartition(".")
        part = f"{above}.{part}"
    return Metric(key, same(key), Words("no explanation is known for this key", "此键尚无说明"), None)


def group_named(name: str) -> Words:
    """Heading of the metrics whose keys begin with `name.`."""
    return GROUPS.get(name, same(name))


def model_named(name: str) -> Words:
    """A model's column heading."""
    return MODELS.get(name, same(name))


def in_order(models: list[str]) -> list[str]:
    """Columns as people compare them: teacher, the stages of the student, then whoever else was measured."""
    known = [name for name in MODELS if name in models]
    return known + [name for name in models if name not in MODELS]
