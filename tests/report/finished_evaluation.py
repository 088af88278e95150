"""What a full evaluation would leave: every row of the scorecard, repeated answers, failures, judged gates.

In:  nothing.
Out: JSON values with believable numbers, the same every time.
Does not know: the report, models.
"""

from __future__ import annotations

import random
from typing import Any

SMOL = "smollm2-135m-instruct"


def reading(value: float | None, low: float | None, high: float | None, n: int, unit: str) -> dict[str, Any]:
    """One cell of the scorecard."""
    return {"value": value, "n": n, "low": low, "high": high, "unit": unit}


def share(value: float, n: int, half: float = 0.0) -> dict[str, Any]:
    """A share with an interval about as wide as n allows, or `half` to each side."""
    half = half or (value * (1 - value) / n) ** 0.5 * 1.96 + 0.5 / n
    return reading(value, max(0.0, value - half), min(1.0, value + half), n, "share")


def quality() -> dict[str, dict[str, dict[str, Any]]]:
    """Rows that the first version of the scorecard did not have, parts of its rows among them."""
    nobody = {"teacher": reading(None, None, None, 0, "score"), "student": reading(None, None, None, 0, "score")}
    card: dict[str, dict[str, dict[str, Any]]] = {
        "code.runs": {"teacher": share(0.88, 50), "student": share(0.46, 50), SMOL: share(0.12, 50)},
        "code.passes": {"teacher": share(0.58, 50), "student": share(0.08, 50), SMOL: share(0.0, 50, 0.06)},
        "commonsense.error": {
            "teacher": share(0.31, 200), "student": share(0.36, 200), SMOL: share(0.66, 200),
            "chance": reading(0.75, None, None, 200, "share"),
        },
        "commonsense.error_written": {
            "teacher": share(0.38, 100), "student": share(0.71, 100), SMOL: share(0.79, 100),
            "chance": reading(0.75, None, None, 100, "share"),
        },
        "stability.bleu4_variance": {"teacher": reading(0.021, 0.012, 0.03, 8, ""),
                                     "student": reading(0.034, 0.02, 0.05, 8, "")},
        "stability.bleu4": {"teacher": reading(0.22, 0.17, 0.28, 8, ""), "student": reading(0.14, 0.1, 0.2, 8, "")},
        "stability.similarity": {"teacher": reading(0.87, 0.83, 0.9, 8, ""),
                                 "student": reading(0.71, 0.66, 0.76, 8, ""), SMOL: reading(0.52, 0.46, 0.59, 8, "")},
        "stability.repetition": {"teacher": share(0.01, 8, 0.01), "student": share(0.09, 8, 0.05)},
        "stability.ended": {"teacher": share(0.92, 8, 0.06), "student": share(0.64, 8, 0.22),
                            SMOL: share(0.31, 8, 0.2)},
        "stream.gap_p50_ms": {"teacher": reading(33.9, 33.1, 35.0, 12, "ms"),
                              "student": reading(7.8, 7.6, 8.1, 12, "ms")},
        "stream.gap_p95_ms": {"teacher": reading(41.0, 38.0, 46.0, 12, "ms"),
                              "student": reading(9.6, 9.0, 11.2, 12, "ms"), SMOL: reading(11.0, 10.1, 12.4, 12, "ms")},
        "stream.garbled": {"teacher": share(0.0, 12, 0.01), "student": share(0.0, 12, 0.01)},
        "answers.broken": {"teacher": share(0.0, 40, 0.04), "student": share(0.15, 40), SMOL: share(0.62, 40)},
        "answers.looping": {"teacher": share(0.0, 40, 0.04), "student": share(0.1, 40)},
        "naturalness.mean": nobody,
        "naturalness.alpha": nobody,
        "energy.joules_per_token": {model: reading(None, None, None, 0, "J") for model in ("teacher", "student")},
        "memory.steady_mb": {"teacher": reading(561.0, 559.0, 563.0, 3, "MB"),
                             "student": reading(148.0, 147.0, 149.2, 3, "MB")},
    }  # fmt: skip
    return card | _parts()


def other_files() -> dict[str, dict[str, dict[str, Any]]]:
    """What is known of the student's other files and of a model that a user would otherwise take."""
    return {
        "size.file_mb": {
            "student-F16": reading(300.9, None, None, 1, "MB"), "student-Q8_0": reading(160.2, None, None, 1, "MB"),
            SMOL: reading(144.8, None, None, 1, "MB"),
        },
        "speed.first_token_ms": {
            "student-F16": reading(288.0, 276.0, 301.0, 12, "ms"),
            "student-Q8_0": reading(171.0, 165.0, 178.0, 12, "ms"), SMOL: reading(182.0, 174.0, 190.0, 12, "ms"),
        },
        "speed.decode_tok_s": {SMOL: reading(98.0, 95.0, 101.0, 12, "tokens/s")},
        "fidelity.kl": {"student-F16": reading(1.15, 1.08, 1.22, 40, "nats"),
                        "student-Q8_0": reading(1.152, 1.08, 1.23, 40, "nats")},
        "fidelity.top1": {"student-F16": share(0.531, 40, 0.018), "student-Q8_0": share(0.53, 40, 0.018)},
    }  # fmt: skip


def stability() -> dict[str, list[dict[str, Any]]]:
    """Ten answers of three models to three questions; the worse the model, the more it is cut off."""
    asked = {
        "周末想带老人去公园，要准备些什么？": ["带上水和外套，", "老人走得慢，中途多歇几次，", "常用的药随身带好，",
                                "看好天气再出门，", "选一条平坦的路，"],
        "怎样委婉地拒绝同事的邀请？": ["先谢谢对方，", "说明自己已有安排，", "下次有机会一定参加，", "语气诚恳就好，"],
        "为什么秋天早晚温差大？": ["秋天云少，", "夜里地面散热快，", "白天日照仍然强，", "所以早晚温差大，"],
    }  # fmt: skip
    draw = random.Random(0)
    found: dict[str, list[dict[str, Any]]] = {}
    for model, longest in (("teacher", 4), ("student", 9), (SMOL, 14)):
        found[model] = []
        for question, sentences in asked.items():
            answers = []
            for _ in range(10):
                parts = draw.choices(sentences, k=draw.randint(2, longest))
                text = "".join(parts)
                tokens = min(96, len(text) * 3 // 2 + 4)
                answers.append({"text": text[:-1] + "。", "ended": tokens < 96, "tokens": tokens})
            found[model].append({"question": question, "answers": answers})
    return found


def failures() -> list[dict[str, Any]]:
    """Three failed programs, and more commonsense questions than anybody reads."""
    program = "```python\ndef shorten_title(title, limit):\n    return title[:limit] + {}\n```"
    code = [
        {
            "kind": "code", "id": f"code-task-{number:02d}",
            "question": "写 shorten_title(title, limit)：标题超过 limit 个字就截短，末尾接上 \"...\"。",
            "expected": 'assert shorten_title("今天天气不错", 4) == "今天天气..."',
            "teacher": program.format('"..."'), "teacher_right": number != 1,
            "student": program.format('"…" * limit  # 标题太长的时候就在后面补上省略号，一直补到够长为止'),
            "why": "AssertionError",
        }
        for number in (1, 2, 3)
    ]  # fmt: skip
    commonsense = [
        {
            "kind": "commonsense", "id": f"everyday-cs-{number:02d}",
            "question": "地上撒了一层饼干渣，她从门后拿来一把（ ）。\nA. 梳子\nB. 锤子\nC. 扫帚\nD. 锯子",
            "expected": "C. 扫帚", "teacher": "C", "teacher_right": number % 3 > 0,
            "student": "A. 梳子是用来梳头的。" if number % 5 else "", "why": "chose A",
        }
        for number in range(1, 27)
    ]  # fmt: skip
    return [*code, *commonsense]


def gates() -> list[dict[str, Any]]:
    """One gate in each state, as the whole scorecard is judged, rounded."""
    names = ("metric", "rule", "state", "value", "bound", "low", "high", "unit", "more")
    rows = [
        ("speed.first_token_ms", "<= 0.66 x teacher", "met", 164.8, 226.5, 158.9, 171.3, "ms", None),
        ("speed.decode_tok_s", ">= 20", "met", 126.4, 20.0, 121.7, 130.2, "tokens/s", None),
        ("size.file_mb", "<= 320", "met", 85.36, 320.0, None, None, "MB", None),
        ("code.runs", ">= teacher - 0.06", "missed", 0.46, 0.82, 0.32, 0.6, "share", None),
        ("commonsense.error", "<= teacher + 0.04", "undecided", 0.36, 0.35, 0.3, 0.43, "share", 4200),
        ("naturalness.mean", ">= 3.5", "not measured", None, 3.5, None, None, "", None),
    ]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _parts() -> dict[str, dict[str, dict[str, Any]]]:
    """Rows for each category, position, prompt length and thread count."""
    card: dict[str, dict[str, dict[str, Any]]] = {}
    for category, kl in (("everyday", 1.02), ("office", 1.11), ("code", 1.58)):
        card[f"fidelity.kl.{category}"] = {
            "teacher": reading(0.0, 0.0, 0.0, 13, "nats"), "cut": reading(6.9, 6.5, 7.2, 13, "nats"),
            "student-Q8_0": reading(kl - 0.03, kl - 0.2, kl + 0.15, 13, "nats"),
            "student": reading(kl, kl - 0.18, kl + 0.17, 13, "nats"),
        }  # fmt: skip
    for position, top1 in (("tokens_1_16", 0.44), ("tokens_17_64", 0.53), ("tokens_65_on", 0.56)):
        card[f"fidelity.top1.{position}"] = {"teacher": share(1.0, 40, 0.0001), "student": share(top1, 40, 0.03)}
    for length, wait in (("short", 90.0), ("middle", 165.0), ("long", 480.0)):
        card[f"speed.first_token_ms.{length}"] = {
            "teacher": reading(2.1 * wait, 2.0 * wait, 2.2 * wait, 6, "ms"),
            "student": reading(wait, 0.95 * wait, 1.06 * wait, 6, "ms"),
        }
    for threads, rate in (("1_threads", 126.0), ("2_threads", 61.0)):
        card[f"speed.decode_tok_s.{threads}"] = {
            "teacher": reading(29.0, 28.0, 30.0, 6, "tokens/s"),
            "student": reading(rate, 0.96 * rate, 1.05 * rate, 6, "tokens/s"),
        }
    return card
