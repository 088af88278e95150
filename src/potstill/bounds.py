"""What a gate may say: a bound on the student's value, alone or in terms of the teacher's.

In:  a rule as a person writes it, such as ">= teacher - 0.06".
Out: the same, checked, for a recipe; the expression that takes it apart.
Does not know: metrics, measures, verdicts.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

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


Bound = Annotated[str, AfterValidator(_checked)]
