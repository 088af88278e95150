"""What an answer depends on beside the teacher and the prompt.

In:  the recipe's section `answers` and its seed.
Out: settings to compare and to keep; each answer's own seed.
Does not know: engines, files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from potstill.recipe import AnswersSection

if TYPE_CHECKING:
    from potstill.models.engine import Sampling

Settings = Mapping[str, float | int]
NAMES = ("temperature", "top_p", "top_k", "repeat_penalty", "max_tokens", "context")
"""Keys of the recipe that change what a teacher writes."""


def settings_of(section: AnswersSection) -> dict[str, float | int]:
    """What must be equal for one answer to stand in for another."""
    return {name: getattr(section, name) for name in NAMES}


def sampling_for(section: AnswersSection, seed: int, max_tokens: int | None = None) -> Sampling:
    """What a writer is told; every answer has a seed of its own beside it.

    Args:
        max_tokens: the longest answer; None: the section's.
    """
    from potstill.models.engine import Sampling

    names = ("temperature", "top_p", "top_k", "repeat_penalty")
    longest = section.max_tokens if max_tokens is None else max_tokens
    return Sampling(**{name: getattr(section, name) for name in names}, seed=seed, max_tokens=longest)


def sampling_of(settings: Settings, seed: int, prompt_id: str) -> dict[str, float | int]:
    """What is kept beside an answer: the settings of the draw, and this answer's own seed."""
    drawn = {name: value for name, value in settings.items() if name != "context"}
    return {**drawn, "seed": answer_seed(seed, prompt_id)}


def answer_seed(seed: int, prompt_id: str) -> int:
    """An answer's own seed, in [0, 2³¹): nothing else in the run changes it."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{prompt_id}".encode()).digest()[:4], "little") >> 1
