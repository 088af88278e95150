"""Stage `prompts`: what the teacher is asked, and what is held out.

In:  the golden 200 that ship with potstill, files of the recipe, the evaluation sets (to keep away from).
Out: `prompts/`: `prompts.jsonl`, `dropped.jsonl`, `report.json`.
Does not know: the teacher, its answers.
"""

from __future__ import annotations

from potstill.prompts.collection import collect
from potstill.prompts.prompt import Prompt, golden, read_prompts, write_prompts

__all__ = ["Prompt", "collect", "golden", "read_prompts", "write_prompts"]
