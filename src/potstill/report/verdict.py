"""Ship it or not: the gates of the recipe in plain sentences.

In:  judged gates: for each its rule, the student's value and interval, the bound, and the state.
Out: a `Ruling`.
Does not know: how a gate is judged, HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from potstill.bounds import BOUND
from potstill.evaluate.gates import MOST_MORE, on_the_bound, sample_of
from potstill.report.material import Json
from potstill.report.metrics import Metric, metric_named
from potstill.report.words import (
    Words,
    in_brackets,
    interval,
    is_share,
    join,
    json_number,
    quantity,
    same,
    unit_words,
)

STATES = {
    "missed": Words("Missed", "未达到"),
    "undecided": Words("Undecided", "未定"),
    "not measured": Words("Not measured", "未测"),
    "met": Words("Met", "达到"),
}
"""In the order they are read in: what stands in the way comes first."""
HEADLINES = {
    "stop": Words("Don't ship", "不宜发布"),
    "undecided": Words("Undecided", "尚不能定"),
    "ship": Words("Ship", "可以发布"),
}

SAMPLES = {
    "round": "轮",
    "question": "道题",
    "answer": "条答案",
    "task": "道任务",
    "rated conversation": "次评分对话",
    "sample": "个样本",
}
"""What is drawn once more to make an interval narrower, in Chinese."""


@dataclass(frozen=True)
class GateLine:
    """One gate: what is demanded, what was measured, and what would decide it where nothing has."""

    state: str
    called: Words
    metric: Metric
    demand: Words
    measured: Words
    more: Words


@dataclass(frozen=True)
class Ruling:
    """All gates together."""

    state: Literal["ship", "stop", "undecided"]
    headline: Words
    summary: Words
    lines: tuple[GateLine, ...]


def ruling(gates: Sequence[Json]) -> Ruling | None:
    """What the gates say together; None where there are none."""
    if not gates:
        return None
    states = [str(gate.get("state")) for gate in gates]
    state: Literal["ship", "stop", "undecided"] = "undecided"
    if "missed" in states:
        state = "stop"
    elif all(one == "met" for one in states):
        state = "ship"
    known = list(STATES)
    lines = sorted(map(_line, gates), key=lambda line: known.index(line.state) if line.state in STATES else len(known))
    return Ruling(state, HEADLINES[state], _summary(states), tuple(lines))


def rule_words(rule: str, metric: Metric, unit: str) -> Words:
    """A rule such as `<= 0.66 x teacher` as people say it; one that can't be read stands as it is."""
    found = BOUND.fullmatch(rule.strip())
    if not found:
        return same(rule)
    unit = unit or metric.unit
    words = Words("at most ", "不超过") if found["sign"] == "<=" else Words("at least ", "不低于")
    if found["limit"]:
        return words + Words("", " ") + _typed(found["limit"], unit, added=False)
    if found["factor"]:
        words += Words(f"{found['factor']} × the teacher's", f"教师的 {found['factor']} 倍")
    else:
        words += Words("the teacher's", "教师")
    if found["shift"]:
        sign, shift = found["plus"], _typed(found["shift"], unit, added=True)
        words += Words(" plus " if sign == "+" else " minus ", "加 " if sign == "+" else "减 ") + shift
    return words


def _typed(text: str, unit: str, added: bool) -> Words:
    """An amount as somebody typed it; a share that is added to another is points, not percent."""
    amount = float(text)
    if not is_share(unit):
        return same(f"{amount:g}") + unit_words(unit)
    percent = f"{100 * amount:g}"
    return same(percent) + unit_words("points") if added else same(f"{percent}%")


def _line(gate: Json) -> GateLine:
    state = str(gate.get("state"))
    metric = metric_named(str(gate.get("metric")))
    unit = str(gate.get("unit") or metric.unit)
    rule, bound = str(gate.get("rule") or ""), json_number(gate.get("bound"))
    demand = rule_words(rule, metric, unit)
    if bound is not None and "teacher" in rule:
        demand += Words(", that is ", "，即 ") + quantity(bound, unit)
    more = _more(gate, json_number(gate.get("value"))) if state == "undecided" else same("")
    return GateLine(state, STATES.get(state, same(state)), metric, demand, _measured(gate, metric, unit), more)


def _measured(gate: Json, metric: Metric, unit: str) -> Words:
    value, low, high = (json_number(gate.get(name)) for name in ("value", "low", "high"))
    if value is None:
        return metric.absent
    return quantity(value, unit) + in_brackets(interval(low, high, unit))


def _more(gate: Json, value: float | None) -> Words:
    """How many more samples would decide, in the noun of what is drawn once more."""
    more, one = json_number(gate.get("more")), sample_of(str(gate.get("metric")))
    if more is None:
        if on_the_bound(value, json_number(gate.get("bound"))):
            return Words(
                "It lies on the bound, where no number of samples decides.", "恰在界限上，再多样本也无法定论。"
            )
        return Words("Its error is not known, so that nothing decides yet.", "误差未知，尚无法定论。")
    noun, zh = one if more == 1 else f"{one}s", SAMPLES[one]
    if more >= MOST_MORE:
        most = f"{MOST_MORE:,}"
        return Words(f"{most} more {noun} or even more would decide it.", f"再测 {most} {zh}或更多才能定论。")
    return Words(f"About {more:,.0f} more {noun} would decide it.", f"约再测 {more:,.0f} {zh}即可定论。")


def _summary(states: Sequence[str]) -> Words:
    counted = [(name, states.count(name)) for name in STATES if name in states]
    told = [Words(f"{amount} {STATES[name].en.lower()}", f"{amount} 项{STATES[name].zh}") for name, amount in counted]
    many = len(states)
    of_all = Words(f"{many} gate{'s' if many != 1 else ''}: ", f"共 {many} 道关卡：")
    return of_all + join(told, ", ", "，")
