"""What each stage of a run did: in a sentence, in facts, in time and bytes.

In:  `Material`: the manifest's entries, each stage's own report.
Out: `StageStory`s, and bars of time and size.
Does not know: the scorecard, HTML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from potstill.report.material import Material
from potstill.report.names import CATEGORIES
from potstill.report.words import Words, anything, count, duration, megabytes, millions, quantity, same

STORIES = {
    "prompts": (Words("Prompts", "提问"), Words("what the teacher was asked", "向教师提出的问题")),
    "answers": (Words("Answers", "回答"), Words("what the teacher wrote", "教师写下的答案")),
    "vocab": (Words("Vocabulary", "词表"), Words("the teacher's tokens that the student keeps", "学生保留的教师词元")),
    "signals": (
        Words("Signals", "信号"),
        Words("what the teacher thought at every answer token", "教师在每个答案词元处的内部状态"),
    ),
    "prune": (
        Words("Prune", "剪枝"),
        Words("the student is cut from the teacher and healed", "从教师剪出学生并加以修复"),
    ),
    "distill": (Words("Distill", "蒸馏"), Words("the student is trained on the signals", "用信号训练学生")),
    "export": (Words("Export", "导出"), Words("the student becomes GGUF files", "学生写成 GGUF 文件")),
    "evaluate": (
        Words("Evaluate", "评测"),
        Words("teacher and student are measured side by side", "教师与学生并排测量"),
    ),
}

PARTS = {
    **CATEGORIES,
    "train": Words("train", "训练"),
    "held-out": Words("held out", "留出"),
    "golden": Words("golden", "自带"),
    "exact": Words("duplicates", "重复"),
    "near": Words("near duplicates", "近似重复"),
    "overlap": Words("overlap", "与评测重叠"),
    "limit": Words("over the limit", "超出上限"),
    "bad": Words("unreadable", "无法读取"),
    "synthetic": Words("made up by the teacher", "教师自拟"),
    "wanted": Words("wanted", "需要"),
    "kinds": Words("kinds", "种类"),
    "fallen": Words("fallen", "淘汰"),
    "examples": Words("examples", "示例"),
    "unended": Words("not ended", "未写完"),
    "short": Words("too short", "过短"),
    "template": Words("template marks", "模板标记"),
    "looping": Words("looping", "循环"),
    "script": Words("other language", "语言不符"),
    "answer": Words("answers", "是回答"),
    "statement": Words("asks for nothing", "没有提问"),
    "impossible": Words("can't be done in text", "文本模型做不到"),
    "missing": Words("speaks of what isn't there", "所指内容缺失"),
    "read": Words("read", "读入"),
    "kept": Words("kept", "保留"),
    "stop": Words("by themselves", "自行结束"),
    "length": Words("cut at the limit", "达到上限被截断"),
    "given": Words("given", "自带答案"),
    "written": Words("written", "写出"),
    "written_before": Words("written before a restart", "重启前写出"),
    "shipped": Words("shipped with potstill", "随 potstill 附带"),
    "layers": Words("layers", "层数"),
    "ffn": Words("neurons a layer", "每层神经元"),
    "hidden": Words("width", "宽度"),
    "heads": Words("attention heads", "注意力头"),
    "kv_heads": Words("key-value heads", "键值头"),
    "head": Words("width of a head", "每头宽度"),
    "vocabulary": Words("tokens", "词元"),
    "tied": Words("tied embedding", "共享词嵌入"),
}
"""Words for keys and texts inside a report."""

LABELS: dict[str, tuple[Words, str]] = {
    "prompts.read": (Words("read", "读入"), "count"),
    "prompts.kept": (Words("kept", "保留"), "count"),
    "prompts.splits": (Words("split", "划分"), ""),
    "prompts.categories": (Words("categories", "类别"), ""),
    "prompts.given": (Words("came with an answer", "自带答案"), "count"),
    "prompts.dropped": (Words("left out", "剔除"), ""),
    "prompts.sources": (Words("sources", "来源"), ""),
    "prompts.synthetic": (Words("made up by the teacher", "教师自拟"), ""),
    "prompts.bad_lines": (Words("unreadable lines", "无法读取的行"), "items"),
    "answers.answers": (Words("answers", "答案数"), "count"),
    "answers.tokens": (Words("tokens", "词元"), "count"),
    "answers.finish": (Words("how they ended", "结束方式"), ""),
    "answers.origin": (Words("origin", "来历"), ""),
    "answers.empty": (Words("empty ones left out", "剔除的空答案"), "items"),
    "answers.too_long": (Words("prompts too long", "过长的提问"), "items"),
    "answers.refused": (Words("prompts that the server refuses", "服务器拒绝的提问"), "items"),
    "answers.longest_prompt": (Words("longest prompt allowed, tokens", "提问长度上限（词元）"), "count"),
    "answers.seconds": (Words("time writing", "书写用时"), "duration"),
    "answers.tokens_per_second": (Words("rate", "速率"), "tokens/s"),
    "answers.engine": (Words("written by", "写作者"), ""),
    "answers.teacher": (Words("teacher", "教师"), ""),
    "answers.settings": (Words("sampling", "采样设置"), ""),
    "answers.seed": (Words("seed", "随机种子"), ""),
    "vocab.size": (Words("tokens kept", "保留词元"), "count"),
    "vocab.lengthening": (Words("length of held-out text", "留出文本长度"), "times"),
    "vocab.kept_probability": (Words("teacher's probability on kept tokens", "教师概率落在保留词元上"), "share"),
    "vocab.bound_tokens": (Words("tokens bound to the teacher's", "与教师词元绑定的词元"), "count"),
    "vocab.shared_places": (Words("answer tokens with a shared start", "有共同起点的答案词元"), "share"),
    "vocab.measured_tokens": (Words("tokens measured", "测量词元"), "count"),
    "vocab.used_by_training_text": (Words("used by the training text", "训练文本用到"), "count"),
    "signals.answers": (Words("answers read", "读过的答案"), "count"),
    "signals.tokens_read": (Words("tokens read", "读过的词元"), "count"),
    "signals.answer_tokens": (Words("answer tokens kept", "保留的答案词元"), "count"),
    "signals.bytes_per_token": (Words("bytes a token", "每词元字节"), "bytes"),
    "signals.megabytes": (Words("size", "大小"), "megabytes"),
    "signals.tokens_per_second": (Words("rate", "速率"), "tokens/s"),
    "prune.parameters": (Words("parameters", "参数量"), "parameters"),
    "prune.cut": (Words("of the body cut away", "主体剪去的比例"), "share"),
    "prune.spec": (Words("shape", "形状"), ""),
    "prune.kept_layers": (Words("kept layers", "保留的层"), ""),
    "prune.calibration_tokens": (Words("calibration tokens", "校准词元"), "count"),
    "prune.healed": (Words("healed", "已修复"), ""),
    "prune.base": (Words("cut from", "剪自"), ""),
    "prune.initialised": (Words("start", "初始"), ""),
    "prune.influence": (Words("influence of each layer", "各层影响"), ""),
    "distill.steps": (Words("steps", "步数"), "count"),
    "distill.seconds": (Words("time", "用时"), "duration"),
    "distill.answer_tokens": (Words("answer tokens", "答案词元"), "count"),
    "distill.tokens": (Words("tokens", "词元"), "count"),
    "distill.tokens_per_second": (Words("rate", "速率"), "tokens/s"),
    "distill.passes": (Words("passes over the answers", "遍历答案次数"), ""),
    "distill.first_loss": (Words("loss at the first step", "首步损失"), ""),
    "distill.last_loss": (Words("loss at the last step", "末步损失"), ""),
    "distill.dtype": (Words("computed in", "计算精度"), ""),
}
UNTOLD = {"export": {"files"}, "answers": {"teacher_sha256"}}
"""Report keys that have their own place on the page."""


@dataclass(frozen=True)
class StageStory:
    """One stage, told: its name, what it does, facts as (label, value)."""

    key: str
    title: Words
    meaning: Words
    facts: tuple[tuple[Words, Words], ...]


@dataclass(frozen=True)
class Bar:
    """A labelled amount; `share` is its length in percent, whisker ends are None where there is no interval."""

    label: Words
    value: Words
    note: Words
    share: float
    low: float | None = None
    high: float | None = None
    strong: bool = False


def stage_name(key: str) -> Words:
    """A stage's name; the key itself for one nobody has named."""
    return STORIES[key][0] if key in STORIES else same(key)


def stage_stories(material: Material) -> list[StageStory]:
    """Every stage that left a report; keys without a label are shown under their own name."""
    stories = []
    for stage, report in material.reports.items():
        facts = tuple(_fact(stage, key, value) for key, value in report.items() if key not in UNTOLD.get(stage, ()))
        if facts:
            title, meaning = STORIES.get(stage, (same(stage), same("")))
            stories.append(StageStory(stage, title, meaning, facts))
    return stories


def time_bars(material: Material) -> list[Bar]:
    """Seconds each stage took, with its share of the whole and its peak memory."""
    seconds = {stage: float(entry.get("seconds") or 0.0) for stage, entry in material.stages.items()}
    bars = []
    for stage, entry in material.stages.items():
        peak = entry.get("peak_memory_mb")
        note = same("") if peak is None else Words("peak ", "峰值 ") + megabytes(float(peak))
        bars.append(Bar(stage_name(stage), duration(seconds[stage]), note, _share(seconds, stage)))
    return bars


def byte_bars(material: Material) -> list[Bar]:
    """Bytes that lie in each stage's folder."""
    sizes = {stage: float(size) for stage, size in material.bytes.items()}
    total = sum(sizes.values()) or 1.0
    return [
        Bar(stage_name(stage), megabytes(size / 1e6), same(f"{100 * size / total:.0f}%"), _share(sizes, stage))
        for stage, size in sizes.items()
    ]


def total_seconds(material: Material) -> Words:
    """Time of all stages together."""
    return duration(sum(float(entry.get("seconds") or 0.0) for entry in material.stages.values()))


def total_bytes(material: Material) -> Words:
    """Size of all stage folders together."""
    return megabytes(sum(material.bytes.values()) / 1e6)


def _share(amounts: Mapping[str, float], key: str) -> float:
    return round(100 * amounts[key] / (max(amounts.values()) or 1.0), 2)


def _fact(stage: str, key: str, value: Any) -> tuple[Words, Words]:
    label, form = LABELS.get(f"{stage}.{key}", (same(key), ""))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return label, _amount(float(value), form) if form else anything(value, PARTS)
    if form == "items" and isinstance(value, list):
        return label, count(len(value)) + (same(": ") + anything(value, PARTS) if value else "")
    if key == "kept_layers" and isinstance(value, list):
        return label, same(_ranges(value))
    return label, anything(value, PARTS)


def _ranges(numbers: list[int]) -> str:
    """`1–6, 9, 11–24`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _amount(value: float, form: str) -> Words:
    match form:
        case "count":
            return count(value)
        case "times":
            return same(f"{value:.4f}×")
        case "duration":
            return duration(value)
        case "megabytes":
            return megabytes(value)
        case "parameters":
            return millions(value)
        case _:
            return quantity(value, form)
