"""What a gate may say: a bound on the student's value, alone or in terms of the teacher's.

In:  a rule as a person writes it, such as ">= teacher - 0.06".
Out: the same, checked, for a recipe; the expression that takes it apart.
Does not know: metrics, measures, verdicts.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

BOUND = re.compile(
    r"(?P<sign><=|>=)\s*(?:(?:(?P<factor>\d+(?:\.\d+)?)\s*x\s*)?(?P<teacher>teacher)"
    r"(?:\s*(?P<plus>[+-])\s*(?P<shift>\d+(?:\.\d+)?))?|(?P<limit>\d+(?:\.\d+)?))"
)


def _checked(rule: str) -> str:
    if not BOUND.fullmatch(rule.strip()):
        raise ValueError(
            'a gate reads like "<= 320", ">= teacher - 0.06", "<= 0.66 x teacher" or "<= 1.1 x teacher + 0.02"'
        )
    return rule.strip()


def _flat(gates: Any) -> Any:
    """Without quotes, TOML reads `code.runs = "…"` as a table in a table: what is meant is clear all the same."""
    if not isinstance(gates, dict):
        return gates
    flat: dict[str, Any] = {}
    for name, rule in gates.items():
        inner = _flat(rule)
        flat |= {f"{name}.{rest}": one for rest, one in inner.items()} if isinstance(inner, dict) else {name: rule}
    return flat


Bound = Annotated[str, AfterValidator(_checked)]
Gates = Annotated[dict[str, Bound], BeforeValidator(_flat)]
