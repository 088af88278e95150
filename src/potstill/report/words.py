"""Words and numbers as people read them, in English and in Chinese.

In:  plain values and their units.
Out: `Words`, one text in both languages.
Does not know: runs, metrics, HTML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

DASH = "–"
LONGEST_LIST = 48
"""Items of a list that are written out."""
SHORT = 4
"""Characters of a decimal that are shown as they are."""


class Words(NamedTuple):
    """The same thing said in both languages."""

    en: str
    zh: str

    def __add__(self, other: object) -> Words:
        """Both texts joined as they are; a plain text is the same in both."""
        other_words = other if isinstance(other, Words) else same(str(other))
        return Words(self.en + other_words.en, self.zh + other_words.zh)


def same(text: str) -> Words:
    """A text that needs no translation."""
    return Words(text, text)


def join(parts: list[Words], en: str, zh: str) -> Words:
    """Several texts in a row, with each language's own separator."""
    return Words(en.join(part.en for part in parts), zh.join(part.zh for part in parts))


NOT_MEASURED = Words("not measured", "未测")

UNITS = {
    "ms": Words(" ms", " 毫秒"),
    "s": Words(" s", " 秒"),
    "MB": Words(" MB", " MB"),
    "nats": Words(" nats", " 纳特"),
    "tokens/s": Words(" tokens/s", " 词元/秒"),
    "characters/s": Words(" characters/s", " 字符/秒"),
    "tokens": Words(" tokens", " 词元"),
    "bytes": Words(" bytes", " 字节"),
    "points": Words(" points", " 个百分点"),
    "J/token": Words(" J/token", " 焦/词元"),
}
UNITLESS = ("", "score", "perplexity", "1–5", "alpha")


def is_share(unit: str) -> bool:
    """Whether a value of this unit is a part of a whole, 0 to 1, which people read as percent."""
    return unit == "share"


def rounded(value: float) -> str:
    """Three significant digits, thousands separated; never an exponent for what a person can read."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 99.95:
        text = f"{size:,.0f}"
    elif size >= 0.0001:
        # Decimals are counted after rounding, or 9.999 would read 10.00.
        decimals = 2 - math.floor(math.log10(float(f"{size:.2e}")))
        text = f"{size:.{decimals}f}"
    else:
        text = f"{size:.1e}"
    return f"−{text}" if value < 0 else text


def number(value: float | None, unit: str) -> Words:
    """The bare number of a quantity, a share as percent; what stands before its unit."""
    if value is None:
        return NOT_MEASURED
    if is_share(unit):
        percent = 100 * value
        return same(f"{percent:.1f}%".replace("-", "−") if math.isfinite(percent) else rounded(percent))
    return same(rounded(value))


def interval(low: float | None, high: float | None, unit: str) -> Words | None:
    """`1.08 – 1.29`; None where an end is missing."""
    return None if low is None or high is None else number(low, unit) + " – " + number(high, unit)


def in_brackets(words: Words | None) -> Words:
    """` (1.08 – 1.29)`, to stand behind a number; nothing for None."""
    return Words(f" ({words.en})", f"（{words.zh}）") if words else same("")


def unit_words(unit: str) -> Words:
    """What stands behind a number, its space included; nothing for shares, whose % belongs to the number."""
    if is_share(unit) or unit in UNITLESS:
        return same("")
    return UNITS.get(unit, same(f" {unit}"))


def quantity(value: float | None, unit: str) -> Words:
    """A number with its unit."""
    return NOT_MEASURED if value is None else number(value, unit) + unit_words(unit)


def tidy(value: float, unit: str) -> Words:
    """An end or a tick of an axis, where trailing zeros would only be noise."""
    text = number(value, unit).en
    digits = text.removesuffix("%")
    digits = digits.rstrip("0").rstrip(".") if "." in digits and "e" not in digits else digits
    return same(digits + "%" * text.endswith("%"))


def count(value: float) -> Words:
    """A whole number."""
    return same(f"{value:,.0f}")


def duration(seconds: float) -> Words:
    """Time a person waits: `3 min 12 s`."""
    if seconds < 59.95:
        return same(f"{seconds:.1f}") + UNITS["s"]
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return Words(f"{hours} h {minutes} min", f"{hours} 小时 {minutes} 分")
    return Words(f"{minutes} min {rest} s", f"{minutes} 分 {rest} 秒")


def megabytes(amount: float) -> Words:
    """Space on a disk or in memory; 1 MB is 10⁶ bytes."""
    if amount >= 999.5:
        return same(f"{amount / 1000:.2f} GB")
    if amount >= 99.95:
        return same(f"{amount:.0f} MB")
    return same(f"{amount:.1f} MB" if amount >= 0.1 else f"{amount * 1000:.1f} kB")


def millions(parameters: float) -> Words:
    """A number of parameters: `149.8M`."""
    return same(f"{parameters / 1e6:.1f}M" if parameters >= 1e6 else f"{parameters:,.0f}")


def anything(value: Any, names: Mapping[str, Words]) -> Words:
    """Any JSON value in a line; `names` are words for keys and texts that have any."""
    if value is None:
        return same(DASH)
    if isinstance(value, bool):
        return Words("yes", "是") if value else Words("no", "否")
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        # A setting such as 0.7 was typed by a person, 0.70000 would pretend to a measurement.
        return same(repr(value) if len(repr(value)) <= SHORT else rounded(value))
    if isinstance(value, dict):
        inner = [
            names.get(key, same(key)) + " " + _bracketed(one, names)
            for key, one in value.items()
            if one not in ({}, [])
        ]
        return join(inner, ", ", "，") if inner else same(DASH)
    if isinstance(value, list):
        shown = [_bracketed(one, names) for one in value[:LONGEST_LIST]]
        rest = len(value) - len(shown)
        more = [Words(f"{rest} more", f"另有 {rest} 项")] if rest else []
        return join(shown + more, ", ", "，") if shown else same(DASH)
    return names.get(str(value), same(str(value)))


Table = tuple[str, list[str], list[list[str]]]
"""Title, columns and rows of text, for a terminal."""


def plain(value: float, sign: str = "") -> str:
    """Three significant digits for a table of plain text; no exponent for what a person can read."""
    return f"{value:{sign}.3g}" if abs(value) < 99.95 else f"{value:{sign}.0f}"


def with_ends(
    value: float, low: float | None, high: float | None, *, scale: float = 1.0, sign: str = "", between: str = "–"
) -> str:
    """`1.19 [1.08–1.29]`; the number alone where an end is missing. All are multiplied by `scale`."""
    text = plain(scale * value, sign)
    if low is None or high is None:
        return text
    return f"{text} [{plain(scale * low, sign)}{between}{plain(scale * high, sign)}]"


def json_number(value: object) -> float | None:
    """A number of a JSON file; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _bracketed(value: Any, names: Mapping[str, Words]) -> Words:
    words = anything(value, names)
    return Words("(", "（") + words + Words(")", "）") if isinstance(value, dict | list) else words


def without_folders(value: Any) -> Any:
    """The same JSON with every absolute path cut to its name: a page that is passed on tells nobody's folders."""
    if isinstance(value, dict):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(one) for one in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value
