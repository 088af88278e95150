"""What each metric of the scorecard means, and which way is better.

In:  a scorecard key such as `fidelity.kl` or `fidelity.kl.office`.
Out: its `Metric`; one for a key nobody has described yet, too.
Does not know: values, models, HTML.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from potstill.report.names import part_named
from potstill.report.words import NOT_MEASURED, Words, join, same

BETTER, WORSE = Words("better", "更好"), Words("worse", "更差")
FASTER, SLOWER = Words("faster", "更快"), Words("slower", "更慢")
SMALLER, LARGER = Words("smaller", "更小"), Words("larger", "更大")
SHORTER, LONGER = Words("shorter", "更短"), Words("longer", "更长")
LESS, MORE = Words("less", "更少"), Words("more", "更多")


@dataclass(frozen=True)
class Metric:
    """One row of the scorecard, explained.

    Args:
        key: as in the scorecard. title: its name. meaning: half a sentence. better: which way is better, where that
        is known. unit: taken where the scorecard says none. gain, loss: what a better and a worse value is called.
        logarithmic: drawn on a logarithmic axis that starts at 1. exact: needs no interval. start, end: of its axis;
        without an end, a little above the largest value. absent: said where there is no value.
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
    start: float = 0.0
    end: float | None = None
    absent: Words = NOT_MEASURED


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
        "memory.steady_mb",
        Words("Steady memory", "常驻内存"),
        Words("memory the engine holds between answers", "引擎在两次回答之间占用的内存"),
        "lower", "MB", SMALLER, LARGER,
    ),
    Metric(
        "energy.joules_per_token",
        Words("Energy per token", "每词元能耗"),
        Words("energy the machine took for each token written", "每写出一个词元所消耗的能量"),
        "lower", "J", LESS, MORE,
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
        "commonsense.unreadable",
        Words("No readable choice", "未写出选项"),
        Words("share of questions where what it writes names no choice", "写出的内容没有指明选项的题目比例"),
        "lower", "share",
    ),
    Metric(
        "stability.bleu4_variance",
        Words("BLEU-4 variance", "BLEU-4 方差"),
        Words("how unevenly alike in wording the answers to one question are", "同一问题的多次回答措辞相近程度的起伏"),
        "lower",
    ),
    Metric(
        "stability.bleu4",
        Words("BLEU-4 between answers", "答案间 BLEU-4"),
        Words("how alike several answers to one question are in wording", "同一问题的多次回答在措辞上的相近程度"),
        "higher", end=1.0,
    ),
    Metric(
        "stability.similarity",
        Words("Similarity", "语义相似度"),
        Words("how alike several answers to one question are in meaning", "同一问题的多次回答在意思上的相近程度"),
        "higher", end=1.0,
    ),
    Metric(
        "stability.repetition",
        Words("Repetition", "重复率"),
        Words("share of an answer that repeats what it has said", "答案中重复前文的部分所占比例"),
        "lower", "share",
    ),
    Metric(
        "stability.ended",
        Words("Ended by itself", "自行结束"),
        Words("share of answers that end before they are cut off", "在被截断之前自行结束的答案比例"),
        "higher", "share",
    ),
    Metric(
        "stream.gap_p50_ms",
        Words("Usual pauses", "通常停顿"),
        Words("pause between two tokens that half stay below", "一半的词元间隔短于此值"),
        "lower", "ms", SHORTER, LONGER,
    ),
    Metric(
        "stream.gap_p95_ms",
        Words("Long pauses", "较长停顿"),
        Words("pause between two tokens that 95% stay below", "95% 的词元间隔短于此值"),
        "lower", "ms", SHORTER, LONGER,
    ),
    Metric(
        "stream.gap_longest_ms",
        Words("Longest pause", "最长停顿"),
        Words("the longest pause between two tokens", "两个词元之间最长的间隔"),
        "lower", "ms", SHORTER, LONGER,
    ),
    Metric(
        "stream.characters_s",
        Words("Reading speed", "出字速度"),
        Words("characters that appear a second", "每秒出现的字符数"),
        "higher", "characters/s", FASTER, SLOWER,
    ),
    Metric(
        "stream.garbled",
        Words("Garbled while streaming", "流式乱码"),
        Words("share of streamed answers in which a character arrives broken", "流式输出中出现损坏字符的答案比例"),
        "lower", "share",
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
        "answers.empty",
        Words("Empty answers", "空白答案"),
        Words("share of answers without a word", "一个字也没有的答案比例"),
        "lower", "share",
    ),
    Metric(
        "answers.looping",
        Words("Looping answers", "循环答案"),
        Words("share of answers that say the same over and over", "反复说同样内容的答案比例"),
        "lower", "share",
    ),
    Metric(
        "answers.wrong_language",
        Words("Wrong language", "语言不对"),
        Words("share of answers in another language than the question's", "所用语言与提问不符的答案比例"),
        "lower", "share",
    ),
    Metric(
        "answers.leaking",
        Words("Leaking template", "泄漏模板"),
        Words("share of answers with marks of the chat template in them", "混入对话模板标记的答案比例"),
        "lower", "share",
    ),
    Metric(
        "naturalness.mean",
        Words("Naturalness", "自然度"),
        Words("mean of people's blind ratings, 1 to 5", "人工盲评的平均分，1 到 5"),
        "higher", start=1.0, end=5.0, absent=Words("not rated", "无人评分"),
    ),
    Metric(
        "naturalness.alpha",
        Words("Agreement of raters", "评分一致性"),
        Words("Krippendorff's alpha; 1 is full agreement, 0 is chance", "克里彭多夫 α，1 为完全一致，0 为随机"),
        "higher", end=1.0, absent=Words("not rated", "无人评分"),
    ),
)  # fmt: skip

_KNOWN = {metric.key: metric for metric in METRICS}


def metric_named(key: str) -> Metric:
    """The metric of that key; of `fidelity.kl.office`, what is known of `fidelity.kl`; else one without words."""
    if key in _KNOWN:
        return _KNOWN[key]
    parent, _, part = key.rpartition(".")
    parts = [part]
    while parent:
        if parent in _KNOWN:
            known = _KNOWN[parent]
            title = join([known.title, *(part_named(one) for one in parts)], " · ", " · ")
            return replace(known, key=key, title=title)
        parent, _, above = parent.rpartition(".")
        parts.insert(0, above)
    return Metric(key, same(key), Words("no explanation is known for this key", "此键尚无说明"), None)


def is_known(key: str) -> bool:
    """Whether somebody has described this metric, or the one that it is a part of."""
    return key in _KNOWN or any(key.startswith(f"{known}.") for known in _KNOWN)
