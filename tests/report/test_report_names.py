"""Names for people: models, groups, the parts of a key.

In:  names as the scorecard has them.
Out: pass or fail.
Does not know: files, HTML.
"""

from __future__ import annotations

import pytest

from potstill.report.metrics import metric_named
from potstill.report.names import KINDS, in_order, mark_of, model_named, part_kind, part_named


@pytest.mark.parametrize(
    ("part", "kind", "en", "zh"),
    [
        ("tokens_1_16", "position", "tokens 1 – 16", "第 1 – 16 个词元"),
        ("tokens_65_on", "position", "token 65 onwards", "第 65 个词元起"),
        ("1_threads", "threads", "1 thread", "1 线程"),
        ("8_threads", "threads", "8 threads", "8 线程"),
        ("2_threads_active", "threads", "2 threads, busy waiting", "2 线程，忙等"),
        ("short", "length", "short prompt", "短提问"),
        ("office", "category", "office", "办公"),
        ("my own texts", "category", "my own texts", "my own texts"),
    ],
)
def test_parts(part: str, kind: str, en: str, zh: str) -> None:
    assert part_kind(part) == kind and kind in KINDS
    assert part_named(part) == (en, zh)


def test_a_part_is_measured_as_its_whole_is() -> None:
    for key in ("fidelity.kl.code", "speed.first_token_ms.long", "speed.decode_tok_s.2_threads"):
        part, whole = metric_named(key), metric_named(key.rpartition(".")[0])
        assert (part.unit, part.better, part.gain) == (whole.unit, whole.better, whole.gain)
        assert part.title.en.startswith(whole.title.en + " · ") and part.title.zh.startswith(whole.title.zh + " · ")


def test_a_part_of_a_part_keeps_its_order() -> None:
    assert metric_named("fidelity.kl.office.tokens_1_16").title.en == "KL divergence · office · tokens 1 – 16"


def test_models() -> None:
    assert model_named("student-Q8_0") == ("Student Q8_0", "学生 Q8_0")
    assert model_named("chance").zh == "随机猜测" and model_named("somebody").en == "somebody"
    names = ["chance", "mine", "student", "student-Q8_0", "student-F16", "healed", "teacher", "cut"]
    assert in_order(names) == ["teacher", "cut", "healed", "student-Q8_0", "student-F16", "student", "mine", "chance"]
    assert [mark_of(name) for name in ("teacher", "student-F16", "<b>", "chance")] == [
        "teacher", "quantised", "other", "chance",
    ]  # fmt: skip
