"""A run folder as the stages would leave it, with believable numbers and no model behind them.

In:  an empty folder.
Out: a `Run` whose folder holds every file that the report reads.
Does not know: the report.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from finished_evaluation import failures, gates, other_files, quality, reading, stability

from potstill.recipe import Recipe
from potstill.run import Run, write_json

SECONDS = {
    "prompts": 1.4, "answers": 2.2, "vocab": 21.8, "signals": 236.4, "prune": 231.9, "distill": 601.7, "export": 9.6,
    "evaluate": 187.3,
}  # fmt: skip
MEGABYTES = {
    "prompts": 0.1, "answers": 0.2, "vocab": 3.1, "signals": 46.4, "prune": 0.62, "distill": 0.61, "export": 0.55,
    "evaluate": 0.04,
}  # fmt: skip
"""Of filler in each folder; weights are far smaller here than in a real run."""


def build_run(folder: Path) -> Run:
    """Write a whole run, all stages done but the report."""
    rules = {gate["metric"]: gate["rule"] for gate in gates()}
    recipe = Recipe.model_validate({"name": "demo", "distill": {"budget_minutes": 10}, "gates": rules})
    run = Run(folder, recipe)
    run.keep_recipe()
    for stage, report in _reports().items():
        (folder / stage).mkdir(parents=True)
        (folder / stage / "filler.bin").write_bytes(b"\0" * int(MEGABYTES[stage] * 100_000))
        if report is not None:
            write_json(folder / stage / "report.json", report)
    (folder / "distill" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in training_log(240)))
    write_json(folder / "evaluate" / "scorecard.json", full_scorecard())
    write_json(folder / "evaluate" / "stability.json", stability())
    write_json(folder / "evaluate" / "failures.json", failures())
    write_json(folder / "evaluate" / "samples.json", samples())
    write_json(folder / "manifest.json", {"recipe": "demo", "stages": _manifest()})
    return run


def scorecard() -> dict[str, dict[str, dict[str, Any]]]:
    """The scorecard's first version: teacher, student, and the student's stages where only fidelity is known."""
    return {
        "speed.first_token_ms": {
            "teacher": reading(343.2, 331.0, 358.4, 12, "ms"),
            "student": reading(164.8, 158.9, 171.3, 12, "ms"),
        },
        "speed.decode_tok_s": {
            "teacher": reading(28.9, 28.1, 29.4, 12, "tokens/s"),
            "student": reading(126.4, 121.7, 130.2, 12, "tokens/s"),
        },
        "speed.load_s": {
            "teacher": reading(0.91, 0.78, 1.2, 3, "s"),
            "student": reading(0.83, 0.62, 1.07, 3, "s"),
        },
        "memory.peak_mb": {
            "teacher": reading(603.0, 601.2, 605.9, 3, "MB"),
            "student": reading(171.5, 170.8, 172.6, 3, "MB"),
        },
        "size.file_mb": {
            "teacher": reading(491.4, None, None, 1, "MB"),
            "student": reading(85.36, None, None, 1, "MB"),
        },
        "fidelity.kl": {
            "teacher": reading(0.0, 0.0, 0.0, 40, "nats"),
            "cut": reading(6.91, 6.78, 7.05, 40, "nats"),
            "healed": reading(1.57, 1.49, 1.66, 40, "nats"),
            "trained": reading(1.15, 1.06, 1.24, 40, "nats"),
            "student": reading(1.184, 1.112, 1.261, 40, "nats"),
        },
        "fidelity.top1": {
            "teacher": reading(1.0, 1.0, 1.0, 40, "share"),
            "cut": reading(0.021, 0.017, 0.026, 40, "share"),
            "healed": reading(0.461, 0.443, 0.478, 40, "share"),
            "trained": reading(0.53, 0.51, 0.55, 40, "share"),
            "student": reading(0.523, 0.505, 0.541, 40, "share"),
        },
        "fidelity.top5": {
            "teacher": reading(1.0, 1.0, 1.0, 40, "share"),
            "cut": reading(0.064, 0.055, 0.073, 40, "share"),
            "healed": reading(0.712, 0.694, 0.729, 40, "share"),
            "trained": reading(0.77, 0.75, 0.79, 40, "share"),
            "student": reading(0.773, 0.757, 0.789, 40, "share"),
        },
        "fidelity.perplexity": {
            "teacher": reading(1.84, 1.79, 1.9, 40, "perplexity"),
            "cut": reading(2310.0, 1980.0, 2700.0, 40, "perplexity"),
            "healed": reading(9.12, 8.4, 9.9, 40, "perplexity"),
            "trained": reading(6.4, 5.9, 6.9, 40, "perplexity"),
            "student": reading(6.03, 5.6, 6.5, 40, "perplexity"),
        },
    }


def full_scorecard() -> dict[str, dict[str, dict[str, Any]]]:
    """Every row and every model of a whole evaluation."""
    others = other_files()
    return {key: models | others.get(key, {}) for key, models in (scorecard() | quality()).items()}


def samples() -> list[dict[str, str]]:
    """Held-out questions; one answer is wrong and one is cut short, as they would be."""
    return [
        {
            "id": "everyday-027",
            "category": "everyday",
            "prompt": "阳台上的绿萝叶子发黄，一周浇两次水，是浇多了还是浇少了？",
            "teacher": "叶子发黄多半是浇多了。\n\n1. 先摸土：手指插进去两厘米，还湿就别浇。\n"
            "2. 看黄叶位置：下部老叶先黄、发软，是积水；"
            "叶尖干枯发脆，才是缺水。\n3. 换成“见干见湿”：表层干透再一次浇透，倒掉托盘里的水。",
            "student": "绿萝的叶子发黄，一般是因为浇水太多。可以先摸一摸土，如果土还是湿的，就不要浇水。"
            "绿萝喜欢喜欢湿润的环境，所以每天都要浇水。",
        },
        {
            "id": "office-014",
            "category": "office",
            "prompt": "把下面这句话改得客气一点：\n\n“报表周五之前必须给我，别再拖了。”",
            "teacher": "“麻烦您在周五之前把报表发给我，好吗？后面的汇总要等它，辛苦了。”",
            "student": "“请您在周五之前把报表发给我，谢谢您的配合。”",
        },
        {
            "id": "code-031",
            "category": "code",
            "prompt": "用 Python 写函数 count_words(text)，返回每个单词出现的次数，不分大小写。",
            "teacher": "```python\nfrom collections import Counter\n\n\ndef count_words(text):\n"
            "    return Counter(text.lower().split())\n```\n\n`split()` 按空白切分，`Counter` 负责计数。",
            "student": "```python\ndef count_words(text):\n    words = text.split()\n    count = {}\n"
            "    for word in words:\n        if word in count:\n            count[word] += 1\n    return count\n```",
        },
        {
            "id": "everyday-072",
            "category": "everyday",
            "prompt": "一句话说清楚什么是保质期。",
            "teacher": "食品在规定条件下保持品质的期限。",
            "student": "",
        },
    ]


def training_log(steps: int) -> list[dict[str, Any]]:
    """A loss that falls and jitters, seeded."""
    noise = random.Random(0)
    lines = []
    for step in range(1, steps + 1):
        share = step / steps
        kl = 1.12 + 0.5 * math.exp(-4 * share) + noise.gauss(0, 0.06)
        lines.append(
            {
                "step": step, "progress": share, "seconds": 597.0 * share, "positions": 610, "tokens": 1015, "loss": kl,
                "forward_kl": kl,
            }
        )  # fmt: skip
    return lines


def _reports() -> dict[str, dict[str, Any] | None]:
    return {
        "prompts": {
            "read": 204, "kept": 200, "splits": {"train": 160, "held-out": 40},
            "categories": {"code": {"train": 40, "held-out": 10}, "everyday": {"train": 64, "held-out": 16},
                           "office": {"train": 56, "held-out": 14}},
            "given": 0, "dropped": {"exact": 1, "near": 3, "overlap": {}, "limit": 0, "bad": 0},
        },
        "answers": {
            "answers": 200, "tokens": 41873, "finish": {"stop": 176, "length": 24, "given": 0},
            "origin": {"written": 0, "written_before": 0, "shipped": 200, "given": 0}, "empty": [], "too_long": [],
            "longest_prompt": 448, "seconds": 0.0, "tokens_per_second": None,
            "teacher": "qwen2.5-coder-0.5b-instruct", "teacher_sha256": "1d96" * 16,
            "settings": {"temperature": 0.7, "top_p": 0.8, "top_k": 20}, "seed": 0,
        },
        "vocab": {"size": 32768, "lengthening": 1.0213, "kept_probability": 0.9934, "measured_tokens": 8412,
                  "used_by_training_text": 6120},
        "signals": {"answers": 200, "tokens_read": 58210, "answer_tokens": 42310, "bytes_per_token": 910.2,
                    "megabytes": 38.5, "tokens_per_second": 246.0},
        "prune": {"spec": {"layers": 24, "ffn": 1216, "hidden": 896, "vocabulary": 32768, "tied": True},
                  "parameters": 149_837_696, "kept_layers": list(range(1, 25)), "influence": [],
                  "calibration_tokens": 59_812, "healed": True},
        "distill": {"steps": 240, "seconds": 597.0, "answer_tokens": 146_400, "tokens": 243_600,
                    "tokens_per_second": 408.0, "passes": 4.33, "first_loss": 1.66, "last_loss": 1.13,
                    "dtype": "bfloat16"},
        "export": {"files": [
            {"name": "demo-F16.gguf", "type": "F16", "megabytes": 300.9, "largest_difference": 0.0061},
            {"name": "demo-Q8_0.gguf", "type": "Q8_0", "megabytes": 160.2, "largest_difference": 0.41},
            {"name": "demo-Q4_0.gguf", "type": "Q4_0", "megabytes": 85.36, "largest_difference": None},
        ]},
        "evaluate": None,
    }  # fmt: skip


def _manifest() -> dict[str, Any]:
    versions = {"potstill": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "xllamacpp": "2026.10.11549"}
    return {
        stage: {
            "fingerprint": f"{index + 1:x}" * 16,
            "finished": f"2026-11-24T08:{20 + 3 * index:02d}:11+00:00",
            "seconds": seconds,
            "peak_memory_mb": 900 + 310 * index,
            "versions": versions,
            "machine": "x86_64, 2 cores, Linux, Python 3.11.9",
        }
        for index, (stage, seconds) in enumerate(SECONDS.items())
    }
